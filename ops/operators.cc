#include "operators.h"

#include <cstdlib>
#include <new>

#include "kernels.h"

namespace structdrop {
namespace {

// STRUCTDROP_SIMD picks a level by name, for tests and comparisons.
const Simd& wanted_simd() {
  const char* name = std::getenv("STRUCTDROP_SIMD");
  if (name == nullptr || *name == '\0') return best_simd();
  if (const Simd* simd = find_simd(name)) return *simd;
  throw Error(std::string("STRUCTDROP_SIMD is '") + name + "'; allowed is one of " + simd_names() +
              ", where the processor has it");
}

float ratio_of(const RunContext& context) {
  const InputTensor ratio = context.input(1);
  if (ratio.dims.elements() != 1) {
    throw Error("ratio has shape " + to_string(ratio.dims) + "; allowed is a scalar");
  }
  const float value = *static_cast<const float*>(ratio.data);
  check_ratio(value);
  return value;
}

// The three that drop: attributes, inputs and outputs that they have in common.
class Dropout : public Kernel {
 public:
  Dropout(const abi::Api* api, const abi::KernelInfo* info, const char* op, Element element)
      : Kernel(api, info, op, element) {
    const Attributes attributes(api, info);
    is_training_ = attributes.flag("training_mode", false);
    seed_ = static_cast<std::uint64_t>(attributes.integer("seed", std::nullopt));
    // A session that goes on where another one ended draws on from there. Functions lack this.
    const std::int64_t first_run = attributes.integer("first_run", 0);
    if (first_run < 0) {
      throw Error("first_run is " + std::to_string(first_run) + "; allowed is 0 or more");
    }
    runs_ = static_cast<std::uint64_t>(first_run);
  }

 protected:
  void compute(const Environment& environment, const RunContext& context) override {
    const InputTensor data = context.input(0);
    const float ratio = ratio_of(context);
    const MaskLayout layout = layout_of(data.dims);
    const Dims scale_dims = scale_dims_of(layout);
    Tensors tensors;
    tensors.element = element_;
    tensors.data = data.data;
    tensors.output = context.output(0, data.dims);
    tensors.mask = static_cast<std::uint8_t*>(context.output(1, layout.mask));
    tensors.scale = static_cast<float*>(context.output(2, scale_dims));
    if (!is_training_) {
      identity(environment, layout, static_cast<std::size_t>(scale_dims.elements()), tensors);
      return;
    }
    // Runs are numbered anew in every session, so a session replays the masks of the last one.
    const std::uint64_t run = runs_.fetch_add(1, std::memory_order_relaxed);
    const std::optional<InputTensor> draws = context.optional_input(2);
    if (draws && data.dims.elements() != 0) {
      drop_rows(environment, layout, scale_dims, ratio, *draws, tensors);
    } else {
      drop(environment, layout, ratio, Stream{seed_, run, 0}, tensors);
    }
  }

  virtual MaskLayout layout_of(const Dims& data) const = 0;
  virtual Dims scale_dims_of(const MaskLayout&) const { return Dims(); }
  // Whether the scale of a row does not depend on the others.
  virtual bool has_row_scales() const { return true; }
  virtual void drop(const Environment& environment, const MaskLayout& layout, float ratio,
                    Stream stream, const Tensors& tensors) const = 0;

 private:
  // Drops every row of the batch as a batch of its own would be in the run that `draws` numbers:
  // what becomes of a row does not depend on its place and its neighbours. Functions lack this.
  void drop_rows(const Environment& environment, const MaskLayout& layout, const Dims& scale_dims,
                 float ratio, const InputTensor& draws, const Tensors& tensors) const {
    const Dims& data = layout.data;
    if (data.rank() == 0 || !(draws.dims == Dims{data[0]})) {
      throw Error("draws has shape " + to_string(draws.dims) + " beside data of shape " +
                  to_string(data) + "; allowed is one number for each index of data's first axis");
    }
    const std::int64_t rows = data[0];
    if (layout.mask[0] != rows) {
      throw Error(
          "the mask is shared along the batch; with draws, allowed is a mask of its own for each "
          "index of the first axis");
    }
    if (!has_row_scales()) {
      throw Error("normalize is 1, over the batch; with draws, allowed is 2 (per sample) or 0");
    }
    const auto* run = static_cast<const std::int64_t*>(draws.data);
    for (std::int64_t row = 0; row < rows; ++row) {
      if (run[row] < 0 || run[row] >= kMostRuns) {
        throw Error("draws holds " + std::to_string(run[row]) +
                    "; allowed is 0 to 2^48 - 1, the number of a run");
      }
    }
    MaskLayout own = layout;
    own.data[0] = own.mask[0] = 1;
    const std::size_t bytes = data.elements(1) * size_of(tensors.element);
    const std::size_t masks = layout.mask.elements(1);
    const auto drop_row = [&](const Environment& where, std::size_t row) {
      Tensors part = tensors;
      part.data = static_cast<const char*>(tensors.data) + row * bytes;
      part.output = static_cast<char*>(tensors.output) + row * bytes;
      if (tensors.mask) part.mask += row * masks;
      if (tensors.scale && scale_dims.rank() > 0) part.scale += row;
      drop(where, own, ratio, Stream{seed_, static_cast<std::uint64_t>(run[row]), 0}, part);
    };
    if (rows == 1) {
      drop_row(environment, 0);
      return;
    }
    // Threads are woken once for all rows, not once or twice for each. Tasks do not throw.
    const Serial serial;
    const Environment alone{environment.simd, serial, environment.scratch};
    std::atomic<bool> is_out_of_memory{false};
    for_each(environment.parallel, data.elements() * size_of(tensors.element),
             static_cast<std::size_t>(rows), [&](std::size_t row) {
               try {
                 drop_row(alone, row);
               } catch (const std::bad_alloc&) {
                 is_out_of_memory = true;
               }
             });
    if (is_out_of_memory) throw std::bad_alloc();
  }

  // As many as a stream tells apart.
  static constexpr std::int64_t kMostRuns = std::int64_t{1} << 48;

  bool is_training_ = false;
  std::uint64_t seed_ = 0;
  std::atomic<std::uint64_t> runs_{0};
};

class SpatialDropout final : public Dropout {
 public:
  SpatialDropout(const abi::Api* api, const abi::KernelInfo* info, const char* op, Element element)
      : Dropout(api, info, op, element),
        channel_axis_(Attributes(api, info).integer("channel_axis", 1)) {}

 protected:
  MaskLayout layout_of(const Dims& data) const override {
    return spatial_layout(data, channel_axis_);
  }
  void drop(const Environment& environment, const MaskLayout& layout, float ratio, Stream stream,
            const Tensors& tensors) const override {
    noise_dropout(environment, layout, ratio, true, stream, tensors);
  }

 private:
  const std::int64_t channel_axis_;
};

class NoiseShapeDropout final : public Dropout {
 public:
  NoiseShapeDropout(const abi::Api* api, const abi::KernelInfo* info, const char* op,
                    Element element)
      : Dropout(api, info, op, element),
        noise_shape_(Attributes(api, info).integers("noise_shape", std::nullopt)),
        scale_by_keep_(Attributes(api, info).flag("scale_by_keep", true)) {
    check_noise_shape(noise_shape_);
  }

 protected:
  MaskLayout layout_of(const Dims& data) const override {
    return noise_shape_layout(data, noise_shape_);
  }
  void drop(const Environment& environment, const MaskLayout& layout, float ratio, Stream stream,
            const Tensors& tensors) const override {
    noise_dropout(environment, layout, ratio, scale_by_keep_, stream, tensors);
  }

 private:
  const std::vector<std::int64_t> noise_shape_;
  const bool scale_by_keep_;
};

class DropBlock final : public Dropout {
 public:
  DropBlock(const abi::Api* api, const abi::KernelInfo* info, const char* op, Element element)
      : Dropout(api, info, op, element) {
    const Attributes attributes(api, info);
    own_.block_size = attributes.integers("block_size", std::nullopt);
    own_.channel_axis = attributes.integer("channel_axis", 1);
    own_.shared_axes = attributes.integers("shared_axes", std::vector<std::int64_t>{});
    own_.seed_region = attributes.integer("seed_region", 0);
    own_.normalize = attributes.integer("normalize", 1);
    own_.check();
  }

 protected:
  MaskLayout layout_of(const Dims& data) const override { return drop_block_layout(data, own_); }
  Dims scale_dims_of(const MaskLayout& layout) const override {
    return drop_block_scale_dims(layout, static_cast<Normalize>(own_.normalize));
  }
  bool has_row_scales() const override {
    return static_cast<Normalize>(own_.normalize) != Normalize::batch;
  }
  void drop(const Environment& environment, const MaskLayout& layout, float ratio, Stream stream,
            const Tensors& tensors) const override {
    drop_block(environment, layout, own_, ratio, stream, tensors);
  }

 private:
  DropBlockAttributes own_;
};

class Grad final : public Kernel {
 public:
  using Kernel::Kernel;

 protected:
  void compute(const Environment& environment, const RunContext& context) override {
    const InputTensor grad = context.input(0);
    const InputTensor mask = context.input(1);
    const InputTensor scale = context.input(2);
    const int rank = grad.dims.rank();
    bool broadcasts = mask.dims.rank() == rank;
    for (int axis = 0; broadcasts && axis < rank; ++axis) {
      broadcasts = mask.dims[axis] == 1 || mask.dims[axis] == grad.dims[axis];
    }
    if (!broadcasts) {
      throw Error("mask has shape " + to_string(mask.dims) +
                  "; allowed is the rank of output_grad, and on every axis size 1 or its size: " +
                  to_string(grad.dims));
    }
    Dims per_sample(rank);
    if (rank > 0) per_sample[0] = grad.dims[0];
    const bool is_single = scale.dims.elements() == 1;
    if (!is_single && !(scale.dims == per_sample)) {
      throw Error("scale has shape " + to_string(scale.dims) + "; allowed is a scalar, or " +
                  to_string(per_sample) + ", one per sample");
    }
    structured_grad(environment, grad.dims, mask.dims, !is_single, element_, grad.data,
                    static_cast<const std::uint8_t*>(mask.data),
                    static_cast<const float*>(scale.data), context.output(0, grad.dims));
  }
};

template <class Node>
std::unique_ptr<Kernel> create(const abi::Api* api, const abi::KernelInfo* info, const char* op,
                               Element element) {
  return std::make_unique<Node>(api, info, op, element);
}

}  // namespace

Kernel::Kernel(const abi::Api* api, const abi::KernelInfo* info, const char* op, Element element)
    : element_(element), api_(api), title_(node_title(api, info, op)), simd_(wanted_simd()) {}

void Kernel::run(abi::KernelContext* context) {
  const SessionThreads threads(api_, context);
  compute({simd_, threads, scratch_}, RunContext(api_, context));
}

std::unique_ptr<Kernel> create_spatial_dropout(const abi::Api* api, const abi::KernelInfo* info,
                                               const char* op, Element element) {
  return create<SpatialDropout>(api, info, op, element);
}

std::unique_ptr<Kernel> create_noise_shape_dropout(const abi::Api* api, const abi::KernelInfo* info,
                                                   const char* op, Element element) {
  return create<NoiseShapeDropout>(api, info, op, element);
}

std::unique_ptr<Kernel> create_drop_block(const abi::Api* api, const abi::KernelInfo* info,
                                          const char* op, Element element) {
  return create<DropBlock>(api, info, op, element);
}

std::unique_ptr<Kernel> create_grad(const abi::Api* api, const abi::KernelInfo* info,
                                    const char* op, Element element) {
  return create<Grad>(api, info, op, element);
}

}  // namespace structdrop
