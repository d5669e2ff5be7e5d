// The loops that exist once per instruction set, behind one table of function pointers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "element.h"

namespace structdrop {

// Every level computes the same bytes. Bitmaps hold one bit per element of a mask, set where the
// element is dropped; a reader may touch one word past the last one that holds bits.
struct Simd {
  using Select = void (*)(const void* data, void* output, const std::uint64_t* dropped,
                          std::size_t bit_offset, std::size_t count, float scale);
  using SelectBytes = void (*)(const void* data, void* output, const std::uint8_t* kept,
                               std::size_t count, float scale);
  using Scale = void (*)(const void* data, void* output, std::size_t count, float scale);

  const char* name;

  // Writes `batches` batches of words (see philox.h), from counter[0] on.
  void (*philox)(const std::uint32_t* counter, const std::uint32_t* key, std::size_t batches,
                 std::uint32_t* words);
  // Bit i of the result: words[i] < threshold, for 64 words.
  std::uint64_t (*below)(const std::uint32_t* words, std::uint32_t threshold);
  // Gaps between rare events; see logarithm.h.
  void (*gaps)(const std::uint32_t* words, std::size_t count, double inverse_log_miss, double limit,
               double* gaps);
  // Number of set bits.
  std::uint64_t (*count)(const std::uint64_t* words, std::size_t word_count);
  // Sets every bit that lies `shift` behind a set one; what leaves the last word is lost.
  void (*smear)(std::uint64_t* words, std::size_t word_count, std::uint64_t shift);
  // Bitmap to one byte per element, 1 where kept; and back, where any byte but 0 means kept.
  void (*unpack)(const std::uint64_t* dropped, std::size_t count, std::uint8_t* kept);
  void (*pack)(const std::uint8_t* kept, std::size_t count, std::uint64_t* dropped);
  // output = dropped ? 0 : data * scale, by a bitmap and by bytes, and output = data * scale; data
  // and output may be one.
  Select select[kElementCount];
  SelectBytes select_bytes[kElementCount];
  Scale scale[kElementCount];
};

// A level this processor and build offer, by name; nullptr if they do not.
const Simd* find_simd(const char* name);

// The best level this processor and build offer.
const Simd& best_simd();

// The names that find_simd may know in this build, best first, separated by commas.
const char* simd_names();

const Simd& baseline_simd();
const Simd& avx2_simd();
const Simd& neon_simd();

}  // namespace structdrop
