// Dynamic quantization of activations: ranges, parameters, integers (docs/numerics.md, section 3).
#pragma once

#include "row_params.h"

namespace intaglio {
namespace {

// Far beyond every integer of 8 bits and its zero point, and exact in float32.
constexpr float kLargestStep = 0x1p20f;

// A running range: its ends, and a value that turns NaN with the first NaN or infinity, because 0 * v is
// NaN for both: one instruction watches for all of them.
struct Range {
  F low, high, poison;

  void widen(F v) {
    low = min(v, low);
    high = max(v, high);
    poison = fma(v, set(0.0f), poison);
  }
  void widen(const Range& other) {
    low = min(other.low, low);
    high = max(other.high, high);
    poison = add(poison, other.poison);
  }
};

inline void range_of(const float* x, int64_t count, float* lo, float* hi) {
  constexpr int kChains = 4;  // a single chain would wait out the latency of fma at every step
  Range chain[kChains];
#pragma GCC unroll 4
  for (int c = 0; c < kChains; ++c) chain[c].low = chain[c].high = chain[c].poison = set(0.0f);
  int64_t i = 0;
  for (; i + kChains * kLanes <= count; i += kChains * kLanes)
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) chain[c].widen(load(x + i + c * kLanes));
  for (; i + kLanes <= count; i += kLanes) chain[0].widen(load(x + i));
  if (i < count) chain[1].widen(load_n(x + i, static_cast<int>(count - i)));
  chain[0].widen(chain[1]);
  chain[2].widen(chain[3]);
  chain[0].widen(chain[2]);
  const bool finite = !any_nan(chain[0].poison);
  *lo = finite ? reduce_min(chain[0].low) : __builtin_nanf("");
  *hi = finite ? reduce_max(chain[0].high) : __builtin_nanf("");
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
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    I v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[j] = round_scaled<kBounded>(load(x + i + j * kLanes), inverse);
    store_u8_four(q + i, v, zero_point);
  }
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
