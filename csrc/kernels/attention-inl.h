// Scaled dot-product attention of one head in float32 (docs/numerics.md, "Float operations of a Program").
//
// A tile of query rows multiplies all keys, its scores stay in L1 (in L2 for thousands of keys), become
// weights there, and multiply all values. Both products are chains of fma in the order of the depth and of
// the keys, so that the tile's height changes nothing.
#pragma once

#include "gemm_pack-inl.h"
#include "weights-inl.h"

namespace intaglio {
namespace {

constexpr int kHeadVectors = 2;
constexpr int64_t kHeadColumns = kHeadVectors * kLanes;  // divides kHeadPanel
constexpr int64_t kKeyBlock = 256;  // keys of one chain of values; the chains are added in order
constexpr int kHeadRows = kFloatTileRows[kHeadVectors];

// ---- Packing --------------------------------------------------------------------------------------

// Panels of kHeadColumns keys: all of the first value of the depth, then all of the second.
inline void pack_keys(const PackHeadArgs& args) {
  for (int64_t key = 0; key < args.keys; key += kHeadColumns)
    for (int64_t part = 0; part < kHeadColumns; part += kLanes) {
      const float* from = args.k + (key + part) * args.k_stride;
      float* to = args.packed_keys + key * args.depth + part;
      const int64_t left = args.keys - key - part;
      int64_t d = 0;
      if (left >= kLanes)
        for (; d + 4 <= args.depth; d += 4) {
          F v[4];
          load_quads(from + d, args.k_stride, v);
#pragma GCC unroll 4
          for (int c = 0; c < 4; ++c) store(to + (d + c) * kHeadColumns, v[c]);
        }
      for (; d < args.depth; ++d)
        for (int64_t l = 0; l < kLanes; ++l)
          to[d * kHeadColumns + l] = l < left ? from[l * args.k_stride + d] : 0.0f;
    }
}

void pack_head(const PackHeadArgs& args) noexcept {
  pack_keys(args);
  for (int64_t column = 0; column < args.width; column += kLanes) {
    const int64_t panel = column / kHeadColumns * kHeadColumns, left = args.width - column;
    const int n = static_cast<int>(left < kLanes ? left : kLanes);
    float* to = args.packed_values + panel * args.keys + (column - panel);
    for (int64_t key = 0; key < args.keys; ++key)
      store(to + key * kHeadColumns, load_n(args.v + key * args.v_stride + column, n));
    if (left <= kLanes && column == panel)  // the panel's second half has no columns
      for (int64_t key = 0; key < args.keys; ++key) store(to + key * kHeadColumns + kLanes, set(0.0f));
  }
}

// ---- Products -------------------------------------------------------------------------------------

template <int MR>
inline __attribute__((always_inline)) void multiply_panel(const float* a, int64_t a_stride, const float* b,
                                                          int64_t count, F (&acc)[MR][kHeadVectors]) {
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kHeadVectors; ++j) acc[i][j] = set(0.0f);
  for (const float* end = a + count; a < end; ++a, b += kHeadColumns) {
    F w[kHeadVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kHeadVectors; ++j) w[j] = load(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const F x = set(a[i * a_stride]);
#pragma GCC unroll 2
      for (int j = 0; j < kHeadVectors; ++j) acc[i][j] = fma(x, w[j], acc[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kHeadVectors; ++j) pin_float(acc[i][j]);
}

// The scores of MR rows for keys 0..limit-1, and what is left of the last panel.
template <int MR>
__attribute__((noinline)) void score_rows(const AttendRowsArgs& args, const float* q, int64_t limit,
                                          int64_t stride) {
  float* const scores = args.scratch;
  const int64_t q_stride = args.q_stride, depth = args.depth;
  const float* const keys = args.packed_keys;
  const F factor = set(args.factor);
  for (int64_t key = 0; key < limit; key += kHeadColumns) {
    F acc[MR][kHeadVectors];
    multiply_panel<MR>(q, q_stride, keys + key * depth, depth, acc);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < kHeadVectors; ++j)
        store(scores + i * stride + key + j * kLanes, mul(acc[i][j], factor));
  }
}

template <int MR>
__attribute__((noinline)) void blend_values(const AttendRowsArgs& args, const float* inverse, float* y,
                                            int64_t limit, int64_t stride) {
  const float *const weights = args.scratch, *const values = args.packed_values;
  const int64_t y_stride = args.y_stride, width = args.width, keys = args.keys;
  for (int64_t column = 0; column < width; column += kHeadColumns)
    for (int64_t key = 0; key == 0 || key < limit; key += kKeyBlock) {
      const int64_t count = limit - key < kKeyBlock ? limit - key : kKeyBlock;
      const bool is_last = key + kKeyBlock >= limit;
      F acc[MR][kHeadVectors];
      multiply_panel<MR>(weights + key, stride, values + column * keys + key * kHeadColumns, count, acc);
#pragma GCC unroll 2
      for (int j = 0; j < kHeadVectors; ++j) {
        const int64_t left = width - column - j * kLanes;
        const int n = static_cast<int>(left >= kLanes ? kLanes : left > 0 ? left : 0);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
          float* to = y + i * y_stride + column + j * kLanes;
          F v = acc[i][j];
          if (key > 0) v = add(load_n(to, n), v);
          if (is_last) v = mul(v, set(inverse[i]));
          n == kLanes ? store(to, v) : store_n(to, v, n);
        }
      }
    }
}

// ---- Weights --------------------------------------------------------------------------------------

// Masks of the lowest float32 are usual: below this their product with log2 e would be -infinity.
constexpr float kLowestMask = -2e38f;

// Scores of one row with its masks; a key that is not allowed gets -infinity.
__attribute__((noinline)) void mask_row(float* s, int64_t count, const float* mask, const uint8_t* allowed) {
  const F factor = set(kLog2E), none = set(-__builtin_inff()), lowest = set(kLowestMask);
  if (mask != nullptr)
    for_each_part(count, [&](int64_t j, int, auto n) __attribute__((always_inline)) {
      const F m = load_part(mask + j, n);
      const F bounded = choose(same_or_nan(m, none), m, max(lowest, m));
      store_part(s + j, fma(bounded, factor, load_part(s + j, n)), n);
    });
  if (allowed != nullptr)
    for (int64_t j = 0; j < count; ++j)
      if (allowed[j] == 0) s[j] = -__builtin_inff();
}

inline void weigh_rows(const AttendRowsArgs& args, int64_t query, int64_t rows, int64_t limit, int64_t stride,
                       float* inverse) {
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = query + i;
    float* s = args.scratch + i * stride;
    const int64_t count = args.is_causal && at + 1 < limit ? at + 1 : limit;
    if (args.mask != nullptr || args.allowed != nullptr)
      mask_row(s, count, args.mask == nullptr ? nullptr : args.mask + at * args.mask_stride,
               args.allowed == nullptr ? nullptr : args.allowed + at * args.allowed_stride);
    const float total = weigh_row(s, count, limit);
    inverse[i] = total == 0.0f ? 0.0f : 1.0f / total;
  }
}

// ---- Tiles ----------------------------------------------------------------------------------------

using ScoreRows = void (*)(const AttendRowsArgs&, const float*, int64_t, int64_t);
using BlendValues = void (*)(const AttendRowsArgs&, const float*, float*, int64_t, int64_t);
struct HeadTile {
  ScoreRows score;
  BlendValues blend;
};

// Tiles are full or have at most kLowRows: between, GCC 12 puts an operand on the stack, with registers to
// spare.
constexpr int kLowRows = kHeadRows > 8 ? 8 : kHeadRows;

template <int MR = kHeadRows>
HeadTile head_tile_of(int64_t rows) {
  constexpr int kLower = MR > kLowRows ? kLowRows : MR - 1;
  if constexpr (MR == 1)
    return {score_rows<1>, blend_values<1>};
  else
    return rows == MR ? HeadTile{score_rows<MR>, blend_values<MR>} : head_tile_of<kLower>(rows);
}

// The height of the next tile: the rest in even parts, where such a tile exists.
inline int64_t head_rows(int64_t rest) {
  const int64_t tiles = (rest + kHeadRows - 1) / kHeadRows, even = (rest + tiles - 1) / tiles;
  if (even <= kLowRows) return even;
  return rest >= kHeadRows ? kHeadRows : kLowRows;
}

void attend_rows(const AttendRowsArgs& args) noexcept {
  const int64_t stride = round_up(args.keys, kHeadColumns);
  for (int64_t group = args.query_begin; group < args.query_end; group += kQueryGroup) {
    const int64_t end = group + kQueryGroup < args.query_end ? group + kQueryGroup : args.query_end;
    const int64_t seen = group + kQueryGroup;  // by the group's last query, were it whole
    const int64_t limit = args.is_causal && seen < args.keys ? seen : args.keys;
    for (int64_t query = group, rows; query < end; query += rows) {
      rows = head_rows(end - query);
      const HeadTile tile = head_tile_of(rows);
      float inverse[kMostQueryRows];
      tile.score(args, args.q + query * args.q_stride, limit, stride);
      weigh_rows(args, query, rows, limit, stride, inverse);
      tile.blend(args, inverse, args.y + query * args.y_stride, limit, stride);
    }
  }
}

}  // namespace
}  // namespace intaglio
