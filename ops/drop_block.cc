// DropBlock: seeds are sampled over the positions where they may fall, grow into blocks in a bitmap
// of the mask, and the bitmap is counted and applied.
//
// There are two ways to grow, with one result. Where seeds are few, each paints its block. Where
// there are many, each sets the bit of its block's first cell, and all grow at once: a set bit
// spreads along an axis by shifting the bitmap by the axis's stride. Blocks of the valid region
// lie inside their map, so no bit crosses an edge; blocks of the whole region may be cut off, and
// are always painted.
#include <algorithm>

#include "bitmap.h"
#include "broadcast.h"
#include "kernels.h"
#include "sampler.h"

namespace structdrop {
namespace {

// One spatial axis of a map, innermost last.
struct Axis {
  std::uint64_t size;
  std::uint64_t stride;  // in elements of the mask
  std::uint64_t block;   // clipped to the map
  Divisor positions;     // where a seed may fall
};

struct Geometry {
  Axis axes[kMaxRank];
  int rank = 0;
  bool whole = false;
  std::uint64_t unit_size = 1;  // elements that hold whole maps without gaps
  std::uint64_t units = 1;
  Divisor maps_per_unit;
  std::uint64_t map_stride = 0;  // between the maps of a unit
  Divisor positions;             // of one map
  double density = 1;            // seed probability per unit of ratio
  double rows = 1;               // of a block
  double shifts = 0;             // that let a bit grow into a block

  Geometry(const MaskLayout& layout, const DropBlockAttributes& attributes) {
    const Dims& mask = layout.mask;
    const std::vector<std::int64_t> block = block_per_axis(attributes, mask.rank() - 2);
    whole = attributes.seed_region == static_cast<std::int64_t>(SeedRegion::whole);
    double map = 1, area = 1;
    std::uint64_t map_positions = 1;
    for (int axis = 1; axis < mask.rank(); ++axis) {
      if (axis == layout.channel) continue;
      Axis& own = axes[rank];
      own.size = static_cast<std::uint64_t>(mask[axis]);
      own.stride = mask.elements(axis + 1);
      own.block =
          std::min(static_cast<std::uint64_t>(block[static_cast<std::size_t>(rank)]), own.size);
      const std::uint64_t fitting = own.size - own.block + 1;
      own.positions = Divisor(whole ? own.size : fitting);
      map_positions *= own.positions.value;
      for (std::uint64_t grown = 1; grown < own.block; grown *= 2) ++shifts;
      map *= static_cast<double>(own.size);
      area *= static_cast<double>(own.block) * static_cast<double>(fitting);
      ++rank;
    }
    density = map / area;
    positions = Divisor(map_positions);
    for (int axis = 0; axis < rank; ++axis) {
      // Along stride 1, a row is painted at once.
      if (axes[axis].stride != 1) rows *= static_cast<double>(axes[axis].block);
    }
    // Maps lie one after the other unless channels come after a spatial axis.
    const bool interleaved = layout.channel != 1 && mask[layout.channel] != 1;
    unit_size = mask.elements(layout.channel == 1 ? 2 : 1);
    units = static_cast<std::uint64_t>(mask[0]);
    if (interleaved) {
      maps_per_unit = Divisor(static_cast<std::uint64_t>(mask[layout.channel]));
      map_stride = mask.elements(layout.channel + 1);
    } else if (layout.channel == 1) {
      units *= static_cast<std::uint64_t>(mask[1]);
    }
  }
};

// What becomes of a seed: its whole block, or its first cell. Positions of a group are numbered
// unit by unit, map by map.
class Painter {
 public:
  Painter(const Geometry& geometry, bool whole_blocks, std::uint64_t* words,
          const std::uint64_t* end)
      : geometry_(geometry), whole_blocks_(whole_blocks), words_(words), end_(end) {}

  void bits(std::uint64_t first, std::uint64_t set) {
    for (; set != 0; set &= set - 1) {
      const std::uint64_t lowest = set & (~set + 1);
      at(first + index_of_bit(lowest));
    }
  }

  void at(std::uint64_t position) {
    const std::uint64_t map = geometry_.positions.quotient(position);
    std::uint64_t rest = position - map * geometry_.positions.value;
    std::uint64_t offset;
    if (geometry_.maps_per_unit.value == 1) {
      offset = map * geometry_.unit_size;
    } else {
      const std::uint64_t unit = geometry_.maps_per_unit.quotient(map);
      offset = unit * geometry_.unit_size +
               (map - unit * geometry_.maps_per_unit.value) * geometry_.map_stride;
    }
    for (int axis = geometry_.rank - 1; axis >= 0; --axis) {
      const Axis& own = geometry_.axes[axis];
      const std::uint64_t rows = axis > 0 ? own.positions.quotient(rest) : 0;
      const std::uint64_t at = rest - rows * own.positions.value;
      rest = rows;
      std::uint64_t start = at, end = at + own.block;
      if (geometry_.whole) {
        start = at - std::min<std::uint64_t>(at, own.block / 2);
        end = std::min(at + (own.block - 1) / 2 + 1, own.size);
      }
      offset += start * own.stride;
      length_[axis] = end - start;
    }
    if (whole_blocks_) {
      paint(0, offset);
    } else {
      set_bit(words_, offset);
    }
  }

 private:
  static unsigned index_of_bit(std::uint64_t bit) {
    unsigned index = 0;
    for (unsigned step = 32; step != 0; step /= 2) {
      if (bit >> step) {
        bit >>= step;
        index += step;
      }
    }
    return index;
  }

  void paint(int axis, std::uint64_t offset) {
    const Axis& own = geometry_.axes[axis];
    const std::uint64_t length = length_[axis];
    if (axis + 1 == geometry_.rank) {
      paint_row(offset, length, own.stride);
      return;
    }
    if (axis + 2 == geometry_.rank) {
      const std::uint64_t row = length_[axis + 1];
      const std::uint64_t stride = geometry_.axes[axis + 1].stride;
      for (std::uint64_t i = 0; i < length; ++i) paint_row(offset + i * own.stride, row, stride);
      return;
    }
    for (std::uint64_t i = 0; i < length; ++i) paint(axis + 1, offset + i * own.stride);
  }

  void paint_row(std::uint64_t offset, std::uint64_t length, std::uint64_t stride) {
    if (stride == 1 && length <= 64) {
      set_few_bits(words_, end_, offset, ~std::uint64_t{0} >> (64 - length));
    } else if (stride == 1) {
      set_bits(words_, offset, length);
    } else {
      for (std::uint64_t i = 0; i < length; ++i) set_bit(words_, offset + i * stride);
    }
  }

  const Geometry& geometry_;
  const bool whole_blocks_;
  std::uint64_t* words_;
  const std::uint64_t* end_;
  std::uint64_t length_[kMaxRank];
};

// Lets every set bit grow into its block: along each axis, by doubling.
void grow(const Simd& simd, const Geometry& geometry, std::uint64_t* words, std::size_t count) {
  for (int axis = 0; axis < geometry.rank; ++axis) {
    const Axis& own = geometry.axes[axis];
    for (std::uint64_t grown = 1; grown < own.block;) {
      const std::uint64_t step = std::min(grown, own.block - grown);
      simd.smear(words, count, step * own.stride);
      grown += step;
    }
  }
}

void fill_group(const Environment& environment, const Geometry& geometry, const Stream& stream,
                double gamma, std::uint64_t units, std::uint64_t* words) {
  const std::uint64_t positions = units * geometry.maps_per_unit.value * geometry.positions.value;
  const std::size_t count = words_for(units * geometry.unit_size);
  // Measured: a row costs about as much to paint as a shift of 16 words.
  const double painting = static_cast<double>(positions) * gamma * geometry.rows * 16;
  const double growing = static_cast<double>(count) * geometry.shifts;
  const bool whole_blocks = geometry.whole || painting < growing;
  sample(environment.simd, stream, gamma, positions,
         Painter(geometry, whole_blocks, words, words + count));
  if (!whole_blocks) grow(environment.simd, geometry, words, count);
}

// size / kept, where an empty or fully dropped mask counts as one kept element.
float kept_scale(std::uint64_t size, std::uint64_t kept) {
  return static_cast<float>(static_cast<double>(size) /
                            static_cast<double>(std::max<std::uint64_t>(kept, 1)));
}

// Number of set bits from `first` on.
std::uint64_t count_range(const Simd& simd, const std::uint64_t* words, std::uint64_t first,
                          std::uint64_t count) {
  std::uint64_t total = 0;
  while (count > 0 && first % 64 != 0) {
    total += test_bit(words, first++);
    --count;
  }
  total += simd.count(words + first / 64, static_cast<std::size_t>(count / 64));
  for (std::uint64_t i = count / 64 * 64; i < count; ++i) total += test_bit(words, first + i);
  return total;
}

}  // namespace

Dims drop_block_scale_dims(const MaskLayout& layout, Normalize normalize) {
  if (normalize != Normalize::sample) return Dims();
  Dims dims(layout.mask.rank());
  dims[0] = layout.mask[0];
  return dims;
}

void drop_block(const Environment& environment, const MaskLayout& layout,
                const DropBlockAttributes& attributes, float ratio, Stream stream,
                const Tensors& tensors) {
  const auto normalize = static_cast<Normalize>(attributes.normalize);
  const std::uint64_t total = layout.data.elements();
  const std::uint64_t size = layout.mask.elements();
  const bool per_sample = normalize == Normalize::sample;
  const auto samples = per_sample ? static_cast<std::size_t>(layout.mask[0]) : std::size_t{1};
  const std::uint64_t sample_size = per_sample ? layout.mask.elements(1) : size;
  const auto scale_of = [&](std::uint64_t kept) {
    return normalize == Normalize::none ? 1.0f : kept_scale(sample_size, kept);
  };
  if (size == 0 || ratio == 0.0f || ratio == 1.0f) {
    const bool keep = ratio != 1.0f;
    if (tensors.mask) fill_bytes(environment, size, keep, tensors.mask);
    if (tensors.scale) std::fill_n(tensors.scale, samples, scale_of(keep ? sample_size : 0));
    if (keep) {
      copy_all(environment, tensors.element, total, tensors.data, tensors.output);
    } else {
      clear_all(environment, tensors.element, total, tensors.output);
    }
    return;
  }

  const Geometry geometry(layout, attributes);
  const Groups groups(geometry.unit_size, geometry.units);
  const std::size_t bitmap_words = padded_words_for(size);
  // Scratch: the bitmap, a count per group or sample, a scale per sample of data or mask. Either
  // may have more: a mask shared along the batch has one, where the data may have none.
  const std::size_t counts = std::max(groups.count(), samples);
  const auto data_samples = per_sample ? static_cast<std::size_t>(layout.data[0]) : std::size_t{1};
  const std::size_t scales = std::max(samples, data_samples);
  Scratch::Lease lease(environment.scratch, bitmap_words + counts + scales);
  std::uint64_t* dropped = lease.words();
  std::uint64_t* count = dropped + bitmap_words;
  float* scale = reinterpret_cast<float*>(count + counts);
  dropped[bitmap_words - 1] = 0;

  const double gamma = static_cast<double>(ratio) * geometry.density;
  for_each(environment.parallel, static_cast<std::size_t>(size), groups.count(),
           [&](std::size_t group) {
             const std::uint64_t first = groups.first_element(group);
             const std::uint64_t units = groups.units_in(group);
             const std::uint64_t elements = units * geometry.unit_size;
             std::uint64_t* words = dropped + first / 64;
             std::fill_n(words, words_for(elements), 0);
             Stream own = stream;
             own.group = group;
             fill_group(environment, geometry, own, gamma, units, words);
             if (tensors.mask) environment.simd.unpack(words, elements, tensors.mask + first);
             if (!per_sample) count[group] = environment.simd.count(words, words_for(elements));
           });
  if (per_sample) {
    for_each(environment.parallel, static_cast<std::size_t>(size / 8), samples,
             [&](std::size_t sample) {
               const std::uint64_t lost =
                   count_range(environment.simd, dropped, sample * sample_size, sample_size);
               scale[sample] = scale_of(sample_size - lost);
             });
  } else {
    std::uint64_t lost = 0;
    for (std::size_t group = 0; group < groups.count(); ++group) lost += count[group];
    scale[0] = scale_of(size - lost);
  }
  if (tensors.scale) std::copy_n(scale, samples, tensors.scale);
  // A mask shared along the batch has one sample; the data may have many.
  if (samples == 1) std::fill_n(scale, data_samples, scale[0]);

  Application application;
  application.element = tensors.element;
  application.data = tensors.data;
  application.output = tensors.output;
  application.dropped = dropped;
  application.scale = scale;
  application.scale_per_sample = data_samples > 1;
  apply_mask(environment, layout.data, layout.mask, application);
}

}  // namespace structdrop
