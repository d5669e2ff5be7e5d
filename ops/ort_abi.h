// The slice of onnxruntime's C ABI that this library uses.
//
// OrtApi is a table of function pointers whose slots are never moved or removed, so a slot number
// and a signature are all it takes to call one. Numbers and layouts below are those of API 17;
// a build that is given the official headers checks them (ort_abi_check.cc).
#pragma once

#include <cstddef>
#include <cstdint>

namespace structdrop::abi {

// Parallel loops, shape inference and opset ranges came with API 17 (onnxruntime 1.17), in-place
// hints with API 18, whose extra members older runtimes do not read.
inline constexpr std::uint32_t kApiVersion = 17;
inline constexpr std::uint32_t kInplaceApiVersion = 18;

#if defined(_WIN32)
#define STRUCTDROP_CALL __stdcall
#else
#define STRUCTDROP_CALL
#endif

struct Api;
struct CustomOpDomain;
struct KernelContext;
struct KernelInfo;
struct SessionOptions;
struct ShapeInferContext;
struct Status;
struct TensorShapeInfo;
struct Value;

struct ApiBase {
  const Api*(STRUCTDROP_CALL* GetApi)(std::uint32_t version);
  const char*(STRUCTDROP_CALL* GetVersionString)();
};

enum class ErrorCode : int { fail = 1, invalid_argument = 2 };
enum class ElementType : int {
  undefined = 0,
  float32 = 1,
  int64 = 7,
  boolean = 9,
  float16 = 10,
  float64 = 11,
  bfloat16 = 16
};
enum class Characteristic : int { required = 0, optional = 1 };
enum class MemoryType : int { standard = 0 };

// One entry of OrtApi.
template <std::size_t number, class Signature>
struct Slot;

template <std::size_t number, class Result, class... Arguments>
struct Slot<number, Result(Arguments...)> {
  using Function = Result(STRUCTDROP_CALL*)(Arguments...);
  static constexpr std::size_t index = number;

  Result operator()(const Api* api, Arguments... arguments) const {
    return reinterpret_cast<const Function*>(api)[number](arguments...);
  }
};

static_assert(sizeof(void (*)()) == sizeof(void*), "OrtApi is a table of pointers of one size");

inline constexpr Slot<0, Status*(ErrorCode, const char*)> CreateStatus;
inline constexpr Slot<2, const char*(const Status*)> GetErrorMessage;
inline constexpr Slot<26, Status*(const char*, CustomOpDomain**)> CreateCustomOpDomain;
inline constexpr Slot<27, Status*(CustomOpDomain*, const struct CustomOp*)> CustomOpDomain_Add;
inline constexpr Slot<28, Status*(SessionOptions*, CustomOpDomain*)> AddCustomOpDomain;
inline constexpr Slot<51, Status*(Value*, void**)> GetTensorMutableData;
inline constexpr Slot<57, Status*(TensorShapeInfo**)> CreateTensorTypeAndShapeInfo;
inline constexpr Slot<58, Status*(TensorShapeInfo*, ElementType)> SetTensorElementType;
inline constexpr Slot<59, Status*(TensorShapeInfo*, const std::int64_t*, std::size_t)>
    SetDimensions;
inline constexpr Slot<60, Status*(const TensorShapeInfo*, ElementType*)> GetTensorElementType;
inline constexpr Slot<61, Status*(const TensorShapeInfo*, std::size_t*)> GetDimensionsCount;
inline constexpr Slot<62, Status*(const TensorShapeInfo*, std::int64_t*, std::size_t)>
    GetDimensions;
inline constexpr Slot<63, Status*(const TensorShapeInfo*, const char**, std::size_t)>
    GetSymbolicDimensions;
inline constexpr Slot<65, Status*(const Value*, TensorShapeInfo**)> GetTensorTypeAndShape;
inline constexpr Slot<85, Status*(const KernelInfo*, const char*, float*)>
    KernelInfoGetAttribute_float;
inline constexpr Slot<86, Status*(const KernelInfo*, const char*, std::int64_t*)>
    KernelInfoGetAttribute_int64;
inline constexpr Slot<87, Status*(const KernelInfo*, const char*, char*, std::size_t*)>
    KernelInfoGetAttribute_string;
inline constexpr Slot<90, Status*(const KernelContext*, std::size_t, const Value**)>
    KernelContext_GetInput;
inline constexpr Slot<91, Status*(KernelContext*, std::size_t, const std::int64_t*, std::size_t,
                                  Value**)>
    KernelContext_GetOutput;
inline constexpr Slot<93, void(Status*)> ReleaseStatus;
inline constexpr Slot<99, void(TensorShapeInfo*)> ReleaseTensorTypeAndShapeInfo;
inline constexpr Slot<162, Status*(const KernelInfo*, const char*, float*, std::size_t*)>
    KernelInfoGetAttributeArray_float;
inline constexpr Slot<163, Status*(const KernelInfo*, const char*, std::int64_t*, std::size_t*)>
    KernelInfoGetAttributeArray_int64;
inline constexpr Slot<244, Status*(const KernelInfo*, char*, std::size_t*)> KernelInfo_GetNodeName;
inline constexpr Slot<268, Status*(const ShapeInferContext*, std::size_t, TensorShapeInfo**)>
    ShapeInferContext_GetInputTypeShape;
inline constexpr Slot<270, Status*(const ShapeInferContext*, std::size_t, const TensorShapeInfo*)>
    ShapeInferContext_SetOutputTypeShape;
inline constexpr Slot<271, Status*(TensorShapeInfo*, const char**, std::size_t)>
    SetSymbolicDimensions;
inline constexpr Slot<274, Status*(const KernelContext*, void (*)(void*, std::size_t), std::size_t,
                                   std::size_t, void*)>
    KernelContext_ParallelFor;

// OrtCustomOp: what a library fills in for every operator and element type.
struct CustomOp {
  std::uint32_t version;

  void*(STRUCTDROP_CALL* CreateKernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char*(STRUCTDROP_CALL* GetName)(const CustomOp*);
  const char*(STRUCTDROP_CALL* GetExecutionProviderType)(const CustomOp*);
  ElementType(STRUCTDROP_CALL* GetInputType)(const CustomOp*, std::size_t);
  std::size_t(STRUCTDROP_CALL* GetInputTypeCount)(const CustomOp*);
  ElementType(STRUCTDROP_CALL* GetOutputType)(const CustomOp*, std::size_t);
  std::size_t(STRUCTDROP_CALL* GetOutputTypeCount)(const CustomOp*);
  void(STRUCTDROP_CALL* KernelCompute)(void*, KernelContext*);
  void(STRUCTDROP_CALL* KernelDestroy)(void*);
  Characteristic(STRUCTDROP_CALL* GetInputCharacteristic)(const CustomOp*, std::size_t);
  Characteristic(STRUCTDROP_CALL* GetOutputCharacteristic)(const CustomOp*, std::size_t);
  MemoryType(STRUCTDROP_CALL* GetInputMemoryType)(const CustomOp*, std::size_t);
  int(STRUCTDROP_CALL* GetVariadicInputMinArity)(const CustomOp*);
  int(STRUCTDROP_CALL* GetVariadicInputHomogeneity)(const CustomOp*);
  int(STRUCTDROP_CALL* GetVariadicOutputMinArity)(const CustomOp*);
  int(STRUCTDROP_CALL* GetVariadicOutputHomogeneity)(const CustomOp*);
  Status*(STRUCTDROP_CALL* CreateKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status*(STRUCTDROP_CALL* KernelComputeV2)(void*, KernelContext*);
  Status*(STRUCTDROP_CALL* InferOutputShapeFn)(const CustomOp*, ShapeInferContext*);
  int(STRUCTDROP_CALL* GetStartVersion)(const CustomOp*);
  int(STRUCTDROP_CALL* GetEndVersion)(const CustomOp*);
  std::size_t(STRUCTDROP_CALL* GetMayInplace)(int** inputs, int** outputs);
  void(STRUCTDROP_CALL* ReleaseMayInplace)(int* inputs, int* outputs);
  std::size_t(STRUCTDROP_CALL* GetAliasMap)(int** inputs, int** outputs);
  void(STRUCTDROP_CALL* ReleaseAliasMap)(int* inputs, int* outputs);
};

// Member n lies n pointers behind the version.
static_assert(offsetof(CustomOp, CreateKernel) == 1 * sizeof(void*));
static_assert(offsetof(CustomOp, KernelDestroy) == 9 * sizeof(void*));
static_assert(offsetof(CustomOp, GetVariadicOutputHomogeneity) == 16 * sizeof(void*));
static_assert(offsetof(CustomOp, KernelComputeV2) == 18 * sizeof(void*));
static_assert(offsetof(CustomOp, GetEndVersion) == 21 * sizeof(void*));
static_assert(offsetof(CustomOp, ReleaseAliasMap) == 25 * sizeof(void*));
static_assert(KernelContext_ParallelFor.index == 274);

}  // namespace structdrop::abi
