// SpatialDropout, NoiseShapeDropout, their inference mode, and the gradient.
#include <algorithm>

#include "bitmap.h"
#include "broadcast.h"
#include "kernels.h"
#include "sampler.h"

namespace structdrop {
namespace {

struct Drops {
  std::uint64_t* words;

  void at(std::uint64_t position) { set_bit(words, position); }
  void bits(std::uint64_t first, std::uint64_t set) { words[first / 64] = set; }
};

}  // namespace

void noise_dropout(const Environment& environment, const MaskLayout& layout, float ratio,
                   bool scale_by_keep, Stream stream, const Tensors& tensors) {
  const std::uint64_t total = layout.data.elements();
  const std::uint64_t size = layout.mask.elements();
  const float scale = scale_by_keep && ratio < 1.0f ? 1.0f / (1.0f - ratio) : 1.0f;
  if (tensors.scale) *tensors.scale = scale;
  if (ratio == 0.0f || ratio == 1.0f) {
    if (tensors.mask) fill_bytes(environment, size, ratio == 0.0f, tensors.mask);
    if (ratio == 0.0f) {
      copy_all(environment, tensors.element, total, tensors.data, tensors.output);
    } else {
      clear_all(environment, tensors.element, total, tensors.output);
    }
    return;
  }
  Scratch::Lease lease(environment.scratch, padded_words_for(size));
  std::uint64_t* dropped = lease.words();
  dropped[words_for(size)] = 0;
  const Groups groups(1, size);
  const auto p = static_cast<double>(ratio);
  for_each(environment.parallel, static_cast<std::size_t>(size), groups.count(),
           [&](std::size_t group) {
             const std::uint64_t first = groups.first_element(group);
             const std::uint64_t count = groups.units_in(group);
             std::uint64_t* words = dropped + first / 64;
             std::fill_n(words, words_for(count), 0);
             Stream own = stream;
             own.group = group;
             sample(environment.simd, own, p, count, Drops{words});
             if (tensors.mask) environment.simd.unpack(words, count, tensors.mask + first);
           });
  Application application;
  application.element = tensors.element;
  application.data = tensors.data;
  application.output = tensors.output;
  application.dropped = dropped;
  application.scale = &scale;
  apply_mask(environment, layout.data, layout.mask, application);
}

void identity(const Environment& environment, const MaskLayout& layout, std::size_t scales,
              const Tensors& tensors) {
  if (tensors.mask) fill_bytes(environment, layout.mask.elements(), 1, tensors.mask);
  if (tensors.scale) std::fill_n(tensors.scale, scales, 1.0f);
  copy_all(environment, tensors.element, layout.data.elements(), tensors.data, tensors.output);
}

void structured_grad(const Environment& environment, const Dims& data, const Dims& mask_dims,
                     bool scale_per_sample, Element element, const void* output_grad,
                     const std::uint8_t* mask, const float* scale, void* data_grad) {
  Application application;
  application.element = element;
  application.data = output_grad;
  application.output = data_grad;
  application.scale = scale;
  application.scale_per_sample = scale_per_sample;
  if (mask_dims == data) {
    apply_full_mask(environment, data, mask, application);
    return;
  }
  const std::uint64_t size = mask_dims.elements();
  Scratch::Lease lease(environment.scratch, padded_words_for(size));
  std::uint64_t* dropped = lease.words();
  dropped[words_for(size)] = 0;
  const Groups groups(1, size);
  for_each(environment.parallel, static_cast<std::size_t>(size), groups.count(),
           [&](std::size_t group) {
             const std::uint64_t first = groups.first_element(group);
             environment.simd.pack(mask + first, groups.units_in(group), dropped + first / 64);
           });
  application.dropped = dropped;
  apply_mask(environment, data, mask_dims, application);
}

}  // namespace structdrop
