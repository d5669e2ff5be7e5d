// The shape of output 0, which is that of input 0. The runtime can let an output take the place of
// its input only where it knows that both have one size.
//
// The shapes of mask and scale are left to the run: a node may leave these outputs out, no call
// tells, and some runtimes abort when they are given the shape of an output that is not there.
#include <array>

#include "operators.h"

namespace structdrop {

void infer_output_shape(const abi::Api* api, abi::ShapeInferContext* context) {
  abi::TensorShapeInfo* data = nullptr;  // belongs to the context
  check(api, abi::ShapeInferContext_GetInputTypeShape(api, context, 0, &data));
  const Dims sizes = dims_of(api, data);
  // An unknown rank arrives as rank 0, which no operator takes.
  if (sizes.rank() == 0) return;
  const auto rank = static_cast<std::size_t>(sizes.rank());
  std::array<const char*, kMaxRank> names{};
  check(api, abi::GetSymbolicDimensions(api, data, names.data(), rank));
  for (std::size_t axis = 0; axis < rank; ++axis) {
    const bool is_known = sizes[static_cast<int>(axis)] >= 0;
    if (is_known || names[axis] == nullptr) names[axis] = "";
    // A size that has neither a value nor a name cannot be handed on.
    if (!is_known && *names[axis] == '\0') return;
  }
  abi::ElementType type = abi::ElementType::undefined;
  check(api, abi::GetTensorElementType(api, data, &type));

  abi::TensorShapeInfo* output = nullptr;
  check(api, abi::CreateTensorTypeAndShapeInfo(api, &output));
  (void)(succeeded(api, abi::SetTensorElementType(api, output, type)) &&
         succeeded(api, abi::SetDimensions(api, output, sizes.data(), rank)) &&
         succeeded(api, abi::SetSymbolicDimensions(api, output, names.data(), rank)) &&
         succeeded(api, abi::ShapeInferContext_SetOutputTypeShape(api, context, 0, output)));
  abi::ReleaseTensorTypeAndShapeInfo(api, output);
}

}  // namespace structdrop
