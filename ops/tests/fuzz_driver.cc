// Stands in for libFuzzer where the compiler has none: random inputs for a number of seconds.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  std::mt19937_64 random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : std::random_device{}());
  long runs = 0;
  for (; elapsed() < seconds; ++runs) {
    std::vector<std::uint8_t> input(random() % 64);
    for (std::uint8_t& byte : input) byte = static_cast<std::uint8_t>(random());
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%ld runs in %.0f s\n", runs, elapsed());
  return 0;
}
