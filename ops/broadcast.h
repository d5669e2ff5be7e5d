// Applying a compact mask to data: output = dropped ? 0 : data * scale.
#pragma once

#include "environment.h"
#include "layout.h"

namespace structdrop {

struct Application {
  Element element = Element::float32;
  const void* data = nullptr;
  void* output = nullptr;                  // may be data
  const std::uint64_t* dropped = nullptr;  // bitmap of the mask
  const float* scale = nullptr;
  bool scale_per_sample = false;  // one scale per index of data's axis 0
};

void apply_mask(const Environment& environment, const Dims& data, const Dims& mask,
                const Application& application);

// The same with a full mask of bytes, 1 where kept, and one scale or one per sample.
void apply_full_mask(const Environment& environment, const Dims& data, const std::uint8_t* kept,
                     const Application& application);

// What is left of it where nothing or everything is dropped.
void copy_all(const Environment& environment, Element element, std::uint64_t count,
              const void* data, void* output);
void clear_all(const Environment& environment, Element element, std::uint64_t count, void* output);
void fill_bytes(const Environment& environment, std::uint64_t count, std::uint8_t value,
                std::uint8_t* bytes);

}  // namespace structdrop
