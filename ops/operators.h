// The operators as onnxruntime sees them.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>

#include "environment.h"
#include "ort_abi.h"
#include "runtime.h"

namespace structdrop {

// A node of a session. Runs may overlap.
class Kernel {
 public:
  Kernel(const abi::Api* api, const abi::KernelInfo* info, const char* op, Element element);
  virtual ~Kernel() = default;

  const abi::Api* api() const { return api_; }
  const std::string& title() const { return title_; }
  void run(abi::KernelContext* context);

 protected:
  virtual void compute(const Environment& environment, const RunContext& context) = 0;

  const Element element_;

 private:
  const abi::Api* api_;
  const std::string title_;
  const Simd& simd_;
  Scratch scratch_;
};

// What distinguishes one operator from another.
struct Operator {
  using Create = std::unique_ptr<Kernel> (*)(const abi::Api*, const abi::KernelInfo*,
                                             const char* op, Element);

  const char* name;
  std::size_t required_inputs;
  std::size_t inputs;
  std::size_t outputs;
  // Types of inputs after the first, and of outputs after the first; the first have that of data.
  abi::ElementType input_types[2];
  abi::ElementType output_types[2];
  Create create;
};

std::unique_ptr<Kernel> create_spatial_dropout(const abi::Api*, const abi::KernelInfo*, const char*,
                                               Element);
std::unique_ptr<Kernel> create_noise_shape_dropout(const abi::Api*, const abi::KernelInfo*,
                                                   const char*, Element);
std::unique_ptr<Kernel> create_drop_block(const abi::Api*, const abi::KernelInfo*, const char*,
                                          Element);
std::unique_ptr<Kernel> create_grad(const abi::Api*, const abi::KernelInfo*, const char*, Element);

void infer_output_shape(const abi::Api*, abi::ShapeInferContext*);

}  // namespace structdrop
