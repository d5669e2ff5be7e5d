#include "runtime.h"

namespace structdrop {

void check(const abi::Api* api, abi::Status* status) {
  if (status == nullptr) return;
  const std::string message = abi::GetErrorMessage(api, status);
  abi::ReleaseStatus(api, status);
  throw Error(message);
}

bool succeeded(const abi::Api* api, abi::Status* status) {
  if (status == nullptr) return true;
  abi::ReleaseStatus(api, status);
  return false;
}

std::string node_title(const abi::Api* api, const abi::KernelInfo* info, const char* op) {
  std::size_t size = 0;
  std::string name;
  // The size includes the terminating zero.
  if (succeeded(api, abi::KernelInfo_GetNodeName(api, info, nullptr, &size)) && size > 1) {
    name.resize(size);
    check(api, abi::KernelInfo_GetNodeName(api, info, name.data(), &size));
    name.resize(size - 1);
  }
  return std::string(op) + " node '" + name + "'";
}

bool Attributes::exists(const char* name) const {
  // The runtime has no such question. It does answer this one for an attribute of any type.
  std::size_t size = 0;
  return succeeded(api_, abi::KernelInfoGetAttributeArray_int64(api_, info_, name, nullptr, &size));
}

bool Attributes::is_no_list_of_integers(const char* name) const {
  std::int64_t integer;
  float number;
  std::size_t size = 0;
  return succeeded(api_, abi::KernelInfoGetAttribute_int64(api_, info_, name, &integer)) ||
         succeeded(api_, abi::KernelInfoGetAttribute_float(api_, info_, name, &number)) ||
         succeeded(api_, abi::KernelInfoGetAttribute_string(api_, info_, name, nullptr, &size)) ||
         (succeeded(api_,
                    abi::KernelInfoGetAttributeArray_float(api_, info_, name, nullptr, &size)) &&
          size > 0);
}

void Attributes::wrong_type(const char* name, const char* type) {
  throw Error(std::string("attribute ") + name + " has the wrong type; allowed is " + type);
}

void Attributes::check_absent(const char* name, bool has_fallback, const char* type) const {
  if (exists(name)) wrong_type(name, type);
  if (!has_fallback) {
    throw Error(std::string("attribute ") + name + " is missing; it is required, as " + type);
  }
}

std::int64_t Attributes::integer(const char* name, std::optional<std::int64_t> fallback) const {
  std::int64_t value = 0;
  if (succeeded(api_, abi::KernelInfoGetAttribute_int64(api_, info_, name, &value))) return value;
  check_absent(name, fallback.has_value(), "an integer");
  return *fallback;
}

bool Attributes::flag(const char* name, std::optional<bool> fallback) const {
  std::optional<std::int64_t> number;
  if (fallback) number = *fallback ? 1 : 0;
  const std::int64_t value = integer(name, number);
  if (value != 0 && value != 1) {
    throw Error(std::string(name) + " is " + std::to_string(value) + "; allowed is 0 or 1");
  }
  return value == 1;
}

std::vector<std::int64_t> Attributes::integers(
    const char* name, const std::optional<std::vector<std::int64_t>>& fallback) const {
  std::size_t size = 0;
  if (succeeded(api_, abi::KernelInfoGetAttributeArray_int64(api_, info_, name, nullptr, &size))) {
    // What has another type is an empty list to the runtime.
    if (size == 0 && is_no_list_of_integers(name)) wrong_type(name, "a list of integers");
    std::vector<std::int64_t> values(size);
    if (size > 0) {
      check(api_, abi::KernelInfoGetAttributeArray_int64(api_, info_, name, values.data(), &size));
    }
    return values;
  }
  check_absent(name, fallback.has_value(), "a list of integers");
  return *fallback;
}

Dims dims_of(const abi::Api* api, const abi::TensorShapeInfo* info) {
  std::size_t rank = 0;
  check(api, abi::GetDimensionsCount(api, info, &rank));
  if (rank > static_cast<std::size_t>(kMaxRank)) {
    throw Error("a tensor has rank " + std::to_string(rank) + "; allowed is a rank up to " +
                std::to_string(kMaxRank));
  }
  Dims dims(static_cast<int>(rank));
  check(api, abi::GetDimensions(api, info, dims.data(), rank));
  return dims;
}

InputTensor RunContext::input(std::size_t index) const {
  const std::optional<InputTensor> tensor = optional_input(index);
  if (!tensor) throw Error("input " + std::to_string(index) + " is missing; it is required");
  return *tensor;
}

std::optional<InputTensor> RunContext::optional_input(std::size_t index) const {
  const abi::Value* value = nullptr;
  check(api_, abi::KernelContext_GetInput(api_, context_, index, &value));
  if (value == nullptr) return std::nullopt;
  abi::TensorShapeInfo* info = nullptr;
  check(api_, abi::GetTensorTypeAndShape(api_, value, &info));
  struct Owner {
    const abi::Api* api;
    abi::TensorShapeInfo* info;
    ~Owner() { abi::ReleaseTensorTypeAndShapeInfo(api, info); }
  } const owner{api_, info};
  void* data = nullptr;
  check(api_, abi::GetTensorMutableData(api_, const_cast<abi::Value*>(value), &data));
  return InputTensor{dims_of(api_, info), data};
}

void* RunContext::output(std::size_t index, const Dims& dims) const {
  abi::Value* value = nullptr;
  check(api_, abi::KernelContext_GetOutput(api_, context_, index, dims.data(),
                                           static_cast<std::size_t>(dims.rank()), &value));
  if (value == nullptr) return nullptr;
  void* data = nullptr;
  check(api_, abi::GetTensorMutableData(api_, value, &data));
  return data;
}

void SessionThreads::run(std::size_t tasks, Task task, void* context) const {
  check(api_, abi::KernelContext_ParallelFor(api_, context_, task, tasks, 0, context));
}

}  // namespace structdrop
