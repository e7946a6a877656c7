// Elementwise arithmetic on u8: tables, sums and products (docs/numerics.md, "Static quantization").
#pragma once

#include "layout-inl.h"

namespace intaglio {
namespace {

// ---- Tables ---------------------------------------------------------------------------------------

template <class Map>
inline void map_rows(const LookUpArgs& args, const Map& map) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const uint8_t* x = args.x + r * args.x_stride;
    uint8_t* y = args.y + r * args.y_stride;
    int64_t i = 0;
    for (; i + kBytes <= args.cols; i += kBytes) store_u8s(y + i, map(load_u8s(x + i)));
    const int n = static_cast<int>(args.cols - i);
    if (n > 0) store_u8s_n(y + i, map(load_u8s_n(x + i, n)), n);
  }
}

void look_up_bytes(const LookUpArgs& args) noexcept {
  if (args.table == nullptr) {
    map_rows(args, [](I x) { return x; });
  } else if (args.permutes_bytes) {
    const ByteTable<true> table(args.table);
    map_rows(args, [&table](I x) { return table.look_up(x); });
  } else {
    const ByteTable<false> table(args.table);
    map_rows(args, [&table](I x) { return table.look_up(x); });
  }
}

// ---- Pairs ----------------------------------------------------------------------------------------

inline I load_steps(const uint8_t* p, I zero_point, int n) {
  if (n == kLanes) return sub_int(load_u8_int(p), zero_point);
  uint8_t bytes[kLanes] = {};
  __builtin_memcpy(bytes, p, static_cast<size_t>(n));
  return sub_int(load_u8_int(bytes), zero_point);
}

// `combine(a, b)` of integers less their zero points, to the float that is rounded.
template <class Combine>
inline void combine_pairs(const PairArgs& args, const Combine& combine) {
  const I zero_a = set_int(args.zero_point_a), zero_b = set_int(args.zero_point_b);
  const ByteEncoder encoder(args.range);
  const bool flat = args.single == SingleRow::kNone;
  const int64_t rows = flat ? 1 : args.rows, cols = flat ? args.rows * args.cols : args.cols;
  const int64_t a_stride = args.single == SingleRow::kA ? 0 : cols;
  const int64_t b_stride = args.single == SingleRow::kB ? 0 : cols;
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* a = args.a + r * a_stride;
    const uint8_t* b = args.b + r * b_stride;
    encode_span(cols, encoder, args.y + r * cols, [&](int64_t i, int n) {
      return combine(load_steps(a + i, zero_a, n), load_steps(b + i, zero_b, n));
    });
  }
}

void add_pairs(const PairArgs& args) noexcept {
  const F factor_a = set(args.factor_a), factor_b = set(args.factor_b);
  combine_pairs(args, [factor_a, factor_b](I a, I b) {
    return fma(to_float(a), factor_a, mul(to_float(b), factor_b));
  });
}

void mul_pairs(const PairArgs& args) noexcept {
  const F factor = set(args.factor_a);
  combine_pairs(args, [factor](I a, I b) { return mul(to_float(mul_int(a, b)), factor); });
}

}  // namespace
}  // namespace intaglio
