// Element types, and the conversions of the two 16-bit ones in plain integer arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace structdrop {

enum class Element : std::uint8_t { float32, float64, float16, bfloat16 };

inline constexpr std::size_t kElementCount = 4;

constexpr std::size_t index_of(Element element) { return static_cast<std::size_t>(element); }

constexpr std::size_t size_of(Element element) {
  constexpr std::size_t sizes[kElementCount] = {4, 8, 2, 2};
  return sizes[index_of(element)];
}

struct Half {
  std::uint16_t bits;
};

struct BFloat {
  std::uint16_t bits;
};

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// The conversions have selects instead of branches so that compilers vectorise loops over them,
// and treat NaN as the F16C instructions do: payload kept, quiet bit set.

inline float widen(Half half) {
  constexpr std::uint32_t kRebias = 112u << 23;
  const std::uint32_t sign = (half.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = half.bits & 0x7fffu;
  const std::uint32_t normal = (magnitude << 13) + kRebias;
  const std::uint32_t special =
      (magnitude << 13) + 2 * kRebias + (magnitude > 0x7c00u ? 0x400000u & ~(magnitude << 13) : 0u);
  const std::uint32_t subnormal =
      bit_cast<std::uint32_t>(static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f);
  std::uint32_t bits = magnitude < 0x400u ? subnormal : normal;
  bits = magnitude >= 0x7c00u ? special : bits;
  return bit_cast<float>(bits | sign);
}

inline Half narrow_half(float value) {
  constexpr std::uint32_t kRebias = 112u << 23;
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  // Round half to even by adding just under half a step, plus the lowest bit that stays.
  const std::uint32_t rebased = magnitude - kRebias;
  const std::uint32_t normal = (rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13;
  // Adding 0.5 moves the last bit of a subnormal half to the last bit of a float.
  const std::uint32_t subnormal =
      bit_cast<std::uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  std::uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x477ff000u ? 0x7c00u : result;
  result = magnitude > 0x7f800000u ? nan : result;
  return {static_cast<std::uint16_t>(result | sign)};
}

inline float widen(BFloat value) {
  return bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

inline BFloat narrow_bfloat(float value) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40u;
  return {static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
}

}  // namespace structdrop
