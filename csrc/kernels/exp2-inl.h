// Sigmoid and tanh for gates, through one bounded power of two (docs/numerics.md, section "Gates").
//
//   E(x, c) = 2^clamp(x * c, -30, 30)      sigmoid(x) = 1 / (1 + E(x, -log2 e))
//                                          tanh(x) = (1 - E(x, -2 log2 e)) / (1 + E(x, -2 log2 e))
//
// At 2^30 both are within 1e-9 of their limits, while a product of three (1 + E) is far from overflow:
// cells multiply their denominators and divide once. A NaN passes through every operation.
#pragma once

namespace intaglio {
namespace {

constexpr float kMinusLog2E = -0x1.715476p+0f;
constexpr float kMinusTwoLog2E = -0x1.715476p+1f;
constexpr float kLargestExponent = 30.0f;

// 2^t for |t| <= 126, with a relative error of at most 5e-7 and exactly 1 at 0. The polynomial is
// minimax on [-1/2, 1/2]: tools/fit_exp2.py.
inline F exp2(F t) {
  const F n = round(t);
  const F f = sub(t, n);
  F p = set(0x1.23a604p-10f);
  p = fma(p, f, set(0x1.3cbea8p-7f));
  p = fma(p, f, set(0x1.c74322p-5f));
  p = fma(p, f, set(0x1.ebfa4ep-3f));
  p = fma(p, f, set(0x1.62e39ep-1f));
  p = fma(p, f, set(1.0f));
  return scale_by_power_of_2(p, to_int(n));
}

inline F bounded_exp2(F x, float factor) {
  const F t = mul(x, set(factor));
  return exp2(min(set(kLargestExponent), max(set(-kLargestExponent), t)));
}

}  // namespace
}  // namespace intaglio
