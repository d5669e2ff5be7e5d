// Mask shapes, and errors that name the value and what is allowed.
#include <cmath>

#include "bitmap.h"
#include "kernels.h"
#include "testing.h"

using namespace structdrop;

namespace {

template <class Body>
std::string message_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool names(const std::string& message, const char* value) {
  return message.find(value) != std::string::npos && message.find("allowed") != std::string::npos;
}

DropBlockAttributes block(std::vector<std::int64_t> size, std::int64_t channel = 1,
                          std::vector<std::int64_t> shared = {}) {
  DropBlockAttributes attributes;
  attributes.block_size = std::move(size);
  attributes.channel_axis = channel;
  attributes.shared_axes = std::move(shared);
  return attributes;
}

}  // namespace

TEST(masks_have_the_right_shape) {
  const Dims data{2, 3, 4, 5};
  EXPECT((spatial_layout(data, 1).mask == Dims{2, 3, 1, 1}));
  EXPECT((spatial_layout(data, -1).mask == Dims{2, 1, 1, 5}));
  EXPECT((spatial_layout(Dims{2, 3}, 1).mask == Dims{2, 3}));
  EXPECT((noise_shape_layout(data, {1, 0, 1, 0}).mask == Dims{1, 3, 1, 5}));
  EXPECT((drop_block_layout(data, block({7})).mask == data));
  EXPECT((drop_block_layout(data, block({7}, 3, {-1, 0})).mask == Dims{1, 3, 4, 1}));
  EXPECT(drop_block_scale_dims(drop_block_layout(data, block({7})), Normalize::batch).rank() == 0);
  EXPECT((drop_block_scale_dims(drop_block_layout(data, block({7})), Normalize::sample) ==
          Dims{2, 1, 1, 1}));
}

TEST(errors_name_value_and_what_is_allowed) {
  const Dims data{2, 3, 4, 5};
  EXPECT(names(message_of([&] { spatial_layout(data, 4); }), "4"));
  EXPECT(names(message_of([&] { spatial_layout(data, 0); }), "0"));
  EXPECT(names(message_of([&] { spatial_layout(data, -4); }), "-4"));
  EXPECT(names(message_of([&] { spatial_layout(Dims{2}, 1); }), "rank 1"));
  EXPECT(names(message_of([&] { spatial_layout(data, INT64_MIN); }), "-9223372036854775808"));
  EXPECT(names(message_of([&] { check_noise_shape({1, 2}); }), "2"));
  EXPECT(message_of([&] { noise_shape_layout(data, {1, 0}); }).find("(1, 0)") != std::string::npos);
  EXPECT(names(message_of([&] { drop_block_layout(Dims{2, 3}, block({7})); }), "rank 2"));
  EXPECT(names(message_of([&] { drop_block_layout(data, block({7, 7, 7})); }), "(7, 7, 7)"));
  EXPECT(names(message_of([&] { drop_block_layout(data, block({7}, 1, {2})); }), "shared axis 2"));
  EXPECT(names(message_of([&] { drop_block_layout(data, block({7}, 1, {9})); }), "shared axis 9"));
  EXPECT(names(message_of([&] { drop_block_layout(data, block({7}, 1, {1, -3})); }), "(1, -3)"));
  EXPECT(names(message_of([&] { block({0}).check(); }), "block_size is 0"));
  EXPECT(names(message_of([&] { block({}).check(); }), "empty"));
  EXPECT(names(message_of([&] { check_ratio(1.5f); }), "1.5"));
  EXPECT(names(message_of([&] { check_ratio(-0.25f); }), "-0.25"));
  EXPECT(names(message_of([&] { check_ratio(NAN); }), "nan"));
  EXPECT(message_of([&] { check_ratio(0.0f); }).empty());
  EXPECT(message_of([&] { check_ratio(1.0f); }).empty());
  EXPECT(names(message_of([&] { Dims(kMaxRank + 1); }), "13"));
  DropBlockAttributes odd = block({7});
  odd.seed_region = 2;
  EXPECT(names(message_of([&] { odd.check(); }), "seed_region is 2"));
  odd.seed_region = 0;
  odd.normalize = -1;
  EXPECT(names(message_of([&] { odd.check(); }), "normalize is -1"));
}

TEST(groups_start_at_whole_words_and_cover_everything) {
  for (const std::uint64_t size : {1, 7, 16, 49, 64, 784, 3136, 65536, 100001}) {
    for (const std::uint64_t units : {1, 2, 63, 64, 1000, 5000}) {
      const Groups groups(size, units);
      std::uint64_t next = 0;
      for (std::size_t group = 0; group < groups.count(); ++group) {
        EXPECT(groups.first_element(group) == next);
        EXPECT(next % 64 == 0);
        EXPECT(groups.units_in(group) > 0);
        next += groups.units_in(group) * size;
      }
      EXPECT(next == size * units);
    }
  }
}

TEST(runs_of_bits_are_set_and_copied) {
  std::mt19937_64 random(4);
  for (int round = 0; round < 3000; ++round) {
    const std::uint64_t from = random() % 200, at = random() % 200, count = random() % 300;
    std::uint64_t words[16] = {}, source[16], copy[16] = {};
    for (std::uint64_t& word : source) word = random();
    set_bits(words, at, count);
    copy_bits(copy, at, source, from, count);
    for (std::uint64_t i = 0; i < 512; ++i) {
      const bool inside = i >= at && i < at + count;
      EXPECT(test_bit(words, i) == inside);
      EXPECT(test_bit(copy, i) == (inside && test_bit(source, from + i - at)));
    }
  }
}

TEST(divisors_divide) {
  std::mt19937_64 random(21);
  for (int round = 0; round < 300000; ++round) {
    const std::uint64_t value = 1 + (random() >> (13 + random() % 50));
    const Divisor divisor(value);
    const std::uint64_t dividend = random() >> (13 + random() % 50);
    const std::uint64_t multiple = dividend / value * value;
    EXPECT(divisor.quotient(dividend) == dividend / value);
    EXPECT(divisor.quotient(multiple) == dividend / value);
    if (multiple > 0) EXPECT(divisor.quotient(multiple - 1) == dividend / value - 1);
  }
}
