// The level that every processor has: plain C++, shaped so that compilers vectorise it.
#include "philox.h"
#include "simd_loops.h"

namespace structdrop {
namespace {

constexpr std::uint32_t kLaneBits[8] = {1, 2, 4, 8, 16, 32, 64, 128};

struct Baseline {
  static float product(float value, float scale) { return value * scale; }
  static double product(double value, float scale) { return value * static_cast<double>(scale); }
  static Half product(Half value, float scale) { return narrow_half(widen(value) * scale); }
  static BFloat product(BFloat value, float scale) { return narrow_bfloat(widen(value) * scale); }

  // All ones where the lane's bit is set, in the width of the element.
  template <class Word>
  static Word lane_mask(std::uint32_t byte, int lane) {
    return static_cast<Word>(-static_cast<Word>((byte & kLaneBits[lane]) != 0));
  }

  static float masked(float value, std::uint32_t byte, int lane) {
    return bit_cast<float>(bit_cast<std::uint32_t>(value) & lane_mask<std::uint32_t>(byte, lane));
  }
  static double masked(double value, std::uint32_t byte, int lane) {
    return bit_cast<double>(bit_cast<std::uint64_t>(value) & lane_mask<std::uint64_t>(byte, lane));
  }
  template <class Small>
  static Small masked(Small value, std::uint32_t byte, int lane) {
    return {static_cast<std::uint16_t>(value.bits & lane_mask<std::uint16_t>(byte, lane))};
  }

  template <class T>
  static void scale64(const T* in, T* out, float scale) {
    for (int i = 0; i < 64; ++i) out[i] = product(in[i], scale);
  }

  template <class T>
  static void select64(const T* in, T* out, std::uint64_t kept, float scale) {
    for (int group = 0; group < 64; group += 8, kept >>= 8) {
      const auto byte = static_cast<std::uint32_t>(kept & 0xff);
      for (int lane = 0; lane < 8; ++lane) {
        out[group + lane] = masked(product(in[group + lane], scale), byte, lane);
      }
    }
  }

  static std::uint64_t count64(std::uint64_t word) {
    word -= (word >> 1) & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + ((word >> 2) & 0x3333333333333333u);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (word * 0x0101010101010101u) >> 56;
  }

  static std::size_t smear(std::uint64_t*, std::size_t word_count, std::size_t, unsigned) {
    return word_count;
  }

  // Bytes of a word are in the order of their addresses: every processor served is little-endian.
  static void unpack64(std::uint64_t bits, std::uint8_t* bytes) {
    for (int group = 0; group < 64; group += 8, bits >>= 8) {
      // Every byte gets all eight bits, keeps its own, and carries it up to the top.
      const std::uint64_t own = ((bits & 0xff) * 0x0101010101010101u) & 0x8040201008040201u;
      const std::uint64_t result = ((own + 0x7f7f7f7f7f7f7f7fu) >> 7) & 0x0101010101010101u;
      std::memcpy(bytes + group, &result, 8);
    }
  }

  static std::uint64_t pack64(const std::uint8_t* bytes) {
    std::uint64_t bits = 0;
    for (int group = 0; group < 64; group += 8) {
      std::uint64_t word;
      std::memcpy(&word, bytes + group, 8);
      constexpr std::uint64_t kLow = 0x7f7f7f7f7f7f7f7fu;
      const std::uint64_t set = ((((word & kLow) + kLow) | word) >> 7) & 0x0101010101010101u;
      // Moves bit 8 * i to bit 56 + i.
      bits |= ((set * 0x0102040810204080u) >> 56) << group;
    }
    return bits;
  }

  static void philox(const std::uint32_t* counter, const std::uint32_t* key, std::size_t batches,
                     std::uint32_t* words) {
    PhiloxCounter at = {counter[0], counter[1], counter[2], counter[3]};
    for (std::size_t batch = 0; batch < batches; ++batch, words += kPhiloxBatch) {
      for (std::size_t lane = 0; lane < kPhiloxLanes; ++lane, ++at[0]) {
        const PhiloxCounter block = philox4x32(at, {key[0], key[1]});
        for (std::size_t word = 0; word < 4; ++word)
          words[kPhiloxLanes * word + lane] = block[word];
      }
    }
  }

  static std::uint64_t below(const std::uint32_t* words, std::uint32_t threshold) {
    std::uint64_t bits = 0;
    for (int i = 0; i < 64; ++i) bits |= static_cast<std::uint64_t>(words[i] < threshold) << i;
    return bits;
  }
};

}  // namespace

const Simd& baseline_simd() {
  static const Simd table = Loops<Baseline>::table(STRUCTDROP_AVX2 ? "sse2" : "portable");
  return table;
}

}  // namespace structdrop
