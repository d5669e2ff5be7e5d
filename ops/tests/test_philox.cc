// Philox4x32-10 against the known answers that its authors published, and the word order of every
// SIMD level against the plain definition.
#include "philox.h"
#include "testing.h"

using namespace structdrop;

TEST(known_answers) {
  EXPECT((philox4x32({0, 0, 0, 0}, {0, 0}) ==
          PhiloxCounter{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  constexpr std::uint32_t ones = 0xffffffffu;
  EXPECT((philox4x32({ones, ones, ones, ones}, {ones, ones}) ==
          PhiloxCounter{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  EXPECT((philox4x32({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u},
                     {0xa4093822u, 0x299f31d0u}) ==
          PhiloxCounter{0xd16cfe09u, 0x94fdcceb, 0x5001e420u, 0x24126ea1u}));
}

TEST(every_level_has_the_same_words) {
  const std::uint32_t counters[][4] = {{0, 0, 0, 0}, {0xfffffff0u, 1, 2, 3}, {7, ~0u, ~0u, ~0u}};
  const std::uint32_t key[2] = {0xdeadbeefu, 0x01234567u};
  for (const Simd* simd : testing::simd_levels()) {
    for (const auto& counter : counters) {
      std::uint32_t words[5 * kPhiloxBatch];
      simd->philox(counter, key, 5, words);
      for (std::uint32_t block = 0; block < 5 * kPhiloxLanes; ++block) {
        const PhiloxCounter expected =
            philox4x32({counter[0] + block, counter[1], counter[2], counter[3]}, {key[0], key[1]});
        const std::uint32_t* batch = words + block / kPhiloxLanes * kPhiloxBatch;
        for (std::size_t word = 0; word < 4; ++word) {
          EXPECT(batch[word * kPhiloxLanes + block % kPhiloxLanes] == expected[word]);
        }
      }
    }
  }
}

TEST(streams_do_not_meet) {
  const Stream a{1, 2, 3}, b{1, 3, 2}, c{1, 2, (std::uint64_t{1} << 32) + 3},
      d{1, (std::uint64_t{1} << 32) + 2, 3};
  EXPECT(a.counter(0) != b.counter(0));
  EXPECT(a.counter(0) != c.counter(0));
  EXPECT(a.counter(0) != d.counter(0));
  EXPECT(c.counter(0) != d.counter(0));
  EXPECT((Stream{std::uint64_t{1} << 32, 0, 0}.key() != Stream{0, 0, 0}.key()));
}
