// A test harness in one header: TEST(name) { EXPECT(condition); } and one main per file.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "environment.h"
#include "simd.h"

namespace testing {

struct Case {
  const char* name;
  void (*run)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline long& checks() {
  static long count = 0;
  return count;
}

inline long& failures() {
  static long count = 0;
  return count;
}

inline bool expect(bool holds, const char* what, const char* file, int line) {
  ++checks();
  if (!holds && ++failures() <= 20) std::printf("%s:%d: not true: %s\n", file, line, what);
  return holds;
}

struct Enrol {
  Enrol(const char* name, void (*run)()) { cases().push_back({name, run}); }
};

#define TEST(name)                                       \
  static void name();                                    \
  static const testing::Enrol enrol_##name(#name, name); \
  static void name()
#define EXPECT(condition) testing::expect((condition), #condition, __FILE__, __LINE__)

// Runs tasks on threads of its own, whatever the machine has.
class Threads final : public structdrop::Parallel {
 public:
  explicit Threads(std::size_t count) : count_(count) {}

  void run(std::size_t tasks, Task task, void* context) const override {
    std::vector<std::thread> threads;
    for (std::size_t thread = 0; thread < count_; ++thread) {
      threads.emplace_back([=] {
        // Last tasks first, to show that the order does not matter.
        for (std::size_t i = thread; i < tasks; i += count_) task(context, tasks - 1 - i);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  std::size_t count_;
};

inline std::vector<const structdrop::Simd*> simd_levels() {
  std::vector<const structdrop::Simd*> levels = {&structdrop::baseline_simd()};
  for (const char* name : {"avx2", "neon"}) {
    if (const structdrop::Simd* simd = structdrop::find_simd(name)) levels.push_back(simd);
  }
  return levels;
}

// Bytes that are all defined, floats of every kind among them.
inline std::vector<std::uint8_t> random_bytes(std::mt19937_64& random, std::size_t count) {
  std::vector<std::uint8_t> bytes(count + 8);
  for (std::size_t i = 0; i < count; i += 8) {
    const std::uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  bytes.resize(count);
  return bytes;
}

}  // namespace testing

int main() {
  for (const testing::Case& one : testing::cases()) {
    const long before = testing::failures();
    one.run();
    std::printf("%s %s\n", testing::failures() == before ? "ok    " : "FAILED", one.name);
  }
  std::printf("%zu tests, %ld checks, %ld failed\n", testing::cases().size(), testing::checks(),
              testing::failures());
  return testing::failures() == 0 ? 0 : 1;
}
