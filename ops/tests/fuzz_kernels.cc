// Fuzz target: shapes, attributes and ratios from bytes; whatever passes the checks must keep the
// kernels' promises, whatever does not must be refused with an Error.
#include <cstdlib>

#define main unused_main
#include "oracle.h"
#undef main

using namespace structdrop;

namespace {

// Reads numbers off the input; zeros once it is used up.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  std::uint8_t byte() { return at_ < size_ ? data_[at_++] : std::uint8_t{0}; }
  // Mostly small, sometimes wild.
  std::int64_t integer(int most) {
    const std::uint8_t kind = byte();
    if (kind < 240) return kind % (most + 1);
    std::uint64_t wild = 0;
    for (int i = 0; i < 8; ++i) wild = (wild << 8) | byte();
    return kind < 244 ? -static_cast<std::int64_t>(wild & 15) : static_cast<std::int64_t>(wild);
  }
  float number() {
    const std::uint8_t kind = byte();
    if (kind < 200) return static_cast<float>(kind % 101) / 100;
    std::uint32_t bits = 0;
    for (int i = 0; i < 4; ++i) bits = (bits << 8) | byte();
    return bit_cast<float>(bits);
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t at_ = 0;
};

std::vector<std::int64_t> integers(Bytes& bytes, int most) {
  std::vector<std::int64_t> values(bytes.byte() % 7);
  for (std::int64_t& value : values) value = bytes.integer(most);
  return values;
}

// A shape of up to some ten thousand elements.
Dims shape_of(Bytes& bytes) {
  Dims shape(bytes.byte() % 7);
  std::uint64_t elements = 1;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    shape[axis] = bytes.byte() % (elements > 2000 ? 4 : 33);
    elements *= static_cast<std::uint64_t>(shape[axis]);
  }
  return shape;
}

// The gradient operator: any mask that broadcasts, one scale or one per sample.
void run_gradient(Bytes& bytes, Element element) {
  const Dims data = shape_of(bytes);
  Dims mask_dims = data;
  for (int axis = 0; axis < data.rank(); ++axis) {
    if (bytes.byte() % 3 == 0) mask_dims[axis] = 1;
  }
  const bool per_sample = data.rank() > 0 && bytes.byte() % 2 == 1;
  std::vector<float> scale(per_sample ? static_cast<std::size_t>(data[0]) : std::size_t{1});
  for (float& entry : scale) {
    entry = bytes.number();
    // Which of two NaNs a product keeps is nobody's promise; no operator makes such a scale.
    if (std::isnan(entry)) entry = 1;
  }
  if (scale.empty()) scale = {1};
  std::mt19937_64 random(bytes.byte());
  std::vector<std::uint8_t> mask(mask_dims.elements());
  for (std::uint8_t& byte : mask) byte = static_cast<std::uint8_t>(random() & 1);
  const std::vector<std::uint8_t> grad =
      testing::random_bytes(random, data.elements() * size_of(element));
  if (!testing::gradient_is_exact(element, data, mask_dims, grad, mask, scale, per_sample)) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  testing::Node node;
  node.element = static_cast<Element>(bytes.byte() % kElementCount);
  const std::uint8_t kind = bytes.byte() % 4;
  if (kind == 3) {
    run_gradient(bytes, node.element);
    return 0;
  }
  const Dims shape = shape_of(bytes);
  node.ratio = bytes.number();
  node.stream = Stream{bytes.byte(), bytes.byte(), 0};
  try {
    check_ratio(node.ratio);
    if (kind == 0) {
      node.layout = spatial_layout(shape, bytes.integer(6));
    } else if (kind == 1) {
      node.scale_by_keep = bytes.byte() % 2;
      node.layout = noise_shape_layout(shape, integers(bytes, 1));
    } else {
      node.is_drop_block = true;
      node.attributes.seed_region = bytes.integer(1);
      node.attributes.normalize = bytes.integer(2);
      node.attributes.channel_axis = bytes.integer(5);
      node.attributes.shared_axes = integers(bytes, 4);
      node.attributes.block_size = integers(bytes, 12);
      node.attributes.check();
      node.layout = drop_block_layout(shape, node.attributes);
    }
  } catch (const Error& error) {
    if (std::strstr(error.what(), "allowed") == nullptr &&
        std::strstr(error.what(), "needed") == nullptr) {
      std::printf("this error does not say what is allowed: %s\n", error.what());
      std::abort();
    }
    return 0;
  }
  std::mt19937_64 random(size);
  const std::vector<std::uint8_t> values =
      testing::random_bytes(random, node.layout.data.elements() * size_of(node.element));
  if (!testing::keeps_its_promises(node, values)) std::abort();
  return 0;
}
