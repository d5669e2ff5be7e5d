// What a kernel needs from whoever runs it: a SIMD level, threads and scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "simd.h"

namespace structdrop {

// Runs tasks that may go in parallel. Tasks do not throw.
class Parallel {
 public:
  using Task = void (*)(void* context, std::size_t index);

  virtual ~Parallel() = default;
  virtual void run(std::size_t tasks, Task task, void* context) const = 0;
};

class Serial final : public Parallel {
 public:
  void run(std::size_t tasks, Task task, void* context) const override {
    for (std::size_t i = 0; i < tasks; ++i) task(context, i);
  }
};

// Memory that a kernel needs during a run, kept for the next one: fresh pages cost more than the
// work done on them. Concurrent runs get memory of their own.
class Scratch {
 public:
  class Lease {
   public:
    Lease(Scratch& owner, std::size_t words) : owner_(&owner), block_(owner.take(words)) {}
    ~Lease() { owner_->give(std::move(block_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

    std::uint64_t* words() { return block_.words.get(); }

   private:
    friend class Scratch;
    Scratch* owner_;
    struct Block {
      std::unique_ptr<std::uint64_t[]> words;
      std::size_t size = 0;
    } block_;
  };

 private:
  Lease::Block take(std::size_t words) {
    Lease::Block block;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) {
        block = std::move(free_.back());
        free_.pop_back();
      } else {
        free_.reserve(free_.size() + ++lent_);  // so that give() cannot fail
      }
    }
    if (block.size < words) {
      block.words.reset();
      block.words.reset(new std::uint64_t[words]);
      block.size = words;
    }
    return block;
  }

  void give(Lease::Block block) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.size() < free_.capacity()) free_.push_back(std::move(block));
  }

  std::mutex mutex_;
  std::size_t lent_ = 0;
  std::vector<Lease::Block> free_;
};

struct Environment {
  const Simd& simd;
  const Parallel& parallel;
  Scratch& scratch;
};

// Below this, starting threads costs more than they save.
inline constexpr std::size_t kSerialBytes = std::size_t{64} << 10;

// Calls task(i) for i below `tasks`: on this thread if there are fewer than `kSerialBytes` to
// read or write, otherwise on as many as there are.
template <class Task>
void for_each(const Parallel& parallel, std::size_t bytes, std::size_t tasks, Task&& task) {
  if (bytes < kSerialBytes || tasks < 2) {
    for (std::size_t i = 0; i < tasks; ++i) task(i);
    return;
  }
  parallel.run(
      tasks, [](void* context, std::size_t i) { (*static_cast<Task*>(context))(i); }, &task);
}

}  // namespace structdrop
