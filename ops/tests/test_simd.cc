// Every SIMD level computes the same bytes as a loop over single elements.
#include "bitmap.h"
#include "philox.h"
#include "testing.h"

using namespace structdrop;

namespace {

template <class T>
T product(T value, float scale);

template <>
float product(float value, float scale) {
  return value * scale;
}
template <>
double product(double value, float scale) {
  return value * static_cast<double>(scale);
}
template <>
Half product(Half value, float scale) {
  return narrow_half(widen(value) * scale);
}
template <>
BFloat product(BFloat value, float scale) {
  return narrow_bfloat(widen(value) * scale);
}

constexpr std::size_t kMost = 700;

template <class T>
void check_select(Element element) {
  std::mt19937_64 random(index_of(element));
  for (int round = 0; round < 400; ++round) {
    const std::size_t count = random() % kMost;
    const std::size_t offset = random() % 200;
    const std::vector<std::uint8_t> data = testing::random_bytes(random, count * sizeof(T));
    std::vector<std::uint64_t> dropped(padded_words_for(offset + count) + 1);
    // Words of all kinds: mixed, all kept, all dropped.
    const int kind = round % 4;
    for (std::uint64_t& word : dropped) {
      const std::uint64_t draw = random() % 3;
      word = kind < 2 ? random() : draw == 0 ? 0 : draw == 1 ? ~std::uint64_t{0} : random();
    }
    const float scale = round % 5 == 0 ? 1.0f : 1.0f + static_cast<float>(random() % 1000) / 333;
    std::vector<std::uint8_t> expected(data.size()), scaled(data.size());
    for (std::size_t i = 0; i < count; ++i) {
      T value;
      std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
      const T result = product(value, scale);
      std::memcpy(scaled.data() + i * sizeof(T), &result, sizeof(T));
      if (!test_bit(dropped.data(), offset + i)) {
        std::memcpy(expected.data() + i * sizeof(T), &result, sizeof(T));
      }
    }
    for (const Simd* simd : testing::simd_levels()) {
      std::vector<std::uint8_t> output = data;
      simd->select[index_of(element)](output.data(), output.data(), dropped.data(), offset, count,
                                      scale);
      EXPECT(output == expected);
      std::vector<std::uint8_t> apart(data.size(), 0xcc);
      simd->select[index_of(element)](data.data(), apart.data(), dropped.data(), offset, count,
                                      scale);
      EXPECT(apart == expected);
      std::vector<std::uint8_t> kept(count);
      for (std::size_t i = 0; i < count; ++i) {
        kept[i] = test_bit(dropped.data(), offset + i) ? 0 : static_cast<std::uint8_t>(1 + i % 255);
      }
      output = data;
      simd->select_bytes[index_of(element)](output.data(), output.data(), kept.data(), count,
                                            scale);
      EXPECT(output == expected);
      simd->scale[index_of(element)](data.data(), apart.data(), count, scale);
      EXPECT(apart == scaled);
    }
  }
}

}  // namespace

TEST(select_float32) { check_select<float>(Element::float32); }
TEST(select_float64) { check_select<double>(Element::float64); }
TEST(select_float16) { check_select<Half>(Element::float16); }
TEST(select_bfloat16) { check_select<BFloat>(Element::bfloat16); }

TEST(every_half_times_a_scale) {
  std::vector<Half> data(0x10000);
  for (std::uint32_t i = 0; i < 0x10000; ++i) data[i].bits = static_cast<std::uint16_t>(i);
  for (const float scale : {1.0f, 1.1111112f, 3.7f, 1e-3f}) {
    for (const Simd* simd : testing::simd_levels()) {
      std::vector<Half> output(data.size());
      simd->scale[index_of(Element::float16)](data.data(), output.data(), data.size(), scale);
      for (std::size_t i = 0; i < data.size(); ++i) {
        EXPECT(output[i].bits == product(data[i], scale).bits);
      }
    }
  }
}

TEST(masks_pack_and_unpack) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 500; ++round) {
    const std::size_t count = random() % kMost;
    std::vector<std::uint64_t> words(padded_words_for(count));
    for (std::size_t i = 0; i < count; ++i) {
      if (random() % 3 == 0) set_bit(words.data(), i);
    }
    std::uint64_t set = 0;
    for (std::size_t i = 0; i < count; ++i) set += test_bit(words.data(), i);
    for (const Simd* simd : testing::simd_levels()) {
      EXPECT(simd->count(words.data(), words.size()) == set);
      std::vector<std::uint8_t> kept(count);
      simd->unpack(words.data(), count, kept.data());
      for (std::size_t i = 0; i < count; ++i) EXPECT(kept[i] == !test_bit(words.data(), i));
      // Any byte but 0 means kept.
      for (std::uint8_t& byte : kept)
        byte = byte ? static_cast<std::uint8_t>(1 + random() % 255) : 0;
      std::vector<std::uint64_t> packed(words.size());
      simd->pack(kept.data(), count, packed.data());
      EXPECT(packed == words);
    }
  }
}

TEST(smearing_shifts_the_whole_bitmap) {
  std::mt19937_64 random(20);
  for (int round = 0; round < 500; ++round) {
    std::vector<std::uint64_t> words(1 + random() % 30);
    for (std::uint64_t& word : words) word = random() & random() & random();
    const std::uint64_t shift = round % 3 == 0 ? 64 * (random() % 5) : random() % 700;
    std::vector<std::uint64_t> expected = words;
    for (std::size_t i = 0; i + shift < 64 * words.size(); ++i) {
      if (test_bit(words.data(), i)) set_bit(expected.data(), i + shift);
    }
    for (const Simd* simd : testing::simd_levels()) {
      std::vector<std::uint64_t> smeared = words;
      simd->smear(smeared.data(), smeared.size(), shift);
      EXPECT(smeared == expected);
    }
  }
}

TEST(comparisons_are_unsigned) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 200; ++round) {
    std::uint32_t words[64];
    for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(random());
    const auto threshold =
        round % 3 == 0 ? words[round % 64] : static_cast<std::uint32_t>(random());
    std::uint64_t expected = 0;
    for (std::size_t i = 0; i < 64; ++i) expected |= std::uint64_t{words[i] < threshold} << i;
    for (const Simd* simd : testing::simd_levels())
      EXPECT(simd->below(words, threshold) == expected);
  }
}

TEST(levels_are_found_by_name) {
  EXPECT(find_simd(baseline_simd().name) == &baseline_simd());
  EXPECT(find_simd("no such level") == nullptr);
  EXPECT(find_simd(best_simd().name) == &best_simd());
}
