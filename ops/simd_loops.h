// The loops around the 64-element steps of an instruction set.
//
// `Isa` has to be a type of an unnamed namespace: then every function here is private to the
// source file that instantiates it, and code compiled for a newer processor cannot be picked by
// the linker to serve an older one. For the same reason nothing of the standard library is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "element.h"
#include "logarithm.h"
#include "simd.h"

namespace structdrop {

template <class Isa>
struct Loops {
  // 64 bits of a bitmap from a bit offset that need not be a multiple of 64.
  static std::uint64_t bits_at(const std::uint64_t* words, std::size_t word, unsigned shift) {
    return (words[word] >> shift) | ((words[word + 1] << 1) << (63 - shift));
  }

  template <class T>
  static void select(const void* data, void* output, const std::uint64_t* dropped,
                     std::size_t bit_offset, std::size_t count, float scale) {
    const T* in = static_cast<const T*>(data);
    T* out = static_cast<T*>(output);
    const std::uint64_t* words = dropped + bit_offset / 64;
    const auto shift = static_cast<unsigned>(bit_offset % 64);
    std::size_t word = 0;
    for (; (word + 1) * 64 <= count; ++word, in += 64, out += 64) {
      const std::uint64_t kept = ~bits_at(words, word, shift);
      // No shortcut where all are kept: it would save less than its mispredictions cost.
      if (kept == 0) {
        std::memset(out, 0, 64 * sizeof(T));
      } else {
        Isa::select64(in, out, kept, scale);
      }
    }
    if (const std::size_t rest = count % 64; rest != 0) {
      T buffer[64] = {};
      std::memcpy(buffer, in, rest * sizeof(T));
      Isa::select64(buffer, buffer, ~bits_at(words, word, shift), scale);
      std::memcpy(out, buffer, rest * sizeof(T));
    }
  }

  template <class T>
  static void select_bytes(const void* data, void* output, const std::uint8_t* kept,
                           std::size_t count, float scale) {
    const T* in = static_cast<const T*>(data);
    T* out = static_cast<T*>(output);
    for (; count >= 64; count -= 64, in += 64, out += 64, kept += 64) {
      Isa::select64(in, out, Isa::pack64(kept), scale);
    }
    if (count != 0) {
      T buffer[64] = {};
      std::uint8_t bytes[64] = {};
      std::memcpy(buffer, in, count * sizeof(T));
      std::memcpy(bytes, kept, count);
      Isa::select64(buffer, buffer, Isa::pack64(bytes), scale);
      std::memcpy(out, buffer, count * sizeof(T));
    }
  }

  template <class T>
  static void scale(const void* data, void* output, std::size_t count, float scale) {
    const T* in = static_cast<const T*>(data);
    T* out = static_cast<T*>(output);
    const std::size_t whole = count - count % 64;
    for (std::size_t i = 0; i < whole; i += 64) Isa::scale64(in + i, out + i, scale);
    if (const std::size_t rest = count % 64; rest != 0) {
      T buffer[64] = {};
      std::memcpy(buffer, in + whole, rest * sizeof(T));
      Isa::scale64(buffer, buffer, scale);
      std::memcpy(out + whole, buffer, rest * sizeof(T));
    }
  }

  static std::uint64_t count(const std::uint64_t* words, std::size_t word_count) {
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < word_count; ++i) total += Isa::count64(words[i]);
    return total;
  }

  static void smear(std::uint64_t* words, std::size_t word_count, std::uint64_t shift) {
    const std::size_t skip = shift / 64;
    const auto bits = static_cast<unsigned>(shift % 64);
    // From the end, so that what is read has not been written yet.
    std::size_t i = Isa::smear(words, word_count, skip, bits);
    for (; i > skip + 1; --i) {
      const std::uint64_t* source = words + (i - 1 - skip);
      words[i - 1] |= (source[0] << bits) | ((source[-1] >> 1) >> (63 - bits));
    }
    if (i == skip + 1) words[skip] |= words[0] << bits;
  }

  static void unpack(const std::uint64_t* dropped, std::size_t count, std::uint8_t* kept) {
    std::size_t word = 0;
    for (; (word + 1) * 64 <= count; ++word) Isa::unpack64(~dropped[word], kept + 64 * word);
    if (const std::size_t rest = count % 64; rest != 0) {
      std::uint8_t buffer[64];
      Isa::unpack64(~dropped[word], buffer);
      std::memcpy(kept + 64 * word, buffer, rest);
    }
  }

  static void pack(const std::uint8_t* kept, std::size_t count, std::uint64_t* dropped) {
    std::size_t word = 0;
    for (; (word + 1) * 64 <= count; ++word) dropped[word] = ~Isa::pack64(kept + 64 * word);
    if (const std::size_t rest = count % 64; rest != 0) {
      std::uint8_t buffer[64] = {};
      std::memcpy(buffer, kept + 64 * word, rest);
      dropped[word] = ~Isa::pack64(buffer) & ((std::uint64_t{1} << rest) - 1);
    }
  }

  static Simd table(const char* name) {
    return {
        name,
        &Isa::philox,
        &Isa::below,
        &Logarithm<Isa>::gaps,
        &count,
        &smear,
        &unpack,
        &pack,
        {&select<float>, &select<double>, &select<Half>, &select<BFloat>},
        {&select_bytes<float>, &select_bytes<double>, &select_bytes<Half>, &select_bytes<BFloat>},
        {&scale<float>, &scale<double>, &scale<Half>, &scale<BFloat>}};
  }
};

}  // namespace structdrop
