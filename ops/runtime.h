// onnxruntime's objects in C++ terms: exceptions instead of statuses, owners instead of release
// calls. Exceptions end in `guarded`; none crosses the ABI.
#pragma once

#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "environment.h"
#include "layout.h"
#include "ort_abi.h"

namespace structdrop {

// Throws Error with the runtime's message if a call failed.
void check(const abi::Api* api, abi::Status* status);

// Frees a status that does not matter; whether there was none.
bool succeeded(const abi::Api* api, abi::Status* status);

// Runs `body`; what it throws becomes a status whose message starts with `where`, which the body
// may still change.
template <class Body>
abi::Status* guarded(const abi::Api* api, const std::string& where, Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    try {
      const std::string message = where + ": " + error.what();
      return abi::CreateStatus(api, abi::ErrorCode::invalid_argument, message.c_str());
    } catch (...) {
      return abi::CreateStatus(api, abi::ErrorCode::fail, where.c_str());
    }
  } catch (...) {
    return abi::CreateStatus(api, abi::ErrorCode::fail, where.c_str());
  }
}

// "DropBlock node 'name'"
std::string node_title(const abi::Api* api, const abi::KernelInfo* info, const char* op);

// Attributes of the node that a kernel is made for.
class Attributes {
 public:
  Attributes(const abi::Api* api, const abi::KernelInfo* info) : api_(api), info_(info) {}

  std::int64_t integer(const char* name, std::optional<std::int64_t> fallback) const;
  bool flag(const char* name, std::optional<bool> fallback) const;
  std::vector<std::int64_t> integers(
      const char* name, const std::optional<std::vector<std::int64_t>>& fallback) const;

 private:
  bool exists(const char* name) const;
  bool is_no_list_of_integers(const char* name) const;
  [[noreturn]] static void wrong_type(const char* name, const char* type);
  void check_absent(const char* name, bool has_fallback, const char* type) const;

  const abi::Api* api_;
  const abi::KernelInfo* info_;
};

struct InputTensor {
  Dims dims;
  const void* data;
};

// The tensors of one run.
class RunContext {
 public:
  RunContext(const abi::Api* api, abi::KernelContext* context) : api_(api), context_(context) {}

  InputTensor input(std::size_t index) const;
  // Nothing if the node leaves this input out.
  std::optional<InputTensor> optional_input(std::size_t index) const;
  // Null if the node does not use this output.
  void* output(std::size_t index, const Dims& dims) const;

 private:
  const abi::Api* api_;
  abi::KernelContext* context_;
};

// The threads of the session.
class SessionThreads final : public Parallel {
 public:
  SessionThreads(const abi::Api* api, const abi::KernelContext* context)
      : api_(api), context_(context) {}

  void run(std::size_t tasks, Task task, void* context) const override;

 private:
  const abi::Api* api_;
  const abi::KernelContext* context_;
};

Dims dims_of(const abi::Api* api, const abi::TensorShapeInfo* info);

}  // namespace structdrop
