// Dynamic quantization of activations: ranges, parameters, integers (docs/numerics.md, section 3).
#pragma once

#include "row_params.h"

namespace intaglio {
namespace {

// Far beyond every integer of 8 bits and its zero point, and exact in float32.
constexpr float kLargestStep = 0x1p20f;

inline void range_of(const float* x, int64_t count, float* lo, float* hi) {
  F low = set(0.0f), high = set(0.0f), poison = set(0.0f);
  const F zero = set(0.0f);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const F v = load(x + i);
    low = min(v, low);
    high = max(v, high);
    poison = fma(v, zero, poison);  // 0 * inf and NaN are NaN: one instruction watches for both
  }
  if (i < count) {
    const F v = load_n(x + i, static_cast<int>(count - i));
    low = min(v, low);
    high = max(v, high);
    poison = fma(v, zero, poison);
  }
  const bool finite = !any_nan(poison);
  *lo = finite ? reduce_min(low) : __builtin_nanf("");
  *hi = finite ? reduce_max(high) : __builtin_nanf("");
}

// rne(x * inverse_scale), kept within what the conversion to int32 can hold. Where the parameters come
// from the data's own range no value can leave it, and kBounded is not needed.
template <bool kBounded>
inline I round_scaled(F x, F inverse_scale) {
  const F t = mul(x, inverse_scale);
  return to_int(kBounded ? min(set(kLargestStep), max(set(-kLargestStep), t)) : t);
}

template <bool kBounded>
inline void quantize_span(const float* x, int64_t count, float inverse_scale, int32_t zero_point,
                          uint8_t* q) {
  if (inverse_scale == 0.0f) {
    for (int64_t i = 0; i < count; ++i) q[i] = 0;
    return;
  }
  const F inverse = set(inverse_scale);
  const I zero = set_int(zero_point);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    store_u8(q + i, add_int(round_scaled<kBounded>(load(x + i), inverse), zero));
  if (i < count) {
    const int n = static_cast<int>(count - i);
    store_u8_n(q + i, add_int(round_scaled<kBounded>(load_n(x + i, n), inverse), zero), n);
  }
}

void quantize_rows(const QuantizeRowsArgs& args) noexcept {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* x = args.x + r * args.x_stride;
    uint8_t* q = args.q + r * args.q_stride;
    float lo, hi;
    range_of(x, args.cols, &lo, &hi);
    const RowParams p = choose_row_params(lo, hi);
    quantize_span<false>(x, args.cols, p.inverse_scale, p.zero_point, q);
    for (int64_t i = args.cols; i < args.q_stride; ++i) q[i] = 0;
    args.scale[r] = p.scale;
    args.zero_point[r] = p.zero_point;
  }
}

void find_range(const FindRangeArgs& args) noexcept { range_of(args.x, args.count, args.lo, args.hi); }

void quantize_values(const QuantizeValuesArgs& args) noexcept {
  quantize_span<true>(args.x, args.count, args.inverse_scale, args.zero_point, args.q);
}

}  // namespace
}  // namespace intaglio
