// The library's one entry point, and the one list of its operators.
#include <algorithm>
#include <cstdio>
#include <mutex>

#include "operators.h"

#if defined(_WIN32)
#define STRUCTDROP_EXPORT __declspec(dllexport)
#else
#define STRUCTDROP_EXPORT __attribute__((visibility("default")))
#endif

namespace structdrop {
namespace {

using abi::ElementType;

// Found in the file by whoever wants to know what it is without loading it.
#if defined(__GNUC__)
__attribute__((used))
#endif
const char kIdentity[] = "structdrop-ops " STRUCTDROP_VERSION " api 17";
static_assert(abi::kApiVersion == 17, "the line above says so");

constexpr const char* kDomain = "pkg.onnx_structdrop";

constexpr Operator dropout(const char* name, Operator::Create create) {
  return {name,
          2,
          3,
          3,
          {ElementType::float32, ElementType::int64},
          {ElementType::boolean, ElementType::float32},
          create};
}

constexpr Operator kOperators[] = {
    dropout("SpatialDropout", create_spatial_dropout),
    dropout("NoiseShapeDropout", create_noise_shape_dropout),
    dropout("DropBlock", create_drop_block),
    {"StructuredDropoutGrad", 3, 3, 1, {ElementType::boolean, ElementType::float32}, {}, create_grad},
};
constexpr std::size_t kOperatorCount = sizeof(kOperators) / sizeof(kOperators[0]);

constexpr ElementType kElementTypes[kElementCount] = {ElementType::float32, ElementType::float64,
                                                      ElementType::float16, ElementType::bfloat16};

// An operator for one element type. The runtime hands the base back to every call but two.
struct Registration : abi::CustomOp {
  const Operator* op;
  Element element;
};

const Registration& registration(const abi::CustomOp* op) {
  return *static_cast<const Registration*>(op);
}

const char* name(const abi::CustomOp* op) { return registration(op).op->name; }
const char* provider(const abi::CustomOp*) { return nullptr; }
std::size_t input_count(const abi::CustomOp* op) { return registration(op).op->inputs; }
std::size_t output_count(const abi::CustomOp* op) { return registration(op).op->outputs; }

ElementType input_type(const abi::CustomOp* op, std::size_t index) {
  if (index == 0) return kElementTypes[index_of(registration(op).element)];
  return registration(op).op->input_types[index - 1];
}

ElementType output_type(const abi::CustomOp* op, std::size_t index) {
  if (index == 0) return kElementTypes[index_of(registration(op).element)];
  return registration(op).op->output_types[index - 1];
}

abi::Characteristic input_characteristic(const abi::CustomOp* op, std::size_t index) {
  return index < registration(op).op->required_inputs ? abi::Characteristic::required
                                                      : abi::Characteristic::optional;
}

abi::Characteristic output_characteristic(const abi::CustomOp*, std::size_t index) {
  return index == 0 ? abi::Characteristic::required : abi::Characteristic::optional;
}

abi::MemoryType memory_type(const abi::CustomOp*, std::size_t) { return abi::MemoryType::standard; }

int one(const abi::CustomOp*) { return 1; }

abi::Status* create_kernel(const abi::CustomOp* op, const abi::Api* api,
                           const abi::KernelInfo* info, void** kernel) {
  const Registration& own = registration(op);
  std::string title;  // short ones need no memory
  return guarded(api, title, [&] {
    title = node_title(api, info, own.op->name);
    *kernel = own.op->create(api, info, own.op->name, own.element).release();
  });
}

abi::Status* compute(void* op_kernel, abi::KernelContext* context) {
  Kernel& kernel = *static_cast<Kernel*>(op_kernel);
  return guarded(kernel.api(), kernel.title(), [&] { kernel.run(context); });
}

void destroy_kernel(void* kernel) { delete static_cast<Kernel*>(kernel); }

const abi::Api* g_api = nullptr;

abi::Status* infer_shapes(const abi::CustomOp*, abi::ShapeInferContext* context) {
  // Faults are reported when the node runs; here they only mean that the shape stays unknown.
  // A status would be ignored by the runtime, and leak.
  try {
    infer_output_shape(g_api, context);
  } catch (...) {
  }
  return nullptr;
}

// Output 0 may take the place of input 0, in every operator.
std::size_t may_inplace(int** inputs, int** outputs) {
  *inputs = new int[1]{0};
  *outputs = new int[1]{0};
  return 1;
}

std::size_t no_alias(int**, int**) { return 0; }

void release_indices(int* inputs, int* outputs) {
  delete[] inputs;
  delete[] outputs;
}

Registration make_registration(const Operator& op, Element element, std::uint32_t version) {
  Registration own{};
  own.version = version;
  own.GetName = name;
  own.GetExecutionProviderType = provider;
  own.GetInputType = input_type;
  own.GetInputTypeCount = input_count;
  own.GetOutputType = output_type;
  own.GetOutputTypeCount = output_count;
  own.KernelDestroy = destroy_kernel;
  own.GetInputCharacteristic = input_characteristic;
  own.GetOutputCharacteristic = output_characteristic;
  own.GetInputMemoryType = memory_type;
  own.GetVariadicInputMinArity = one;
  own.GetVariadicInputHomogeneity = one;
  own.GetVariadicOutputMinArity = one;
  own.GetVariadicOutputHomogeneity = one;
  own.CreateKernelV2 = create_kernel;
  own.KernelComputeV2 = compute;
  own.InferOutputShapeFn = infer_shapes;
  own.GetStartVersion = one;
  own.GetMayInplace = may_inplace;
  own.ReleaseMayInplace = release_indices;
  own.GetAliasMap = no_alias;
  own.ReleaseAliasMap = release_indices;
  own.op = &op;
  own.element = element;
  return own;
}

// Sessions refer to the domain and its operators for as long as they live, so both stay until the
// process ends, and all sessions share them.
abi::CustomOpDomain* domain(const abi::Api* api, std::uint32_t version) {
  static std::mutex mutex;
  static std::array<Registration, kOperatorCount * kElementCount> registrations;
  static abi::CustomOpDomain* shared = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (shared != nullptr) return shared;
  g_api = api;
  abi::CustomOpDomain* fresh = nullptr;
  check(api, abi::CreateCustomOpDomain(api, kDomain, &fresh));
  std::size_t next = 0;
  for (const Operator& op : kOperators) {
    for (std::size_t element = 0; element < kElementCount; ++element) {
      registrations[next] = make_registration(op, static_cast<Element>(element), version);
      check(api, abi::CustomOpDomain_Add(api, fresh, &registrations[next++]));
    }
  }
  return shared = fresh;
}

// Newest API version of a runtime. GetApi would tell, too, but prints a complaint where it says no.
std::uint32_t api_version(const char* runtime_version) {
  unsigned major = 0, minor = 0;
  if (std::sscanf(runtime_version, "%u.%u", &major, &minor) != 2) return 0;
  return major == 1 ? minor : major * 1000;
}

}  // namespace
}  // namespace structdrop

extern "C" STRUCTDROP_EXPORT structdrop::abi::Status* STRUCTDROP_CALL
RegisterCustomOps(structdrop::abi::SessionOptions* options, const structdrop::abi::ApiBase* base) {
  namespace abi = structdrop::abi;
  const char* runtime = base->GetVersionString();
  const std::uint32_t newest = structdrop::api_version(runtime);
  const abi::Api* api = base->GetApi(newest < abi::kApiVersion ? 1 : abi::kApiVersion);
  static const std::string title = "onnx_structdrop";
  return structdrop::guarded(api, title, [&] {
    if (newest < abi::kApiVersion) {
      throw structdrop::Error(std::string("onnxruntime is ") + runtime +
                              "; allowed is 1.17 or newer");
    }
    const std::uint32_t version = std::min(newest, abi::kInplaceApiVersion);
    structdrop::check(api, abi::AddCustomOpDomain(api, options, structdrop::domain(api, version)));
  });
}
