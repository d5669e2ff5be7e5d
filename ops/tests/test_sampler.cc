// The sampler draws Bernoulli events: count, gaps and positions, sparse and dense.
#include <cmath>
#include <map>

#include "logarithm.h"
#include "sampler.h"
#include "testing.h"

using namespace structdrop;

namespace {

struct Collect {
  std::vector<std::uint64_t> found;

  void at(std::uint64_t position) { found.push_back(position); }
  void bits(std::uint64_t first, std::uint64_t set) {
    for (unsigned i = 0; i < 64; ++i) {
      if ((set >> i) & 1u) found.push_back(first + i);
    }
  }
};

std::vector<std::uint64_t> draw(double p, std::uint64_t n, std::uint64_t group,
                                const Simd& simd = best_simd()) {
  Collect events;
  sample(simd, Stream{12345, 6, group}, p, n, events);
  return events.found;
}

// Upper bound that chi-square exceeds about once in a million (Wilson and Hilferty).
double bound(double degrees) {
  const double t = 2.0 / (9.0 * degrees);
  return degrees * std::pow(1.0 - t + 4.753 * std::sqrt(t), 3.0);
}

}  // namespace

TEST(logarithm_is_accurate) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 200000; ++i) {
    const double u = std::ldexp(static_cast<double>((random() >> 12) | 1), -52 - (i % 20));
    EXPECT(std::abs(Logarithm<int>::log(u) - std::log(u)) <= 4e-15 * (1 + std::abs(std::log(u))));
  }
  EXPECT(Logarithm<int>::log(0x1p-53) < -36.7);
  EXPECT(std::abs(Logarithm<int>::log(1 - 0x1p-53) + 0x1p-53) < 1e-18);
  for (double p = 1e-300; p < kDenseFrom; p *= 1.7) {
    EXPECT(std::abs(log_miss(p) / std::log1p(-p) - 1) < 1e-12);
  }
}

TEST(positions_rise_and_stay_inside) {
  for (const double p : {1e-9, 0.001, 0.0399, 0.04, 0.5, 0.999}) {
    for (const std::uint64_t n : {1, 63, 64, 65, 1000, 70000}) {
      std::uint64_t next = 0;
      for (const std::uint64_t position : draw(p, n, n)) {
        EXPECT(position >= next && position < n);
        next = position + 1;
      }
    }
  }
  EXPECT(draw(0, 1000, 0).empty());
  EXPECT(draw(0.5, 0, 0).empty());
}

TEST(counts_follow_the_binomial_distribution) {
  // One bin per number of events, small expectations pooled into the last.
  for (const double p : {0.0005, 0.005, 0.039, 0.041, 0.3, 0.9}) {
    constexpr int n = 100, rounds = 20000;
    std::vector<long> seen(n + 1);
    for (int round = 0; round < rounds; ++round)
      ++seen[draw(p, n, static_cast<std::uint64_t>(round)).size()];
    double chi = 0, pooled_expected = 0, pooled_seen = 0;
    int bins = 0;
    for (int k = 0; k <= n; ++k) {
      const double log_probability = std::lgamma(n + 1.0) - std::lgamma(k + 1.0) -
                                     std::lgamma(n - k + 1.0) + k * std::log(p) +
                                     (n - k) * std::log1p(-p);
      const double expected = rounds * std::exp(log_probability);
      if (expected < 10) {
        pooled_expected += expected;
        pooled_seen += static_cast<double>(seen[static_cast<std::size_t>(k)]);
        continue;
      }
      const double difference = static_cast<double>(seen[static_cast<std::size_t>(k)]) - expected;
      chi += difference * difference / expected;
      ++bins;
    }
    if (pooled_expected > 1) {
      chi += (pooled_seen - pooled_expected) * (pooled_seen - pooled_expected) / pooled_expected;
      ++bins;
    }
    EXPECT(chi < bound(bins - 1));
  }
}

TEST(gaps_are_geometric) {
  for (const double p : {0.003, 0.02, 0.0399, 0.05, 0.4}) {
    const std::vector<std::uint64_t> found = draw(p, 4000000, 1);
    const auto bins = static_cast<std::size_t>(1 + std::log(1e-3) / std::log1p(-p));
    std::vector<double> seen(bins + 1);
    for (std::size_t i = 1; i < found.size(); ++i) {
      seen[std::min<std::size_t>(found[i] - found[i - 1] - 1, bins)] += 1;
    }
    const auto total = static_cast<double>(found.size() - 1);
    double chi = 0;
    for (std::size_t gap = 0; gap <= bins; ++gap) {
      const double reach = std::pow(1 - p, static_cast<double>(gap));
      const double expected = total * (gap < bins ? reach * p : reach);
      chi += (seen[gap] - expected) * (seen[gap] - expected) / expected;
    }
    EXPECT(chi < bound(static_cast<double>(bins)));
  }
}

TEST(every_position_is_as_likely) {
  for (const double p : {0.01, 0.2}) {
    constexpr std::size_t n = 257;
    constexpr int rounds = 20000;
    std::vector<double> seen(n);
    for (int round = 0; round < rounds; ++round) {
      for (const std::uint64_t position : draw(p, n, 100000 + static_cast<std::uint64_t>(round))) {
        ++seen[position];
      }
    }
    double chi = 0;
    for (const double hits : seen) {
      chi += (hits - rounds * p) * (hits - rounds * p) / (rounds * p * (1 - p));
    }
    EXPECT(chi < bound(n));
  }
}

TEST(every_level_finds_the_same) {
  for (const double p : {0.001, 0.03, 0.05, 0.7}) {
    const std::vector<std::uint64_t> expected = draw(p, 100000, 9, baseline_simd());
    for (const Simd* simd : testing::simd_levels()) EXPECT(draw(p, 100000, 9, *simd) == expected);
  }
}

TEST(results_stay_the_same_between_versions) {
  // A change here changes what a seed means, which has to be announced.
  const std::vector<std::uint64_t> sparse = draw(0.01, 500, 7);
  const std::vector<std::uint64_t> dense = draw(0.5, 16, 7);
  std::uint64_t hash = 0;
  for (const std::uint64_t position : sparse) hash = hash * 1000003 + position;
  for (const std::uint64_t position : dense) hash = hash * 1000003 + position;
  if (!EXPECT(hash == 0xa9d3587002c7f757u))
    std::printf("hash is 0x%llx\n", static_cast<unsigned long long>(hash));
}
