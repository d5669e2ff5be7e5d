// Independent events of one probability: which of n positions have one.
//
// Rare events are found by the gaps between them, which are geometric: the cost follows the
// number of events, not of positions. Frequent ones are found by one random word per position.
// The result is the same everywhere (see logarithm.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "philox.h"
#include "simd.h"

namespace structdrop {

// From here on a word per position is cheaper than a logarithm per event.
inline constexpr double kDenseFrom = 0.04;

// log(1 - p) without loss of digits for small p; p below kDenseFrom.
inline double log_miss(double p) {
  const double z = p / (2.0 - p);
  const double s = z * z;
  return -2.0 * z * (1.0 + s * (1.0 / 3 + s * (1.0 / 5 + s * (1.0 / 7 + s * (1.0 / 9)))));
}

// The words of one stream, one buffer after the other.
class Words {
 public:
  static constexpr std::size_t kSize = 256;

  Words(const Simd& simd, const Stream& stream) : simd_(simd), stream_(stream) {}

  // The next `count` words; a multiple of kPhiloxBatch, up to kSize.
  const std::uint32_t* next(std::size_t count) {
    const PhiloxCounter counter = stream_.counter(block_);
    const PhiloxKey key = stream_.key();
    simd_.philox(counter.data(), key.data(), count / kPhiloxBatch, buffer_);
    block_ += static_cast<std::uint32_t>(count / 4);
    return buffer_;
  }

 private:
  const Simd& simd_;
  const Stream stream_;
  std::uint32_t block_ = 0;
  alignas(32) std::uint32_t buffer_[kSize];
};

// Finds events of probability p among n positions. Calls events.at(position) in rising order, or
// events.bits(first, set), where bit i of `set` stands for position first + i.
template <class Events>
void sample(const Simd& simd, const Stream& stream, double p, std::uint64_t n, Events&& events) {
  if (p <= 0 || n == 0) return;
  Words source(simd, stream);
  if (p >= kDenseFrom) {
    const auto threshold = static_cast<std::uint32_t>(p * 0x1p32 + 0.5);
    for (std::uint64_t done = 0; done < n;) {
      const std::uint64_t left = n - done;
      const std::size_t count =
          left < Words::kSize ? static_cast<std::size_t>((left + 63) / 64 * 64) : Words::kSize;
      const std::uint32_t* words = source.next(count);
      for (std::size_t i = 0; i < count; i += 64, done += 64) {
        std::uint64_t set = simd.below(words + i, threshold);
        if (n - done < 64) set &= (std::uint64_t{1} << (n - done)) - 1;
        events.bits(done, set);
      }
    }
    return;
  }
  const double inverse = 1.0 / log_miss(p);
  const auto limit = static_cast<double>(n);
  double gaps[Words::kSize / 2];
  std::size_t count = 64;
  for (std::uint64_t position = 0;;) {
    simd.gaps(source.next(count), count / 2, inverse, limit, gaps);
    for (std::size_t i = 0; i < count / 2; ++i) {
      position += static_cast<std::uint64_t>(static_cast<std::int64_t>(gaps[i]));
      if (position >= n) return;
      events.at(position++);
    }
    count = Words::kSize;
  }
}

}  // namespace structdrop
