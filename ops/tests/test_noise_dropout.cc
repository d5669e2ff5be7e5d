// SpatialDropout, NoiseShapeDropout, inference mode and gradient against the oracle.
#include "oracle.h"

using namespace structdrop;
using testing::Node;

namespace {

Dims random_shape(std::mt19937_64& random, int rank) {
  Dims shape(rank);
  for (int axis = 0; axis < rank; ++axis) {
    const std::uint64_t most = random() % 3 == 0 ? 70 : 6;
    shape[axis] = static_cast<std::int64_t>(random() % most) + (random() % 20 != 0);
  }
  return shape;
}

Node random_node(std::mt19937_64& random) {
  Node node;
  node.element = static_cast<Element>(random() % kElementCount);
  const int rank = 1 + static_cast<int>(random() % 5);
  const Dims shape = random_shape(random, rank);
  if (rank > 1 && random() % 2) {
    node.layout = spatial_layout(shape, random() % 2 ? 1 : -1);
  } else {
    std::vector<std::int64_t> noise(static_cast<std::size_t>(rank));
    for (std::int64_t& entry : noise) entry = static_cast<std::int64_t>(random() % 2);
    node.layout = noise_shape_layout(shape, noise);
    node.scale_by_keep = random() % 2;
  }
  constexpr float ratios[] = {0.0f, 0.01f, 0.1f, 0.5f, 0.97f, 1.0f};
  node.ratio = ratios[random() % 6];
  node.stream = Stream{random(), random() % 5, 0};
  return node;
}

std::vector<std::uint8_t> data_for(std::mt19937_64& random, const Node& node) {
  return testing::random_bytes(random, node.layout.data.elements() * size_of(node.element));
}

}  // namespace

TEST(masks_of_every_shape) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 1500; ++round) {
    const Node node = random_node(random);
    if (!EXPECT(testing::keeps_its_promises(node, data_for(random, node)))) {
      std::printf("  shape %s mask %s ratio %g\n", to_string(node.layout.data).c_str(),
                  to_string(node.layout.mask).c_str(), static_cast<double>(node.ratio));
    }
  }
}

TEST(large_tensors_in_both_layouts) {
  std::mt19937_64 random(12);
  for (const Dims& shape : {Dims{8, 64, 28, 28}, Dims{3, 31, 33, 35}, Dims{4, 7, 7, 512},
                            Dims{2, 50000, 3}, Dims{30000, 2, 2}}) {
    for (const int channel : {1, -1}) {
      Node node;
      node.element = static_cast<Element>(random() % kElementCount);
      node.layout = spatial_layout(shape, channel);
      node.ratio = 0.25f;
      EXPECT(testing::keeps_its_promises(node, data_for(random, node)));
    }
  }
}

TEST(plain_dropout_keeps_its_rate) {
  Node node;
  node.layout = noise_shape_layout(Dims{1000, 1000}, {0, 0});
  const std::vector<std::uint8_t> data(node.layout.data.elements() * 4);
  for (const float ratio : {0.001f, 0.03f, 0.2f, 0.9f}) {
    node.ratio = ratio;
    double kept = 0;
    for (const std::uint8_t byte : testing::run(node, data).mask) kept += byte;
    const double p = 1 - static_cast<double>(ratio), n = 1e6;
    EXPECT(std::abs(kept - n * p) < 5 * std::sqrt(n * p * (1 - p)));
  }
}

TEST(inference_mode_is_the_identity) {
  std::mt19937_64 random(13);
  const Serial serial;
  Scratch scratch;
  for (const Simd* simd : testing::simd_levels()) {
    const Node node = random_node(random);
    const std::vector<std::uint8_t> data = data_for(random, node);
    std::vector<std::uint8_t> output(data.size()), mask(node.layout.mask.elements());
    float scale[3] = {};
    identity({*simd, serial, scratch}, node.layout, 3,
             {node.element, data.data(), output.data(), mask.data(), scale});
    EXPECT(output == data);
    for (const std::uint8_t byte : mask) EXPECT(byte == 1);
    EXPECT(scale[0] == 1 && scale[1] == 1 && scale[2] == 1);
  }
}

TEST(gradient_is_exact) {
  std::mt19937_64 random(14);
  for (int round = 0; round < 600; ++round) {
    const Node node = random_node(random);
    const std::vector<std::uint8_t> grad = data_for(random, node);
    std::vector<std::uint8_t> mask(node.layout.mask.elements());
    for (std::uint8_t& byte : mask) byte = random() % 3 != 0;
    const bool per_sample = random() % 2;
    const std::size_t samples =
        per_sample ? static_cast<std::size_t>(node.layout.data[0]) : std::size_t{1};
    std::vector<float> scale(samples);
    for (float& entry : scale) entry = 0.5f + static_cast<float>(random() % 100) / 30;
    if (samples == 0) scale = {1};
    EXPECT(testing::gradient_is_exact(node.element, node.layout.data, node.layout.mask, grad, mask,
                                      scale, per_sample));
  }
}
