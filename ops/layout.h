// Shapes: of data, of its mask, and the checks that tell a user what is allowed.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

namespace structdrop {

// A value that is not allowed; the message names it and what is allowed.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline constexpr int kMaxRank = 12;

// A shape, without memory of its own.
class Dims {
 public:
  Dims() = default;
  Dims(std::initializer_list<std::int64_t> sizes);
  explicit Dims(int rank, std::int64_t size = 1);

  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return sizes_[static_cast<std::size_t>(axis)]; }
  std::int64_t& operator[](int axis) { return sizes_[static_cast<std::size_t>(axis)]; }
  const std::int64_t* data() const { return sizes_.data(); }
  std::int64_t* data() { return sizes_.data(); }
  bool operator==(const Dims& other) const;

  // Number of elements from an axis on.
  std::uint64_t elements(int first_axis = 0) const;

 private:
  std::array<std::int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

// "(2, 3, 4)"
std::string to_string(const Dims& dims);
std::string to_string(const std::vector<std::int64_t>& values);

struct MaskLayout {
  Dims data;
  Dims mask;         // size 1 on shared axes
  int channel = -1;  // -1: none
};

enum class SeedRegion : std::int64_t { valid = 0, whole = 1 };
enum class Normalize : std::int64_t { none = 0, batch = 1, sample = 2 };

// Attributes of a DropBlock node, checked as far as they can be before a shape is known.
struct DropBlockAttributes {
  std::vector<std::int64_t> block_size;
  std::int64_t channel_axis = 1;
  std::vector<std::int64_t> shared_axes;
  std::int64_t seed_region = 0;
  std::int64_t normalize = 1;

  void check() const;
};

void check_noise_shape(const std::vector<std::int64_t>& noise_shape);
void check_ratio(float ratio);

MaskLayout spatial_layout(const Dims& data, std::int64_t channel_axis);
MaskLayout noise_shape_layout(const Dims& data, const std::vector<std::int64_t>& noise_shape);
MaskLayout drop_block_layout(const Dims& data, const DropBlockAttributes& attributes);

// One block size per spatial axis, not yet clipped to the map.
std::vector<std::int64_t> block_per_axis(const DropBlockAttributes& attributes, int spatial_rank);

}  // namespace structdrop
