#include "broadcast.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "bitmap.h"

namespace structdrop {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{256} << 10;

// Shorter runs of a mask are spelled out element by element before they are applied: a call for
// each would cost more.
constexpr std::uint64_t kShortRun = 256;
constexpr std::uint64_t kSpelledElements = 4096;

// The shape with neighbouring axes merged where the mask treats them alike. Masks of any rank
// become a few axes, which alternate between shared and own.
struct Folded {
  std::uint64_t size[kMaxRank];
  std::uint64_t mask_stride[kMaxRank];  // 0 where shared
  int rank = 0;

  Folded(const Dims& data, const Dims& mask, int first_axis) {
    bool own[kMaxRank] = {};
    for (int axis = first_axis; axis < data.rank(); ++axis) {
      if (data[axis] == 1) continue;
      const bool is_own = mask[axis] != 1;
      if (rank > 0 && own[rank - 1] == is_own) {
        size[rank - 1] *= static_cast<std::uint64_t>(data[axis]);
        continue;
      }
      size[rank] = static_cast<std::uint64_t>(data[axis]);
      own[rank++] = is_own;
    }
    if (rank == 0) {
      size[0] = 1;
      own[0] = true;
      rank = 1;
    }
    std::uint64_t stride = 1;
    for (int axis = rank - 1; axis >= 0; --axis) {
      mask_stride[axis] = own[axis] ? stride : 0;
      if (own[axis]) stride *= size[axis];
    }
  }
};

// Walks over the runs of the innermost axis, from any element on.
class Runs {
 public:
  Runs(const Folded& shape, std::uint64_t mask_base, std::uint64_t element)
      : shape_(shape), mask_(mask_base) {
    for (int axis = shape.rank - 1; axis >= 0; --axis) {
      at_[axis] = element % shape.size[axis];
      element /= shape.size[axis];
      mask_ += at_[axis] * shape.mask_stride[axis];
    }
  }

  // Bit of the mask for the current element, and how many elements follow in its run.
  std::uint64_t bit() const { return mask_; }
  std::uint64_t left() const { return shape_.size[last()] - at_[last()]; }
  bool shared() const { return shape_.mask_stride[last()] == 0; }

  void advance(std::uint64_t count) {
    int axis = last();
    at_[axis] += count;
    mask_ += count * shape_.mask_stride[axis];
    while (axis > 0 && at_[axis] == shape_.size[axis]) {
      mask_ -= at_[axis] * shape_.mask_stride[axis];
      at_[axis] = 0;
      --axis;
      ++at_[axis];
      mask_ += shape_.mask_stride[axis];
    }
  }

 private:
  int last() const { return shape_.rank - 1; }

  const Folded& shape_;
  std::uint64_t at_[kMaxRank];
  std::uint64_t mask_;
};

// One range of elements, all with one scale.
struct Range {
  const Folded& shape;
  std::uint64_t mask_base;  // bit of the mask at which the shape's element 0 lies
  std::uint64_t begin;      // element of the shape
  std::uint64_t count;
  const std::byte* data;
  std::byte* output;
  float scale;
};

void apply_long_runs(const Simd& simd, Element element, const std::uint64_t* dropped,
                     const Range& range) {
  const std::size_t size = size_of(element);
  const std::size_t type = index_of(element);
  Runs runs(range.shape, range.mask_base, range.begin);
  for (std::uint64_t done = 0; done < range.count;) {
    const std::uint64_t count = std::min(runs.left(), range.count - done);
    const std::byte* in = range.data + done * size;
    std::byte* out = range.output + done * size;
    if (!runs.shared()) {
      simd.select[type](in, out, dropped, runs.bit(), count, range.scale);
    } else if (test_bit(dropped, runs.bit())) {
      std::memset(out, 0, count * size);
    } else {
      simd.scale[type](in, out, count, range.scale);
    }
    runs.advance(count);
    done += count;
  }
}

void apply_short_runs(const Simd& simd, Element element, const std::uint64_t* dropped,
                      const Range& range) {
  const std::size_t size = size_of(element);
  Runs runs(range.shape, range.mask_base, range.begin);
  for (std::uint64_t done = 0; done < range.count;) {
    const std::uint64_t block = std::min(kSpelledElements, range.count - done);
    std::uint64_t spelled[kSpelledElements / 64 + 1] = {};
    for (std::uint64_t at = 0; at < block;) {
      const std::uint64_t count = std::min(runs.left(), block - at);
      if (!runs.shared()) {
        copy_bits(spelled, at, dropped, runs.bit(), count);
      } else if (test_bit(dropped, runs.bit())) {
        set_bits(spelled, at, count);
      }
      runs.advance(count);
      at += count;
    }
    simd.select[index_of(element)](range.data + done * size, range.output + done * size, spelled, 0,
                                   block, range.scale);
    done += block;
  }
}

// Cuts `bytes` into chunks and calls task(first byte, number of bytes).
template <class Task>
void for_each_chunk(const Environment& environment, std::size_t bytes, Task&& task) {
  const std::size_t chunks = (bytes + kChunkBytes - 1) / kChunkBytes;
  for_each(environment.parallel, bytes, chunks, [&](std::size_t chunk) {
    const std::size_t first = chunk * kChunkBytes;
    task(first, std::min(kChunkBytes, bytes - first));
  });
}

}  // namespace

void apply_mask(const Environment& environment, const Dims& data, const Dims& mask,
                const Application& application) {
  const std::uint64_t total = data.elements();
  if (total == 0) return;
  // With a scale per sample, axis 0 stays apart, so that a range never spans two samples.
  const bool split = application.scale_per_sample;
  const Folded shape(data, mask, split ? 1 : 0);
  const std::uint64_t sample = split ? data.elements(1) : total;
  const std::uint64_t mask_step = split && mask[0] != 1 ? mask.elements(1) : 0;
  const bool is_one_run = shape.rank == 1;
  const bool is_short = !is_one_run && shape.size[shape.rank - 1] < kShortRun;
  const std::size_t size = size_of(application.element);
  const auto* in = static_cast<const std::byte*>(application.data);
  auto* out = static_cast<std::byte*>(application.output);
  for_each_chunk(environment, total * size, [&](std::size_t first, std::size_t bytes) {
    std::uint64_t element = first / size;
    const std::uint64_t end = element + bytes / size;
    while (element < end) {
      const std::uint64_t index = element / sample;
      const std::uint64_t begin = element - index * sample;
      const std::uint64_t count = std::min(end - element, sample - begin);
      const Range range{shape,
                        index * mask_step,
                        begin,
                        count,
                        in + element * size,
                        out + element * size,
                        application.scale[split ? index : 0]};
      (is_short ? apply_short_runs : apply_long_runs)(environment.simd, application.element,
                                                      application.dropped, range);
      element += count;
    }
  });
}

void apply_full_mask(const Environment& environment, const Dims& data, const std::uint8_t* kept,
                     const Application& application) {
  const std::uint64_t total = data.elements();
  if (total == 0) return;
  const std::uint64_t sample = application.scale_per_sample ? data.elements(1) : total;
  const std::size_t size = size_of(application.element);
  const auto* in = static_cast<const std::byte*>(application.data);
  auto* out = static_cast<std::byte*>(application.output);
  for_each_chunk(environment, total * size, [&](std::size_t first, std::size_t bytes) {
    std::uint64_t element = first / size;
    const std::uint64_t end = element + bytes / size;
    while (element < end) {
      const std::uint64_t index = element / sample;
      const std::uint64_t count = std::min(end, (index + 1) * sample) - element;
      environment.simd.select_bytes[index_of(application.element)](
          in + element * size, out + element * size, kept + element, count,
          application.scale[index]);
      element += count;
    }
  });
}

void copy_all(const Environment& environment, Element element, std::uint64_t count,
              const void* data, void* output) {
  if (data == output) return;
  const auto* in = static_cast<const std::byte*>(data);
  auto* out = static_cast<std::byte*>(output);
  for_each_chunk(environment, count * size_of(element), [&](std::size_t first, std::size_t bytes) {
    std::memcpy(out + first, in + first, bytes);
  });
}

void clear_all(const Environment& environment, Element element, std::uint64_t count, void* output) {
  auto* out = static_cast<std::byte*>(output);
  for_each_chunk(environment, count * size_of(element),
                 [&](std::size_t first, std::size_t bytes) { std::memset(out + first, 0, bytes); });
}

void fill_bytes(const Environment& environment, std::uint64_t count, std::uint8_t value,
                std::uint8_t* bytes) {
  for_each_chunk(environment, count, [&](std::size_t first, std::size_t size) {
    std::memset(bytes + first, value, size);
  });
}

}  // namespace structdrop
