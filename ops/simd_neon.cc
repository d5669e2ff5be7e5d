// NEON of 64-bit ARM, whose base instruction set converts half precision.
#include <arm_neon.h>

#include "philox.h"
#include "simd_loops.h"

namespace structdrop {
namespace {

struct Neon {
  static uint32x4_t lane_masks(std::uint64_t bits) {
    constexpr std::uint32_t lanes[4] = {1, 2, 4, 8};
    return vtstq_u32(vdupq_n_u32(static_cast<std::uint32_t>(bits & 0xf)), vld1q_u32(lanes));
  }

  static float32x4_t load(const float* in) { return vld1q_f32(in); }
  static float32x4_t load(const Half* in) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&in->bits)));
  }
  static float32x4_t load(const BFloat* in) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&in->bits), 16));
  }

  static void store(float* out, float32x4_t value) { vst1q_f32(out, value); }
  static void store(Half* out, float32x4_t value) {
    vst1_u16(&out->bits, vreinterpret_u16_f16(vcvt_f16_f32(value)));
  }
  static void store(BFloat* out, float32x4_t value) {
    const uint32x4_t bits = vreinterpretq_u32_f32(value);
    const uint32x4_t high = vshrq_n_u32(bits, 16);
    const uint32x4_t odd = vandq_u32(high, vdupq_n_u32(1));
    const uint32x4_t sum = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
    const uint32x4_t nan = vorrq_u32(high, vdupq_n_u32(0x40));
    const uint32x4_t result = vbslq_u32(vceqq_f32(value, value), vshrq_n_u32(sum, 16), nan);
    vst1_u16(&out->bits, vmovn_u32(result));
  }

  template <class T>
  static void scale64(const T* in, T* out, float scale) {
    for (int i = 0; i < 64; i += 4) store(out + i, vmulq_n_f32(load(in + i), scale));
  }

  template <class T>
  static void select64(const T* in, T* out, std::uint64_t kept, float scale) {
    for (int i = 0; i < 64; i += 4) {
      const uint32x4_t scaled = vreinterpretq_u32_f32(vmulq_n_f32(load(in + i), scale));
      store(out + i, vreinterpretq_f32_u32(vandq_u32(scaled, lane_masks(kept >> i))));
    }
  }

  static void scale64(const double* in, double* out, float scale) {
    for (int i = 0; i < 64; i += 2) {
      vst1q_f64(out + i, vmulq_n_f64(vld1q_f64(in + i), static_cast<double>(scale)));
    }
  }

  static void select64(const double* in, double* out, std::uint64_t kept, float scale) {
    constexpr std::uint64_t lanes[2] = {1, 2};
    for (int i = 0; i < 64; i += 2) {
      const uint64x2_t mask = vtstq_u64(vdupq_n_u64((kept >> i) & 3), vld1q_u64(lanes));
      const float64x2_t scaled = vmulq_n_f64(vld1q_f64(in + i), static_cast<double>(scale));
      vst1q_f64(out + i, vreinterpretq_f64_u64(vandq_u64(vreinterpretq_u64_f64(scaled), mask)));
    }
  }

  static std::uint64_t count64(std::uint64_t word) { return vaddv_u8(vcnt_u8(vcreate_u8(word))); }

  static std::size_t smear(std::uint64_t*, std::size_t word_count, std::size_t, unsigned) {
    return word_count;
  }

  static uint8x8_t byte_lanes() { return vcreate_u8(0x8040201008040201u); }

  static void unpack64(std::uint64_t bits, std::uint8_t* bytes) {
    for (int i = 0; i < 64; i += 8) {
      const uint8x8_t byte = vdup_n_u8(static_cast<std::uint8_t>(bits >> i));
      vst1_u8(bytes + i, vand_u8(vtst_u8(byte, byte_lanes()), vdup_n_u8(1)));
    }
  }

  static std::uint64_t pack64(const std::uint8_t* bytes) {
    std::uint64_t bits = 0;
    for (int i = 0; i < 64; i += 8) {
      const uint8x8_t values = vld1_u8(bytes + i);
      const uint8x8_t own = vand_u8(vtst_u8(values, values), byte_lanes());
      bits |= static_cast<std::uint64_t>(vaddv_u8(own)) << i;
    }
    return bits;
  }

  static void multiply(uint32x4_t value, std::uint32_t multiplier, uint32x4_t& high,
                       uint32x4_t& low) {
    const uint64x2_t first = vmull_n_u32(vget_low_u32(value), multiplier);
    const uint64x2_t second = vmull_n_u32(vget_high_u32(value), multiplier);
    low = vuzp1q_u32(vreinterpretq_u32_u64(first), vreinterpretq_u32_u64(second));
    high = vuzp2q_u32(vreinterpretq_u32_u64(first), vreinterpretq_u32_u64(second));
  }

  static void philox(const std::uint32_t* counter, const std::uint32_t* key, std::size_t batches,
                     std::uint32_t* words) {
    constexpr std::uint32_t lanes[4] = {0, 1, 2, 3};
    for (std::size_t step = 0; step < 2 * batches; ++step) {
      const auto first = counter[0] + static_cast<std::uint32_t>(4 * step);
      uint32x4_t c0 = vaddq_u32(vdupq_n_u32(first), vld1q_u32(lanes));
      uint32x4_t c1 = vdupq_n_u32(counter[1]);
      uint32x4_t c2 = vdupq_n_u32(counter[2]);
      uint32x4_t c3 = vdupq_n_u32(counter[3]);
      std::uint32_t key0 = key[0];
      std::uint32_t key1 = key[1];
      for (int round = 0; round < kPhiloxRounds; ++round) {
        uint32x4_t high0, low0, high1, low1;
        multiply(c0, kPhiloxMultipliers[0], high0, low0);
        multiply(c2, kPhiloxMultipliers[1], high1, low1);
        c0 = veorq_u32(veorq_u32(high1, c1), vdupq_n_u32(key0));
        c1 = low1;
        c2 = veorq_u32(veorq_u32(high0, c3), vdupq_n_u32(key1));
        c3 = low0;
        key0 += kPhiloxWeyl[0];
        key1 += kPhiloxWeyl[1];
      }
      // Two steps make up a batch: each fills one half of its four rows of eight.
      std::uint32_t* out = words + (step / 2) * kPhiloxBatch + (step % 2) * 4;
      vst1q_u32(out, c0);
      vst1q_u32(out + kPhiloxLanes, c1);
      vst1q_u32(out + 2 * kPhiloxLanes, c2);
      vst1q_u32(out + 3 * kPhiloxLanes, c3);
    }
  }

  static std::uint64_t below(const std::uint32_t* words, std::uint32_t threshold) {
    constexpr std::uint32_t lanes[4] = {1, 2, 4, 8};
    std::uint64_t bits = 0;
    for (int i = 0; i < 64; i += 4) {
      const uint32x4_t less = vcltq_u32(vld1q_u32(words + i), vdupq_n_u32(threshold));
      bits |= static_cast<std::uint64_t>(vaddvq_u32(vandq_u32(less, vld1q_u32(lanes)))) << i;
    }
    return bits;
  }
};

}  // namespace

const Simd& neon_simd() {
  static const Simd table = Loops<Neon>::table("neon");
  return table;
}

}  // namespace structdrop
