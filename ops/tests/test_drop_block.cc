// DropBlock on random shapes and attributes against the oracle.
#include "oracle.h"

using namespace structdrop;
using testing::Node;

namespace {

Dims random_shape(std::mt19937_64& random, int rank, std::int64_t most) {
  Dims shape(rank);
  for (int axis = 0; axis < rank; ++axis) {
    shape[axis] = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(most)) + 1;
  }
  return shape;
}

Node random_node(std::mt19937_64& random, const Dims& shape) {
  Node node;
  node.is_drop_block = true;
  node.element = static_cast<Element>(random() % kElementCount);
  const int rank = shape.rank();
  const int channel = static_cast<int>(random() % static_cast<std::uint64_t>(rank - 1)) + 1;
  node.attributes.channel_axis = random() % 2 ? channel : channel - rank;
  const std::size_t blocks = random() % 2 ? 1 : static_cast<std::size_t>(rank - 2);
  for (std::size_t i = 0; i < blocks; ++i) {
    node.attributes.block_size.push_back(1 + static_cast<std::int64_t>(random() % 9));
  }
  if (random() % 4 == 0) node.attributes.shared_axes.push_back(0);
  if (random() % 4 == 0) node.attributes.shared_axes.push_back(node.attributes.channel_axis);
  node.attributes.seed_region = static_cast<std::int64_t>(random() % 2);
  node.attributes.normalize = static_cast<std::int64_t>(random() % 3);
  node.attributes.check();
  constexpr float ratios[] = {0.0f, 0.01f, 0.1f, 0.35f, 0.8f, 0.999f, 1.0f};
  node.ratio = ratios[random() % 7];
  node.stream = Stream{random(), random() % 5, 0};
  node.layout = drop_block_layout(shape, node.attributes);
  return node;
}

void check(std::mt19937_64& random, const Node& node, bool blocks = true) {
  const std::vector<std::uint8_t> data =
      testing::random_bytes(random, node.layout.data.elements() * size_of(node.element));
  if (!EXPECT(testing::keeps_its_promises(node, data, blocks))) {
    std::printf("  shape %s block %s channel %lld shared %s region %lld normalize %lld ratio %g\n",
                to_string(node.layout.data).c_str(), to_string(node.attributes.block_size).c_str(),
                static_cast<long long>(node.attributes.channel_axis),
                to_string(node.attributes.shared_axes).c_str(),
                static_cast<long long>(node.attributes.seed_region),
                static_cast<long long>(node.attributes.normalize), static_cast<double>(node.ratio));
  }
}

}  // namespace

TEST(small_maps_of_every_rank) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 600; ++round) {
    const int rank = 3 + round % 4;
    check(random, random_node(random, random_shape(random, rank, rank < 5 ? 12 : 6)));
  }
}

TEST(large_maps) {
  std::mt19937_64 random(6);
  for (int round = 0; round < 12; ++round) {
    Dims shape = random_shape(random, 4, 40);
    shape[0] += 3;
    shape[1] += 60;
    check(random, random_node(random, shape), false);
  }
}

TEST(wide_blocks_span_words) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 20; ++round) {
    Node node = random_node(random, Dims{3, 2, 400});
    node.attributes.block_size = {1 + static_cast<std::int64_t>(random() % 300)};
    check(random, node);
  }
}

TEST(empty_tensors) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 100; ++round) {
    Dims shape = random_shape(random, 4, 5);
    shape[static_cast<int>(random() % 4)] = 0;
    check(random, random_node(random, shape));
  }
}

TEST(one_mask_for_a_batch_of_none) {
  // The mask has a sample, and a scale, though the data has none.
  std::mt19937_64 random(11);
  for (int round = 0; round < 50; ++round) {
    Node node = random_node(random, Dims{0, 3, 7, 8});
    node.attributes.shared_axes = {0};
    node.attributes.normalize = 2;
    node.ratio = 0.3f;
    node.layout = drop_block_layout(Dims{0, 3, 7, 8}, node.attributes);
    check(random, node);
  }
}

TEST(everything_dropped_is_zero_not_nan) {
  std::mt19937_64 random(9);
  Node node = random_node(random, Dims{2, 2, 1, 1});
  node.attributes.shared_axes = {};
  node.attributes.normalize = 1;
  node.ratio = 0.999999f;
  node.layout = drop_block_layout(Dims{2, 2, 1, 1}, node.attributes);
  check(random, node);
}

TEST(runs_differ_and_replay) {
  std::mt19937_64 random(10);
  Node node = random_node(random, Dims{2, 8, 20, 20});
  node.ratio = 0.3f;
  node.attributes.block_size = {3};
  const std::vector<std::uint8_t> data(node.layout.data.elements() * size_of(node.element), 1);
  const testing::Outputs first = testing::run(node, data);
  EXPECT(testing::run(node, data) == first);
  ++node.stream.run;
  EXPECT(!(testing::run(node, data).mask == first.mask));
  --node.stream.run;
  ++node.stream.seed;
  EXPECT(!(testing::run(node, data).mask == first.mask));
}

TEST(seed_probability_gives_the_expected_loss) {
  // A cell far from the edge is kept with probability (1 - gamma)^9 for blocks of 3 x 3.
  Node node;
  node.is_drop_block = true;
  node.attributes.block_size = {3};
  node.layout = drop_block_layout(Dims{64, 64, 20, 20}, node.attributes);
  for (const float ratio : {0.1f, 0.7f}) {
    node.ratio = ratio;
    node.stream.seed = 77;
    const std::vector<std::uint8_t> data(node.layout.data.elements() * 4);
    const testing::Outputs outputs = testing::run(node, data);
    const double gamma = static_cast<double>(ratio) * 400 / (9 * 18 * 18);
    double kept = 0;
    for (std::size_t map = 0; map < 64 * 64; ++map) kept += outputs.mask[map * 400 + 10 * 20 + 10];
    const double p = std::pow(1 - gamma, 9), n = 64 * 64;
    EXPECT(std::abs(kept - n * p) < 5 * std::sqrt(n * p * (1 - p)));
  }
}
