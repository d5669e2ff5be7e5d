// The operators on plain memory. They know nothing of onnxruntime.
//
// Shapes and ratio have been checked. `mask` and `scale` may be null: then they are not wanted.
#pragma once

#include "environment.h"
#include "layout.h"
#include "philox.h"

namespace structdrop {

struct Tensors {
  Element element = Element::float32;
  const void* data = nullptr;
  void* output = nullptr;        // may be data
  std::uint8_t* mask = nullptr;  // one byte per element of the mask, 1 where kept
  float* scale = nullptr;
};

// SpatialDropout and NoiseShapeDropout: every element of the mask is dropped by itself.
void noise_dropout(const Environment& environment, const MaskLayout& layout, float ratio,
                   bool scale_by_keep, Stream stream, const Tensors& tensors);

// Shape of DropBlock's scale: one entry per sample of the mask, or none at all.
Dims drop_block_scale_dims(const MaskLayout& layout, Normalize normalize);

void drop_block(const Environment& environment, const MaskLayout& layout,
                const DropBlockAttributes& attributes, float ratio, Stream stream,
                const Tensors& tensors);

// Any of them in inference mode. `scales` is the number of entries of scale.
void identity(const Environment& environment, const MaskLayout& layout, std::size_t scales,
              const Tensors& tensors);

// data_grad = mask ? output_grad * scale : 0. The mask broadcasts to `data`; there is one scale,
// or one per index of axis 0.
void structured_grad(const Environment& environment, const Dims& data, const Dims& mask_dims,
                     bool scale_per_sample, Element element, const void* output_grad,
                     const std::uint8_t* mask, const float* scale, void* data_grad);

}  // namespace structdrop
