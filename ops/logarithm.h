// Geometric gaps between rare events, computed alike on every processor: plain IEEE double
// arithmetic without contraction, and a logarithm of our own, since those of C libraries differ.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace structdrop {

// Private to the source file whose `Isa` is of an unnamed namespace; see simd_loops.h.
template <class Isa>
struct Logarithm {
  static double from_bits(std::uint64_t bits) {
    double value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }

  static std::uint64_t to_bits(double value) {
    std::uint64_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
  }

  // Natural logarithm of a number in (0, 1], to about 1e-14. Shaped to be vectorised.
  static double log(double value) {
    constexpr std::uint64_t kRootHalf = 0x3fe6a09e667f3bcdu;  // bits of sqrt(1/2)
    constexpr std::uint64_t kMantissa = 0xfffffffffffffu;
    constexpr double kLog2 = 0.69314718055994530942;
    // value = mantissa * 2^exponent, mantissa in [sqrt(1/2), sqrt(2)).
    const std::uint64_t shifted = to_bits(value) - kRootHalf + (std::uint64_t{1024} << 52);
    const double mantissa = from_bits((shifted & kMantissa) + kRootHalf);
    const double exponent =
        from_bits((std::uint64_t{0x433} << 52) | (shifted >> 52)) - (0x1p52 + 1024);
    // log(m) = 2 atanh((m - 1) / (m + 1)), whose series converges quickly here.
    const double z = (mantissa - 1.0) / (mantissa + 1.0);
    const double s = z * z;
    double sum = 1.0 / 19;
    sum = sum * s + 1.0 / 17;
    sum = sum * s + 1.0 / 15;
    sum = sum * s + 1.0 / 13;
    sum = sum * s + 1.0 / 11;
    sum = sum * s + 1.0 / 9;
    sum = sum * s + 1.0 / 7;
    sum = sum * s + 1.0 / 5;
    sum = sum * s + 1.0 / 3;
    sum = sum * s + 1.0;
    return exponent * kLog2 + 2.0 * z * sum;
  }

  // floor(log(u) / log(1 - p)), no larger than `limit`, with u from words i and i + count; the
  // floor is left to whoever converts to integers.
  static void gaps(const std::uint32_t* words, std::size_t count, double inverse_log_miss,
                   double limit, double* gaps) {
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint64_t word = (std::uint64_t{words[i]} << 32) | words[i + count];
      // 52 random bits and a half: never 0, never 1.
      const double unit = from_bits((std::uint64_t{0x3ff} << 52) | (word >> 12)) - (1.0 - 0x1p-53);
      const double gap = log(unit) * inverse_log_miss;
      gaps[i] = gap < limit ? gap : limit;
    }
  }
};

}  // namespace structdrop
