#include "layout.h"

#include <algorithm>
#include <cstdio>

namespace structdrop {
namespace {

std::string number(std::int64_t value) { return std::to_string(value); }

int channel_of(std::int64_t axis, int rank) {
  if (axis < -rank || axis >= rank || (axis + rank) % rank == 0) {
    throw Error("channel_axis is " + number(axis) + "; allowed for data of rank " + number(rank) +
                " is an axis from 1 to " + number(rank - 1) +
                ", or its negative form; axis 0 is the batch");
  }
  return static_cast<int>((axis + rank) % rank);
}

void check_rank(int rank, int minimum) {
  if (rank < minimum || rank > kMaxRank) {
    throw Error("data has rank " + number(rank) + "; allowed is a rank from " + number(minimum) +
                " to " + number(kMaxRank));
  }
}

}  // namespace

Dims::Dims(std::initializer_list<std::int64_t> sizes) : Dims(static_cast<int>(sizes.size())) {
  std::copy(sizes.begin(), sizes.end(), sizes_.begin());
}

Dims::Dims(int rank, std::int64_t size) : rank_(rank) {
  check_rank(rank, 0);
  std::fill_n(sizes_.begin(), rank, size);
}

bool Dims::operator==(const Dims& other) const {
  return rank_ == other.rank_ &&
         std::equal(sizes_.begin(), sizes_.begin() + rank_, other.sizes_.begin());
}

std::uint64_t Dims::elements(int first_axis) const {
  std::uint64_t product = 1;
  for (int axis = first_axis; axis < rank_; ++axis) {
    product *= static_cast<std::uint64_t>((*this)[axis]);
  }
  return product;
}

std::string to_string(const std::vector<std::int64_t>& values) {
  std::string text = "(";
  for (std::size_t i = 0; i < values.size(); ++i) text += (i ? ", " : "") + number(values[i]);
  return text + (values.size() == 1 ? ",)" : ")");
}

std::string to_string(const Dims& dims) {
  return to_string(std::vector<std::int64_t>(dims.data(), dims.data() + dims.rank()));
}

void check_ratio(float ratio) {
  // Written so that NaN fails.
  if (ratio >= 0 && ratio <= 1) return;
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", static_cast<double>(ratio));
  throw Error(std::string("ratio is ") + text + "; allowed is a number from 0 to 1");
}

void check_noise_shape(const std::vector<std::int64_t>& noise_shape) {
  for (const std::int64_t entry : noise_shape) {
    if (entry != 0 && entry != 1) {
      throw Error("noise_shape entry is " + number(entry) +
                  "; allowed is 1 (shared along the axis) or 0 (the data's own size)");
    }
  }
}

void DropBlockAttributes::check() const {
  if (block_size.empty()) {
    throw Error("block_size is empty; allowed is one integer per spatial axis, or one for all");
  }
  for (const std::int64_t size : block_size) {
    if (size < 1) throw Error("block_size is " + number(size) + "; allowed is an integer >= 1");
  }
  if (seed_region < 0 || seed_region > 1) {
    throw Error("seed_region is " + number(seed_region) + "; allowed is 0 (valid) or 1 (whole)");
  }
  if (normalize < 0 || normalize > 2) {
    throw Error("normalize is " + number(normalize) +
                "; allowed is 0 (none), 1 (batch) or 2 (sample)");
  }
}

MaskLayout spatial_layout(const Dims& data, std::int64_t channel_axis) {
  check_rank(data.rank(), 2);
  const int channel = channel_of(channel_axis, data.rank());
  MaskLayout layout{data, Dims(data.rank()), channel};
  layout.mask[0] = data[0];
  layout.mask[channel] = data[channel];
  return layout;
}

MaskLayout noise_shape_layout(const Dims& data, const std::vector<std::int64_t>& noise_shape) {
  check_rank(data.rank(), 1);
  if (noise_shape.size() != static_cast<std::size_t>(data.rank())) {
    throw Error("noise_shape " + to_string(noise_shape) + " has " + number(noise_shape.size()) +
                " entries; data has rank " + number(data.rank()) +
                ", and one entry per axis is needed");
  }
  check_noise_shape(noise_shape);
  MaskLayout layout{data, data, -1};
  for (int axis = 0; axis < data.rank(); ++axis) {
    if (noise_shape[static_cast<std::size_t>(axis)] == 1) layout.mask[axis] = 1;
  }
  return layout;
}

MaskLayout drop_block_layout(const Dims& data, const DropBlockAttributes& attributes) {
  const int rank = data.rank();
  check_rank(rank, 3);
  const int channel = channel_of(attributes.channel_axis, rank);
  MaskLayout layout{data, data, channel};
  bool seen[kMaxRank] = {};
  const std::string allowed =
      "allowed are the batch axis 0 and the channel axis " + number(channel);
  for (const std::int64_t entry : attributes.shared_axes) {
    if (entry < -rank || entry >= rank) {
      throw Error("shared axis " + number(entry) + " is outside data of rank " + number(rank) +
                  "; " + allowed);
    }
    const int axis = static_cast<int>((entry + rank) % rank);
    if (axis != 0 && axis != channel) {
      throw Error("shared axis " + number(entry) +
                  " is a spatial axis, along which a block has its extent; " + allowed);
    }
    if (seen[axis]) {
      throw Error("shared_axes " + to_string(attributes.shared_axes) + " names an axis twice; " +
                  allowed + ", each once");
    }
    seen[axis] = true;
    layout.mask[axis] = 1;
  }
  (void)block_per_axis(attributes, rank - 2);
  return layout;
}

std::vector<std::int64_t> block_per_axis(const DropBlockAttributes& attributes, int spatial_rank) {
  const auto axes = static_cast<std::size_t>(spatial_rank);
  if (attributes.block_size.size() == axes) return attributes.block_size;
  if (attributes.block_size.size() == 1)
    return std::vector<std::int64_t>(axes, attributes.block_size[0]);
  throw Error("block_size " + to_string(attributes.block_size) + " has " +
              number(attributes.block_size.size()) + " entries; allowed is 1, or " +
              number(spatial_rank) + ", one per spatial axis");
}

}  // namespace structdrop
