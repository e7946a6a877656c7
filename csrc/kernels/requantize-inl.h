// int32 sums to u8 with fixed parameters: the epilogue of the static kernels (struct Requantize).
//
// Only y's upper bound is kept: what lies below -2^31 converts to the smallest int32, and saturation does
// the rest, as it does for everything between 2^20 and the bound.
#pragma once

namespace intaglio {
namespace {

constexpr float kLargestSum = 0x1p30f;

// The parameters of up to four vectors of output channels, padded to whole vectors.
struct PanelRequantizer {
  static constexpr int kWidth = kMaxVectors * kLanes;
  alignas(64) int32_t first[kWidth];  // where sums start
  alignas(64) float multiplier[kWidth];
  alignas(64) float offset[kWidth];
  int32_t zero_point, lower, upper;
  int32_t residual_zero_point;
  float residual_multiplier;
  const uint8_t* residual;  // of the first of these channels, or nullptr
  int columns;              // channels that exist

  PanelRequantizer(const Requantize& r, int64_t begin, int64_t count, int32_t input_zero_point,
                   const int32_t* column_sum)
      : zero_point(r.zero_point),
        lower(r.lower),
        upper(r.upper),
        residual_zero_point(r.residual_zero_point),
        residual_multiplier(r.residual_multiplier),
        residual(r.residual == nullptr ? nullptr : r.residual + begin),
        columns(static_cast<int>(count)) {
    const I input_zero = set_int(input_zero_point);
    for (int j = 0; j < columns; j += kLanes) {
      const int n = columns - j < kLanes ? columns - j : kLanes;
      store_int(first + j, sub_int(set_int(0), mul_int(input_zero, load_int(column_sum + j))));
      store(multiplier + j, load_n(r.multiplier + begin + j, n));
      store(offset + j, load_n(r.offset + begin + j, n));
    }
  }
};

// What the epilogue of a tile keeps in registers.
struct RequantizeConstants {
  F largest, residual_multiplier;
  I zero, residual_zero;
  Bytes lower, upper;
  explicit RequantizeConstants(const PanelRequantizer& p)
      : largest(set(kLargestSum)),
        residual_multiplier(set(p.residual_multiplier)),
        zero(set_words(p.zero_point)),
        residual_zero(set_int(p.residual_zero_point)),
        lower(set_bytes(p.lower)),
        upper(set_bytes(p.upper)) {}
};

// NV vectors of sums of one pixel to `to`; the residual's bytes stand `at` bytes behind its start.
template <int NV>
inline __attribute__((always_inline)) void requantize_vectors(const I (&acc)[NV],
                                                              const PanelRequantizer& panel,
                                                              const RequantizeConstants& c, uint8_t* to,
                                                              int64_t at) {
  const bool whole = panel.columns == NV * kLanes;
  F y[NV];
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j)
    y[j] = fma(to_float(acc[j]), load(panel.multiplier + j * kLanes), load(panel.offset + j * kLanes));
  if (panel.residual != nullptr) {
    const uint8_t* r = panel.residual + at;
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const int left = panel.columns - j * kLanes;
      const F value = left >= kLanes ? to_float(sub_int(load_u8_int(r + j * kLanes), c.residual_zero))
                                     : sub(load_u8_n(r + j * kLanes, left), to_float(c.residual_zero));
      y[j] = fma(value, c.residual_multiplier, y[j]);
    }
  }
  I q[NV];
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) q[j] = to_int(min(y[j], c.largest));
  const Bytes bytes = clamp_bytes(pack_bytes<NV>(q, c.zero), c.lower, c.upper);
  if (whole)
    store_bytes<NV>(to, bytes);
  else
    store_bytes_n(to, bytes, panel.columns);
}

}  // namespace
}  // namespace intaglio
