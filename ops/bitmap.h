// Bitmaps of dropped elements, and how their work is cut into groups.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>

namespace structdrop {

inline std::size_t words_for(std::uint64_t bits) {
  return static_cast<std::size_t>((bits + 63) / 64);
}

// Readers may look one word ahead.
inline std::size_t padded_words_for(std::uint64_t bits) { return words_for(bits) + 1; }

inline bool test_bit(const std::uint64_t* words, std::uint64_t bit) {
  return (words[bit / 64] >> (bit % 64)) & 1u;
}

inline void set_bit(std::uint64_t* words, std::uint64_t bit) {
  words[bit / 64] |= std::uint64_t{1} << (bit % 64);
}

// Sets `count` bits from `bit` on.
inline void set_bits(std::uint64_t* words, std::uint64_t bit, std::uint64_t count) {
  while (count > 0) {
    const auto shift = static_cast<unsigned>(bit % 64);
    const std::uint64_t room = 64 - shift;
    const std::uint64_t taken = count < room ? count : room;
    words[bit / 64] |= (~std::uint64_t{0} >> (64 - taken)) << shift;
    bit += taken;
    count -= taken;
  }
}

// The same for up to 64 bits. Writes a word more than it has to where that lies before `end`: the
// branch that would save it is unpredictable, this one is not.
inline void set_few_bits(std::uint64_t* words, const std::uint64_t* end, std::uint64_t bit,
                         std::uint64_t mask) {
  std::uint64_t* word = words + bit / 64;
  const auto shift = static_cast<unsigned>(bit % 64);
  word[0] |= mask << shift;
  if (word + 1 < end) word[1] |= (mask >> 1) >> (63 - shift);
}

// Sets bits of `target` from `bit` on to those of `source` from `from` on; the target's are clear.
inline void copy_bits(std::uint64_t* target, std::uint64_t bit, const std::uint64_t* source,
                      std::uint64_t from, std::uint64_t count) {
  while (count > 0) {
    const auto shift = static_cast<unsigned>(bit % 64);
    const std::uint64_t room = 64 - shift;
    const std::uint64_t taken = count < room ? count : room;
    const auto skip = static_cast<unsigned>(from % 64);
    const std::uint64_t* word = source + from / 64;
    const std::uint64_t bits = (word[0] >> skip) | ((word[1] << 1) << (63 - skip));
    target[bit / 64] |= (bits & (~std::uint64_t{0} >> (64 - taken))) << shift;
    bit += taken;
    from += taken;
    count -= taken;
  }
}

// Division by one number many times. Exact for dividends below 2^51: the inverse is rounded up, and
// the excess of the product stays below the distance from any quotient to the next integer.
struct Divisor {
  std::uint64_t value = 1;
  double inverse = 1;

  Divisor() = default;
  explicit Divisor(std::uint64_t divisor)
      : value(divisor), inverse(std::nextafter(1.0 / static_cast<double>(divisor), 2.0)) {}

  std::uint64_t quotient(std::uint64_t dividend) const {
    const auto wide = static_cast<double>(static_cast<std::int64_t>(dividend));
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(wide * inverse));
  }
};

// Consecutive units of a mask that form one task and one random stream. The cut depends on the
// shape alone, never on the number of threads, and groups start at whole words of the bitmap, so
// that tasks do not write to the same one.
struct Groups {
  std::uint64_t unit_size = 0;  // elements of a unit, which is never divided
  std::uint64_t units = 0;
  std::uint64_t units_per_group = 1;

  static constexpr std::uint64_t kTargetElements = 1 << 16;

  Groups(std::uint64_t size, std::uint64_t number) : unit_size(size), units(number) {
    if (size == 0) return;
    const std::uint64_t step = 64 / std::gcd(size, std::uint64_t{64});
    const std::uint64_t wanted = (kTargetElements + size - 1) / size;
    units_per_group = (wanted + step - 1) / step * step;
  }

  std::size_t count() const {
    return static_cast<std::size_t>((units + units_per_group - 1) / units_per_group);
  }
  std::uint64_t units_in(std::size_t group) const {
    const std::uint64_t left = units - group * units_per_group;
    return left < units_per_group ? left : units_per_group;
  }
  std::uint64_t first_element(std::size_t group) const {
    return group * units_per_group * unit_size;
  }
};

}  // namespace structdrop
