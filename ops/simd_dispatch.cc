// Which levels the processor has. The build defines STRUCTDROP_AVX2 or STRUCTDROP_NEON as 1 where
// it compiled that level.
#include <cstring>
#include <initializer_list>

#include "simd.h"

#if STRUCTDROP_AVX2
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace structdrop {
namespace {

#if STRUCTDROP_AVX2
struct Registers {
  unsigned eax, ebx, ecx, edx;
};

Registers cpuid(unsigned leaf) {
  Registers result{};
#if defined(_MSC_VER)
  int values[4];
  __cpuidex(values, static_cast<int>(leaf), 0);
  std::memcpy(&result, values, sizeof(result));
#else
  __cpuid_count(leaf, 0, result.eax, result.ebx, result.ecx, result.edx);
#endif
  return result;
}

std::uint64_t enabled_state() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
#endif
}

bool has_avx2() {
  if (cpuid(0).eax < 7) return false;
  constexpr unsigned kPopcnt = 1u << 23, kOsXsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr unsigned kNeeded = kPopcnt | kOsXsave | kAvx | kF16c;
  if ((cpuid(1).ecx & kNeeded) != kNeeded) return false;
  // The operating system has to save the wide registers, too.
  constexpr std::uint64_t kWideState = 6;
  if ((enabled_state() & kWideState) != kWideState) return false;
  return (cpuid(7).ebx & (1u << 5)) != 0;
}
#endif

}  // namespace

const Simd* find_simd(const char* name) {
#if STRUCTDROP_AVX2
  static const bool avx2 = has_avx2();
  if (avx2 && std::strcmp(name, "avx2") == 0) return &avx2_simd();
#endif
#if STRUCTDROP_NEON
  if (std::strcmp(name, "neon") == 0) return &neon_simd();
#endif
  return std::strcmp(name, baseline_simd().name) == 0 ? &baseline_simd() : nullptr;
}

const Simd& best_simd() {
  for (const char* name : {"avx2", "neon"}) {
    if (const Simd* simd = find_simd(name)) return *simd;
  }
  return baseline_simd();
}

const char* simd_names() {
#if STRUCTDROP_AVX2
  return "avx2, sse2";
#elif STRUCTDROP_NEON
  return "neon, portable";
#else
  return "portable";
#endif
}

}  // namespace structdrop
