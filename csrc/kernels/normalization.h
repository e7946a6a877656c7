// How a normalization follows from exact sums (docs/numerics.md, "Static quantization: normalization").
//
// In an anonymous namespace because both the kernels, compiled once an instruction set, and the drivers
// include it: each gets a copy of its own.
#pragma once

#include <cstdint>

namespace intaglio {
namespace {

// (a - mean) / deviation = fma(a, gain, shift).
struct Normalization {
  float gain, shift;
};

// Of `count` integers with this sum and this sum of squares; count is at most 2^23. `epsilon` is in squares
// of the input's scale. Integers that are all equal, without an epsilon, have gain and shift 0.
inline Normalization choose_normalization(int64_t count, int64_t sum, int64_t square, double epsilon) {
  const auto spread = static_cast<double>(count * square - sum * sum);
  const double n = static_cast<double>(count);
  const double variance = spread + n * n * epsilon;
  const double inverse = variance > 0.0 ? 1.0 / __builtin_sqrt(variance) : 0.0;
  return {static_cast<float>(n * inverse), static_cast<float>(-static_cast<double>(sum) * inverse)};
}

}  // namespace
}  // namespace intaglio
