// Conversions of 16-bit floats, over all of their values.
#include <cmath>
#include <limits>

#include "element.h"
#include "testing.h"

using namespace structdrop;

namespace {

// The value of a half from its definition.
double half_value(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) {
    return fraction ? std::numeric_limits<double>::quiet_NaN()
                    : sign * std::numeric_limits<double>::infinity();
  }
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

bool is_nan(std::uint16_t bits) { return (bits & 0x7c00) == 0x7c00 && (bits & 1023) != 0; }

}  // namespace

TEST(every_half_round_trips) {
  for (std::uint32_t i = 0; i < 0x10000; ++i) {
    const Half half{static_cast<std::uint16_t>(i)};
    const float wide = widen(half);
    if (is_nan(half.bits)) {
      EXPECT(std::isnan(wide));
      EXPECT(narrow_half(wide).bits == (half.bits | 0x200));
    } else {
      EXPECT(static_cast<double>(wide) == half_value(half.bits));
      EXPECT(std::signbit(wide) == (i >= 0x8000));
      EXPECT(narrow_half(wide).bits == half.bits);
    }
  }
}

TEST(halves_round_to_nearest_even) {
  for (std::uint32_t i = 0; i + 1 < 0x7c00; ++i) {
    const double low = half_value(static_cast<std::uint16_t>(i));
    const double high = half_value(static_cast<std::uint16_t>(i + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    const std::uint32_t even = i % 2 == 0 ? i : i + 1;
    EXPECT(narrow_half(middle).bits == even);
    EXPECT(narrow_half(std::nextafter(middle, 0.0f)).bits == i);
    EXPECT(narrow_half(std::nextafter(middle, 1e9f)).bits == i + 1);
    EXPECT(narrow_half(-middle).bits == (even | 0x8000));
  }
  EXPECT(narrow_half(65519.99f).bits == 0x7bff);
  EXPECT(narrow_half(65520.0f).bits == 0x7c00);
  EXPECT(narrow_half(3e38f).bits == 0x7c00);
  EXPECT(narrow_half(1e-30f).bits == 0);
}

TEST(every_bfloat_round_trips) {
  for (std::uint32_t i = 0; i < 0x10000; ++i) {
    const BFloat value{static_cast<std::uint16_t>(i)};
    const float wide = widen(value);
    if (std::isnan(wide)) {
      EXPECT(narrow_bfloat(wide).bits == (value.bits | 0x40));
    } else {
      EXPECT(narrow_bfloat(wide).bits == value.bits);
    }
  }
}

TEST(bfloats_round_to_nearest_even) {
  for (std::uint32_t i = 0; i < 0x7f80; ++i) {
    const std::uint32_t middle = (i << 16) | 0x8000u;
    EXPECT(narrow_bfloat(bit_cast<float>(middle)).bits == (i % 2 == 0 ? i : i + 1));
    EXPECT(narrow_bfloat(bit_cast<float>(middle - 1)).bits == i);
    EXPECT(narrow_bfloat(bit_cast<float>(middle + 1)).bits == i + 1);
  }
  EXPECT(narrow_bfloat(bit_cast<float>(0x7f800001u)).bits == 0x7fc0);
}
