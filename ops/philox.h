// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy
// as 1, 2, 3" (SC11), and the way this library spends its counter.
#pragma once

#include <array>
#include <cstdint>

namespace structdrop {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

inline constexpr std::uint32_t kPhiloxMultipliers[2] = {0xD2511F53u, 0xCD9E8D57u};
inline constexpr std::uint32_t kPhiloxWeyl[2] = {0x9E3779B9u, 0xBB67AE85u};
inline constexpr int kPhiloxRounds = 10;

constexpr PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const std::uint64_t left = std::uint64_t{kPhiloxMultipliers[0]} * counter[0];
    const std::uint64_t right = std::uint64_t{kPhiloxMultipliers[1]} * counter[2];
    counter = {static_cast<std::uint32_t>(right >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(right),
               static_cast<std::uint32_t>(left >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(left)};
    key = {key[0] + kPhiloxWeyl[0], key[1] + kPhiloxWeyl[1]};
  }
  return counter;
}

// Words come in batches of 8 consecutive counters, ordered by word and then by counter, so that
// 8-wide code stores its registers as they are: words[8 * w + c] is word w of counter c.
inline constexpr std::size_t kPhiloxLanes = 8;
inline constexpr std::size_t kPhiloxBatch = 4 * kPhiloxLanes;

// One stream of random words: a seed, a run of the kernel and a group of masks.
struct Stream {
  std::uint64_t seed = 0;
  std::uint64_t run = 0;
  std::uint64_t group = 0;

  PhiloxKey key() const {
    return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  }

  // 32 bits number the blocks of the stream; 48 each tell groups and runs apart.
  PhiloxCounter counter(std::uint32_t block) const {
    const auto high = static_cast<std::uint32_t>((group >> 32) & 0xffffu) |
                      (static_cast<std::uint32_t>(run >> 32) << 16);
    return {block, static_cast<std::uint32_t>(group), static_cast<std::uint32_t>(run), high};
  }
};

}  // namespace structdrop
