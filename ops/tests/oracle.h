// What a kernel has to deliver, element by element, and a way to run one.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "kernels.h"
#include "testing.h"

namespace testing {

using structdrop::Dims;
using structdrop::Element;

// One of the operators on one shape.
struct Node {
  Element element = Element::float32;
  structdrop::MaskLayout layout;
  bool is_drop_block = false;
  structdrop::DropBlockAttributes attributes;
  bool scale_by_keep = true;
  float ratio = 0;
  structdrop::Stream stream;

  std::size_t scales() const {
    if (!is_drop_block) return 1;
    return drop_block_scale_dims(layout, static_cast<structdrop::Normalize>(attributes.normalize))
        .elements();
  }
};

struct Outputs {
  std::vector<std::uint8_t> output, mask;
  std::vector<float> scale;

  bool operator==(const Outputs& other) const {
    return output == other.output && mask == other.mask && scale.size() == other.scale.size() &&
           (scale.empty() || std::memcmp(scale.data(), other.scale.data(), 4 * scale.size()) == 0);
  }
};

struct Ways {
  const structdrop::Simd* simd = &structdrop::best_simd();
  const structdrop::Parallel* parallel = nullptr;  // null: this thread
  bool in_place = false;
  bool only_output = false;
};

inline Outputs run(const Node& node, const std::vector<std::uint8_t>& data, const Ways& ways = {}) {
  const structdrop::Serial serial;
  structdrop::Scratch scratch;
  const structdrop::Environment environment{*ways.simd, ways.parallel ? *ways.parallel : serial,
                                            scratch};
  Outputs outputs;
  outputs.output = ways.in_place ? data : std::vector<std::uint8_t>(data.size(), 0xcc);
  structdrop::Tensors tensors;
  tensors.element = node.element;
  tensors.data = ways.in_place ? outputs.output.data() : data.data();
  tensors.output = outputs.output.data();
  if (!ways.only_output) {
    outputs.mask.assign(node.layout.mask.elements(), 0xcc);
    outputs.scale.assign(node.scales(), -1);
    tensors.mask = outputs.mask.data();
    tensors.scale = outputs.scale.data();
  }
  if (node.is_drop_block) {
    drop_block(environment, node.layout, node.attributes, node.ratio, node.stream, tensors);
  } else {
    noise_dropout(environment, node.layout, node.ratio, node.scale_by_keep, node.stream, tensors);
  }
  return outputs;
}

// Odometer over a shape.
inline bool step(Dims& at, const Dims& shape) {
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    if (++at[axis] < shape[axis]) return true;
    at[axis] = 0;
  }
  return false;
}

inline std::size_t flat(const Dims& at, const Dims& shape) {
  std::size_t index = 0;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    index = index * static_cast<std::size_t>(shape[axis]) +
            static_cast<std::size_t>(shape[axis] == 1 ? 0 : at[axis]);
  }
  return index;
}

// where(mask, data * scale, 0), computed wide and rounded once.
inline std::vector<std::uint8_t> selected(Element element, const Dims& data_dims,
                                          const Dims& mask_dims,
                                          const std::vector<std::uint8_t>& data,
                                          const std::vector<std::uint8_t>& mask,
                                          const std::vector<float>& scale) {
  const std::size_t size = size_of(element);
  std::vector<std::uint8_t> output(data.size());
  if (data_dims.elements() == 0) return output;
  Dims at(data_dims.rank(), 0);
  std::size_t index = 0;
  do {
    const std::size_t sample = scale.size() == 1 ? 0 : static_cast<std::size_t>(at[0]);
    const std::uint8_t* in = data.data() + index * size;
    std::uint8_t* out = output.data() + index * size;
    ++index;
    if (mask[flat(at, mask_dims)] == 0) continue;
    const auto put = [&](auto value) { std::memcpy(out, &value, sizeof(value)); };
    const auto get = [&](auto value) {
      std::memcpy(&value, in, sizeof(value));
      return value;
    };
    switch (element) {
      case Element::float32:
        put(get(float{}) * scale[sample]);
        break;
      case Element::float64:
        put(get(double{}) * static_cast<double>(scale[sample]));
        break;
      case Element::float16:
        put(structdrop::narrow_half(widen(get(structdrop::Half{})) * scale[sample]));
        break;
      case Element::bfloat16:
        put(structdrop::narrow_bfloat(widen(get(structdrop::BFloat{})) * scale[sample]));
        break;
    }
  } while (step(at, data_dims));
  return output;
}

// Whether what is dropped is a union of blocks, each clipped and placed as the rules say.
inline bool is_union_of_blocks(const Node& node, const std::vector<std::uint8_t>& mask) {
  const Dims& shape = node.layout.mask;
  const std::vector<std::int64_t> sizes = block_per_axis(node.attributes, shape.rank() - 2);
  if (shape.elements() == 0) return true;
  std::vector<bool> covered(mask.size());
  Dims seed(shape.rank(), 0);
  do {
    Dims first = seed, extent(shape.rank());
    bool may_seed = true;
    for (int axis = 1, spatial = 0; axis < shape.rank(); ++axis) {
      if (axis == node.layout.channel) continue;
      const std::int64_t size = shape[axis];
      const std::int64_t block = std::min(sizes[static_cast<std::size_t>(spatial++)], size);
      const std::int64_t low = seed[axis] - block / 2;
      const std::int64_t high = seed[axis] + (block - 1) / 2;
      if (node.attributes.seed_region == 0) may_seed = may_seed && low >= 0 && high < size;
      first[axis] = std::max<std::int64_t>(low, 0);
      extent[axis] = std::min(high, size - 1) - first[axis] + 1;
    }
    if (!may_seed) continue;
    std::vector<std::size_t> cells;
    Dims offset(shape.rank(), 0);
    bool is_dropped = true;
    do {
      Dims at = first;
      for (int axis = 0; axis < shape.rank(); ++axis) at[axis] += offset[axis];
      cells.push_back(flat(at, shape));
      is_dropped = mask[cells.back()] == 0;
    } while (is_dropped && step(offset, extent));
    if (!is_dropped) continue;
    for (const std::size_t cell : cells) covered[cell] = true;
  } while (step(seed, shape));
  for (std::size_t i = 0; i < mask.size(); ++i) {
    if ((mask[i] == 0) != covered[i]) return false;
  }
  return true;
}

// The scale that the rules give for a mask.
inline std::vector<float> expected_scale(const Node& node, const std::vector<std::uint8_t>& mask) {
  if (!node.is_drop_block) {
    return {node.scale_by_keep && node.ratio < 1 ? 1.0f / (1.0f - node.ratio) : 1.0f};
  }
  if (node.attributes.normalize == 0) return {1.0f};
  const std::size_t samples = node.scales();
  std::vector<float> scale;
  const std::size_t size =
      node.attributes.normalize == 2 ? node.layout.mask.elements(1) : mask.size();
  for (std::size_t sample = 0; sample < samples; ++sample) {
    std::uint64_t kept = 0;
    for (std::size_t i = 0; i < size; ++i) kept += mask[sample * size + i];
    scale.push_back(static_cast<float>(static_cast<double>(size) /
                                       static_cast<double>(std::max<std::uint64_t>(kept, 1))));
  }
  return scale;
}

// Everything that one node promises: laws, levels, threads, in place, outputs left out.
inline bool keeps_its_promises(const Node& node, const std::vector<std::uint8_t>& data,
                               bool check_blocks = true) {
  Ways plain;
  plain.simd = &structdrop::baseline_simd();
  const Outputs expected = run(node, data, plain);
  bool holds = true;
  const auto require = [&](bool condition, const char* what) {
    if (!condition) std::printf("  %s\n", what);
    holds = holds && condition;
  };
  for (const std::uint8_t byte : expected.mask) require(byte <= 1, "mask byte is 0 or 1");
  require(expected.scale == expected_scale(node, expected.mask), "scale");
  if (node.ratio == 0) require(expected.output == data, "ratio 0 is the identity");
  require(expected.output == selected(node.element, node.layout.data, node.layout.mask, data,
                                      expected.mask, expected.scale) ||
              node.ratio == 0,
          "output is where(mask, data * scale, 0)");
  if (node.ratio == 1) {
    for (const std::uint8_t byte : expected.mask) require(byte == 0, "ratio 1 drops everything");
  }
  if (node.is_drop_block && check_blocks && node.ratio < 1) {
    require(is_union_of_blocks(node, expected.mask), "dropped cells are whole blocks");
  }
  const Threads three(3);
  for (const structdrop::Simd* simd : simd_levels()) {
    Ways ways;
    ways.simd = simd;
    require(run(node, data, ways) == expected, "SIMD levels agree");
    ways.parallel = &three;
    ways.in_place = true;
    require(run(node, data, ways) == expected, "threads and in place agree");
    ways.only_output = true;
    require(run(node, data, ways).output == expected.output, "outputs may be left out");
  }
  return holds;
}

// What one StructuredDropoutGrad node promises: the law, levels, threads and in place.
inline bool gradient_is_exact(Element element, const Dims& data, const Dims& mask_dims,
                              const std::vector<std::uint8_t>& output_grad,
                              const std::vector<std::uint8_t>& mask,
                              const std::vector<float>& scale, bool scale_per_sample) {
  const std::vector<std::uint8_t> expected =
      selected(element, data, mask_dims, output_grad, mask, scale);
  const structdrop::Serial serial;
  const Threads three(3);
  for (const structdrop::Simd* simd : simd_levels()) {
    structdrop::Scratch scratch;
    std::vector<std::uint8_t> apart(output_grad.size(), 0xcc), in_place = output_grad;
    structured_grad({*simd, serial, scratch}, data, mask_dims, scale_per_sample, element,
                    output_grad.data(), mask.data(), scale.data(), apart.data());
    structured_grad({*simd, three, scratch}, data, mask_dims, scale_per_sample, element,
                    in_place.data(), mask.data(), scale.data(), in_place.data());
    if (apart != expected || in_place != expected) {
      std::printf("  gradient at SIMD level %s\n", simd->name);
      return false;
    }
  }
  return true;
}

}  // namespace testing
