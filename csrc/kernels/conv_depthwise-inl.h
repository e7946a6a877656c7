// Depthwise convolution: a lane is a channel, and `dot` multiplies neighbouring taps of one row.
//
// spread_taps lays k_group taps of a row beside each other once; all output rows that need the row, and
// all chunks of a wide kernel, then read whole vectors. Sums are exact in int32.
#pragma once

#include "gemm-inl.h"

namespace intaglio {
namespace {

constexpr int kDepthwiseTile = 8;  // outputs whose accumulators are in flight together

inline void spread_row(const uint8_t* image, const SpreadTapsArgs& args, int32_t* out) {
  constexpr int kBits = 32 / kGroup;
  const int64_t position_bytes = args.position_bytes, tap_bytes = args.tap_bytes, n = args.positions;
  if constexpr (kGroup == 1) {
    for (int64_t p = 0; p < n; ++p) store_int(out + p * kLanes, load_u8_int(image + p * position_bytes));
  } else if (position_bytes == tap_bytes) {
    // Each position is the one before, moved by a tap.
    I v = set_int(0);
    const uint8_t* next = image;
#pragma GCC unroll 4
    for (int t = 0; t < kGroup - 1; ++t, next += tap_bytes)
      v = add_int(shift_right<kBits>(v), shift_left<32 - kBits>(load_u8_int(next)));
    for (int64_t p = 0; p < n; ++p, next += tap_bytes) {
      v = add_int(shift_right<kBits>(v), shift_left<32 - kBits>(load_u8_int(next)));
      store_int(out + p * kLanes, v);
    }
  } else {
    for (int64_t p = 0; p < n; ++p) {
      const uint8_t* at = image + p * position_bytes;
      I v = load_u8_int(at);
      v = add_int(v, shift_left<kBits>(load_u8_int(at + tap_bytes)));
      if constexpr (kGroup == 4) {
        v = add_int(v, shift_left<2 * kBits>(load_u8_int(at + 2 * tap_bytes)));
        v = add_int(v, shift_left<3 * kBits>(load_u8_int(at + 3 * tap_bytes)));
      }
      store_int(out + p * kLanes, v);
    }
  }
}

void spread_taps(const SpreadTapsArgs& args) noexcept {
  auto* out = static_cast<int32_t*>(args.spread);
  for (int64_t r = 0; r < args.rows; ++r)
    spread_row(args.image + r * args.row_bytes, args, out + r * args.row_vectors * kLanes);
}

struct DepthwisePlan {
  const int64_t* offset;
  int64_t tap_rows, chunks, chunk_step, column_step, row_groups;
  const int8_t* weight;
  I zero_sum;  // zero point times the sums of the weights
  F scale, bias;
  int channels;
  int64_t y_stride;
};

template <int T, bool kWhole>
__attribute__((noinline)) void depthwise_tile(const DepthwisePlan& plan, const int32_t* spread, float* y) {
  I acc[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) acc[t] = set_int(0);
  const int64_t step = plan.column_step * kLanes, chunk_step = plan.chunk_step * kLanes;
  const int64_t chunks = plan.chunks;
  for (int64_t r = 0; r < plan.tap_rows; ++r) {
    const int32_t* a = spread + plan.offset[r] * kLanes;
    const int8_t* w = plan.weight + r * plan.row_groups * kLanes * kGroup;
    for (int64_t j = 0; j < chunks; ++j, a += chunk_step, w += kLanes * kGroup) {
      const I weights = load_weights(w);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) acc[t] = dot(acc[t], load_int(a + t * step), weights);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) pin(acc[t]);
  // Copies: stores to y could alias the plan's fields.
  const I zero_sum = plan.zero_sum;
  const F scale = plan.scale, bias = plan.bias;
  const int64_t y_stride = plan.y_stride;
  const int channels = plan.channels;
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t, y += y_stride) {
    const F value = fma(to_float(sub_int(acc[t], zero_sum)), scale, bias);
    if constexpr (kWhole)
      store(y, value);
    else
      store_n(y, value, channels);
  }
}

using DepthwiseTile = void (*)(const DepthwisePlan&, const int32_t*, float*);

template <bool kWhole, int T = kDepthwiseTile>
DepthwiseTile depthwise_tile_of(int64_t columns) {
  if constexpr (T == 1) {
    return depthwise_tile<1, kWhole>;
  } else {
    return columns == T ? depthwise_tile<T, kWhole> : depthwise_tile_of<kWhole, T - 1>(columns);
  }
}

void conv_depthwise(const ConvDepthwiseArgs& args) noexcept {
  if (args.columns <= 0) return;
  const PackedLayout layout = layout_of(args.packed);
  const Panel panel = panel_of(layout, args.packed, args.panel);
  const DepthwisePlan plan{args.offset,
                           args.tap_rows,
                           args.chunks,
                           args.chunk_step,
                           args.column_step,
                           args.tap_rows == 0 ? 0 : layout.k_padded / args.tap_rows / kGroup,
                           panel.weight,
                           mul_int(set_int(args.zero_point), load_int(panel.column_sum)),
                           mul(set(args.scale), load(panel.scale)),
                           load(panel.bias),
                           static_cast<int>(panel.columns),
                           args.y_stride};
  // Tiles of one width: the last of a row repeats what of it is already done.
  const int64_t tiles = (args.columns + kDepthwiseTile - 1) / kDepthwiseTile;
  const int64_t width = (args.columns + tiles - 1) / tiles;
  const DepthwiseTile tile =
      panel.columns == kLanes ? depthwise_tile_of<true>(width) : depthwise_tile_of<false>(width);
  const auto* spread = static_cast<const int32_t*>(args.spread);
  for (int64_t r = 0; r < args.rows; ++r)
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t x = t + 1 < tiles ? t * width : args.columns - width;
      tile(plan, spread + (r * args.row_step + x * args.column_step) * kLanes,
           args.y + r * args.y_row_stride + x * args.y_stride);
    }
}

}  // namespace
}  // namespace intaglio
