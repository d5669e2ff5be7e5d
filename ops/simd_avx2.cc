// AVX2 with F16C and POPCNT; compiled with those switched on, called only where they exist.
#include <immintrin.h>

#include "philox.h"
#include "simd_loops.h"

namespace structdrop {
namespace {

struct Avx2 {
  // All ones in the lanes whose bit is set in byte `index` of every lane of `bits`.
  static __m256i lane_masks(__m256i bits, int index) {
    const __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i own = _mm256_slli_epi32(lanes, 8 * index);
    return _mm256_cmpeq_epi32(_mm256_and_si256(bits, own), own);
  }

  static __m256 load(const float* in) { return _mm256_loadu_ps(in); }
  static __m256 load(const Half* in) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in)));
  }
  static __m256 load(const BFloat* in) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }

  static void store(float* out, __m256 value) { _mm256_storeu_ps(out, value); }
  static void store(Half* out, __m256 value) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }
  static void store(BFloat* out, __m256 value) {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i rounded = _mm256_srli_epi32(sum, 16);
    const __m256i nan = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m256i result = _mm256_blendv_epi8(rounded, nan, is_nan);
    const __m256i packed = _mm256_packus_epi32(result, result);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
  }

  template <class T>
  static void scale64(const T* in, T* out, float scale) {
    const __m256 factor = _mm256_set1_ps(scale);
    for (int i = 0; i < 64; i += 8) store(out + i, _mm256_mul_ps(load(in + i), factor));
  }

  template <class T>
  static void select64(const T* in, T* out, std::uint64_t kept, float scale) {
    const __m256 factor = _mm256_set1_ps(scale);
    for (int half = 0; half < 64; half += 32) {
      const __m256i bits = _mm256_set1_epi32(static_cast<int>(kept >> half));
      for (int i = 0; i < 4; ++i) {
        const int at = half + 8 * i;
        const __m256 mask = _mm256_castsi256_ps(lane_masks(bits, i));
        store(out + at, _mm256_and_ps(_mm256_mul_ps(load(in + at), factor), mask));
      }
    }
  }

  static void scale64(const double* in, double* out, float scale) {
    const __m256d factor = _mm256_set1_pd(scale);
    for (int i = 0; i < 64; i += 4) {
      _mm256_storeu_pd(out + i, _mm256_mul_pd(_mm256_loadu_pd(in + i), factor));
    }
  }

  static void select64(const double* in, double* out, std::uint64_t kept, float scale) {
    const __m256d factor = _mm256_set1_pd(scale);
    const __m256i lanes = _mm256_setr_epi64x(1, 2, 4, 8);
    for (int i = 0; i < 64; i += 4) {
      const __m256i bits = _mm256_set1_epi64x(static_cast<long long>((kept >> i) & 0xf));
      const __m256i mask = _mm256_cmpeq_epi64(_mm256_and_si256(bits, lanes), lanes);
      const __m256d scaled = _mm256_mul_pd(_mm256_loadu_pd(in + i), factor);
      _mm256_storeu_pd(out + i, _mm256_and_pd(scaled, _mm256_castsi256_pd(mask)));
    }
  }

  static std::uint64_t count64(std::uint64_t word) {
    return static_cast<std::uint64_t>(_mm_popcnt_u64(word));
  }

  // The part of a smear that whole registers can do; returns the number of words left.
  static std::size_t smear(std::uint64_t* words, std::size_t word_count, std::size_t skip,
                           unsigned bits) {
    const __m128i up = _mm_cvtsi32_si128(static_cast<int>(bits));
    const __m128i down = _mm_cvtsi32_si128(static_cast<int>(64 - bits));
    std::size_t left = word_count;
    for (; left >= skip + 5; left -= 4) {
      __m256i* target = reinterpret_cast<__m256i*>(words + left - 4);
      const std::uint64_t* source = words + left - 4 - skip;
      const __m256i own = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
      const __m256i before = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source - 1));
      const __m256i moved =
          _mm256_or_si256(_mm256_sll_epi64(own, up), _mm256_srl_epi64(before, down));
      _mm256_storeu_si256(target, _mm256_or_si256(_mm256_loadu_si256(target), moved));
    }
    return left;
  }

  static void unpack64(std::uint64_t bits, std::uint8_t* bytes) {
    // Byte i of a half gets byte i / 8 of the bits, and keeps its own bit of it.
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                            2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i lanes = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201u));
    const __m256i one = _mm256_set1_epi8(1);
    for (int half = 0; half < 64; half += 32) {
      const __m256i word = _mm256_set1_epi32(static_cast<int>(bits >> half));
      const __m256i own = _mm256_and_si256(_mm256_shuffle_epi8(word, spread), lanes);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes + half), _mm256_min_epu8(own, one));
    }
  }

  static std::uint64_t pack64(const std::uint8_t* bytes) {
    std::uint64_t zero = 0;
    for (int half = 0; half < 64; half += 32) {
      const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + half));
      const int mask = _mm256_movemask_epi8(_mm256_cmpeq_epi8(values, _mm256_setzero_si256()));
      zero |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(mask)) << half;
    }
    return ~zero;
  }

  // High and low halves of the products of eight counters with one multiplier.
  static void multiply(__m256i value, __m256i multiplier, __m256i& high, __m256i& low) {
    const __m256i even = _mm256_mul_epu32(value, multiplier);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(value, 32), multiplier);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  }

  static __m256i broadcast(std::uint32_t value) {
    return _mm256_set1_epi32(static_cast<int>(value));
  }

  static void philox(const std::uint32_t* counter, const std::uint32_t* key, std::size_t batches,
                     std::uint32_t* words) {
    const __m256i multiplier0 = broadcast(kPhiloxMultipliers[0]);
    const __m256i multiplier1 = broadcast(kPhiloxMultipliers[1]);
    __m256i block =
        _mm256_add_epi32(broadcast(counter[0]), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    for (std::size_t batch = 0; batch < batches; ++batch, words += kPhiloxBatch) {
      __m256i c0 = block;
      __m256i c1 = broadcast(counter[1]);
      __m256i c2 = broadcast(counter[2]);
      __m256i c3 = broadcast(counter[3]);
      std::uint32_t key0 = key[0];
      std::uint32_t key1 = key[1];
      for (int round = 0; round < kPhiloxRounds; ++round) {
        __m256i high0, low0, high1, low1;
        multiply(c0, multiplier0, high0, low0);
        multiply(c2, multiplier1, high1, low1);
        c0 = _mm256_xor_si256(_mm256_xor_si256(high1, c1), broadcast(key0));
        c1 = low1;
        c2 = _mm256_xor_si256(_mm256_xor_si256(high0, c3), broadcast(key1));
        c3 = low0;
        key0 += kPhiloxWeyl[0];
        key1 += kPhiloxWeyl[1];
      }
      __m256i* out = reinterpret_cast<__m256i*>(words);
      _mm256_storeu_si256(out, c0);
      _mm256_storeu_si256(out + 1, c1);
      _mm256_storeu_si256(out + 2, c2);
      _mm256_storeu_si256(out + 3, c3);
      block = _mm256_add_epi32(block, broadcast(kPhiloxLanes));
    }
  }

  static std::uint64_t below(const std::uint32_t* words, std::uint32_t threshold) {
    // Comparison is signed only: flip the top bits of both sides.
    const __m256i flip = broadcast(0x80000000u);
    const __m256i limit = _mm256_xor_si256(broadcast(threshold), flip);
    std::uint64_t bits = 0;
    for (int i = 0; i < 64; i += 8) {
      const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + i));
      const __m256i less = _mm256_cmpgt_epi32(limit, _mm256_xor_si256(value, flip));
      const int mask = _mm256_movemask_ps(_mm256_castsi256_ps(less));
      bits |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(mask)) << i;
    }
    return bits;
  }
};

}  // namespace

const Simd& avx2_simd() {
  static const Simd table = Loops<Avx2>::table("avx2");
  return table;
}

}  // namespace structdrop
