// How the parameters of a dynamic quantization follow from a range (docs/numerics.md, section 3).
//
// In an anonymous namespace because both the kernels, compiled once an instruction set, and the drivers
// include it: each gets a copy of its own.
#pragma once

#include <cstdint>

namespace intaglio {
namespace {

// Below this range a scale's inverse would overflow: 255 / kSmallestRange is just representable.
constexpr float kSmallestRange = 0x1p-118f;

struct RowParams {
  float scale, inverse_scale;
  int32_t zero_point;
};

// `lo` <= 0 <= `hi`, or NaN where a value was not finite; then the scale is NaN and all integers are 0.
inline RowParams choose_row_params(float lo, float hi) {
  float range = hi - lo;
  if (!(range < __builtin_inff())) return {__builtin_nanf(""), 0.0f, 0};
  if (range < kSmallestRange) range = kSmallestRange;
  const float inverse = 255.0f / range;
  return {range / 255.0f, inverse, static_cast<int32_t>(__builtin_nearbyintf(-lo * inverse))};
}

}  // namespace
}  // namespace intaglio
