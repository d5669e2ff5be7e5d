// Holds ort_abi.h against the official headers. Compiled only where the build is given them.
#include <onnxruntime_c_api.h>

#include "ort_abi.h"

namespace abi = structdrop::abi;

static_assert(ORT_API_VERSION >= abi::kApiVersion, "headers of onnxruntime 1.17 or newer needed");

// Macros, because names of members cannot be template arguments.
#define CHECK_SLOT(name) \
  static_assert(offsetof(OrtApi, name) == abi::name.index * sizeof(void*), #name)
#define CHECK_MEMBER(name) \
  static_assert(offsetof(OrtCustomOp, name) == offsetof(abi::CustomOp, name), #name)

CHECK_SLOT(CreateStatus);
CHECK_SLOT(GetErrorMessage);
CHECK_SLOT(CreateCustomOpDomain);
CHECK_SLOT(CustomOpDomain_Add);
CHECK_SLOT(AddCustomOpDomain);
CHECK_SLOT(GetTensorMutableData);
CHECK_SLOT(CreateTensorTypeAndShapeInfo);
CHECK_SLOT(SetTensorElementType);
CHECK_SLOT(SetDimensions);
CHECK_SLOT(GetTensorElementType);
CHECK_SLOT(GetDimensionsCount);
CHECK_SLOT(GetDimensions);
CHECK_SLOT(GetSymbolicDimensions);
CHECK_SLOT(GetTensorTypeAndShape);
CHECK_SLOT(KernelInfoGetAttribute_float);
CHECK_SLOT(KernelInfoGetAttribute_int64);
CHECK_SLOT(KernelInfoGetAttribute_string);
CHECK_SLOT(KernelContext_GetInput);
CHECK_SLOT(KernelContext_GetOutput);
CHECK_SLOT(ReleaseStatus);
CHECK_SLOT(ReleaseTensorTypeAndShapeInfo);
CHECK_SLOT(KernelInfoGetAttributeArray_float);
CHECK_SLOT(KernelInfoGetAttributeArray_int64);
CHECK_SLOT(KernelInfo_GetNodeName);
CHECK_SLOT(ShapeInferContext_GetInputTypeShape);
CHECK_SLOT(ShapeInferContext_SetOutputTypeShape);
CHECK_SLOT(SetSymbolicDimensions);
CHECK_SLOT(KernelContext_ParallelFor);

CHECK_MEMBER(CreateKernel);
CHECK_MEMBER(GetName);
CHECK_MEMBER(GetExecutionProviderType);
CHECK_MEMBER(GetInputType);
CHECK_MEMBER(GetInputTypeCount);
CHECK_MEMBER(GetOutputType);
CHECK_MEMBER(GetOutputTypeCount);
CHECK_MEMBER(KernelCompute);
CHECK_MEMBER(KernelDestroy);
CHECK_MEMBER(GetInputCharacteristic);
CHECK_MEMBER(GetOutputCharacteristic);
CHECK_MEMBER(GetInputMemoryType);
CHECK_MEMBER(GetVariadicInputMinArity);
CHECK_MEMBER(GetVariadicInputHomogeneity);
CHECK_MEMBER(GetVariadicOutputMinArity);
CHECK_MEMBER(GetVariadicOutputHomogeneity);
CHECK_MEMBER(CreateKernelV2);
CHECK_MEMBER(KernelComputeV2);
CHECK_MEMBER(InferOutputShapeFn);
CHECK_MEMBER(GetStartVersion);
CHECK_MEMBER(GetEndVersion);
#if ORT_API_VERSION >= 18
CHECK_MEMBER(GetMayInplace);
CHECK_MEMBER(ReleaseMayInplace);
CHECK_MEMBER(GetAliasMap);
CHECK_MEMBER(ReleaseAliasMap);
#endif

template <class Ours, class Theirs>
constexpr bool same(Ours ours, Theirs theirs) {
  return static_cast<int>(ours) == static_cast<int>(theirs);
}

static_assert(same(abi::ErrorCode::fail, ORT_FAIL));
static_assert(same(abi::ErrorCode::invalid_argument, ORT_INVALID_ARGUMENT));
static_assert(same(abi::ElementType::float32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
static_assert(same(abi::ElementType::float64, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE));
static_assert(same(abi::ElementType::float16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16));
static_assert(same(abi::ElementType::bfloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16));
static_assert(same(abi::ElementType::int64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64));
static_assert(same(abi::ElementType::boolean, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL));
static_assert(same(abi::Characteristic::required, INPUT_OUTPUT_REQUIRED));
static_assert(same(abi::Characteristic::optional, INPUT_OUTPUT_OPTIONAL));
static_assert(same(abi::MemoryType::standard, OrtMemTypeDefault));
