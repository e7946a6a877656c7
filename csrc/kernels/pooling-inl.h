// Pooling of u8 images: the largest and the average of windows (docs/numerics.md, "Static quantization").
#pragma once

#include "layout-inl.h"

namespace intaglio {
namespace {

// Where the bytes of a column's result go, and how those of its taps are read: in whole vectors also where
// fewer channels are left, as long as that stays inside the image and the row of results.
struct PoolColumn {
  PoolColumn(const PoolRowArgs& args, int64_t column)
      : x(args.x + args.first[column]),
        taps(args.taps[column]),
        y(args.y + column * args.channels),
        y_end(args.y + args.columns * args.channels) {}

  I read(const PoolRowArgs& args, const uint8_t* p, int n) const {
    return n == kBytes || args.x_end - p >= kBytes ? load_u8s(p) : load_u8s_n(p, n);
  }
  void write(int64_t c, I bytes, int n) const {
    n == kBytes || y_end - (y + c) >= kBytes ? store_u8s(y + c, bytes) : store_u8s_n(y + c, bytes, n);
  }
  template <class Body>
  void for_each_tap(const PoolRowArgs& args, int64_t c, const Body& body) const {
    const int64_t rows = args.rows, row_step = args.row_step, tap_step = args.tap_step;
    for (int64_t z = 0; z < args.planes; ++z) {
      const uint8_t* row = x + z * args.plane_step + c;
      for (int64_t r = 0; r < rows; ++r, row += row_step) {
        const uint8_t* p = row;
        for (int64_t t = 0; t < taps; ++t, p += tap_step) body(p);
      }
    }
  }

  const uint8_t* x;
  int64_t taps;
  uint8_t* y;
  const uint8_t* y_end;
};

// ---- The largest ----------------------------------------------------------------------------------

template <int NV>
inline void max_of_taps(const PoolRowArgs& args, const PoolColumn& column, int64_t c) {
  I most[NV];
#pragma GCC unroll 4
  for (int v = 0; v < NV; ++v) most[v] = set_u8s(0);
  column.for_each_tap(args, c, [&](const uint8_t* p) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) most[v] = max_u8s(most[v], load_u8s(p + v * kBytes));
  });
#pragma GCC unroll 4
  for (int v = 0; v < NV; ++v) store_u8s(column.y + c + v * kBytes, most[v]);
}

void max_pool_row(const PoolRowArgs& args) noexcept {
  const int64_t channels = args.channels;
  for (int64_t i = 0; i < args.columns; ++i) {
    const PoolColumn column(args, i);
    int64_t c = 0;
    for (; c + 4 * kBytes <= channels; c += 4 * kBytes) max_of_taps<4>(args, column, c);
    for (; c + kBytes <= channels; c += kBytes) max_of_taps<1>(args, column, c);
    if (c == channels) continue;
    const int n = static_cast<int>(channels - c);
    I most = set_u8s(0);
    column.for_each_tap(args, c, [&](const uint8_t* p) { most = max_u8s(most, column.read(args, p, n)); });
    column.write(c, most, n);
  }
}

// ---- The average ----------------------------------------------------------------------------------

// Sums of the bytes of a vector, of 16 bits: those of even places and those of odd ones.
struct ByteSums {
  static constexpr int32_t kEven = 0x00ff00ff;
  static constexpr int64_t kMost = 257;  // 257 * 255 = 2^16 - 1

  void add(I bytes) {
    even = add_int(even, and_int(bytes, set_int(kEven)));
    odd = add_int(odd, and_int(shift_right<8>(bytes), set_int(kEven)));
  }
  // Of 32 bits, in the order of interleave_u8_four.
  void widen(I (&sums)[4]) const {
    sums[0] = and_int(even, set_int(0xffff));
    sums[1] = and_int(odd, set_int(0xffff));
    sums[2] = shift_right<16>(even);
    sums[3] = shift_right<16>(odd);
  }

  I even = set_int(0), odd = set_int(0);
};

// kShort: no window has more taps than sums of 16 bits hold.
template <bool kShort>
inline void sum_taps(const PoolRowArgs& args, const PoolColumn& column, int64_t c, int n, I (&sums)[4]) {
  ByteSums part;
  if constexpr (kShort) {
    column.for_each_tap(args, c, [&](const uint8_t* p) { part.add(column.read(args, p, n)); });
    return part.widen(sums);
  }
  for (I& sum : sums) sum = set_int(0);
  const auto flush = [&] {
    I wide[4];
    part.widen(wide);
    for (int j = 0; j < 4; ++j) sums[j] = add_int(sums[j], wide[j]);
    part = ByteSums();
  };
  int64_t pending = 0;
  column.for_each_tap(args, c, [&](const uint8_t* p) {
    part.add(column.read(args, p, n));
    if (++pending % ByteSums::kMost == 0) flush();
  });
  flush();
}

template <bool kShort>
inline void average_columns(const PoolRowArgs& args) {
  const ByteEncoder encoder(args.range);
  for (int64_t i = 0; i < args.columns; ++i) {
    const PoolColumn column(args, i);
    const int64_t taps = args.planes * args.rows * column.taps;
    const I zero = set_int(static_cast<int32_t>(taps * args.range.zero_point));
    const F inverse = set(args.inverse[i]);
    for (int64_t c = 0; c < args.channels; c += kBytes) {
      const int n = to_n(args.channels - c, kBytes);
      I v[4];
      sum_taps<kShort>(args, column, c, n, v);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) v[j] = round_to_int(mul(to_float(sub_int(v[j], zero)), inverse));
      column.write(c, encoder.clamp(interleave_u8_four(v, encoder.zero)), n);
    }
  }
}

void average_pool_row(const PoolRowArgs& args) noexcept {
  int64_t most = 0;
  for (int64_t i = 0; i < args.columns; ++i) most = most < args.taps[i] ? args.taps[i] : most;
  const bool is_short = args.planes * args.rows * most <= ByteSums::kMost;
  is_short ? average_columns<true>(args) : average_columns<false>(args);
}

}  // namespace
}  // namespace intaglio
