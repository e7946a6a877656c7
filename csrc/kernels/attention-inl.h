// Scaled dot-product attention of one head in integers of 16 bits (docs/numerics.md, "Float operations of a
// Program").
//
// A tile of query rows multiplies all keys, its scores stay in L1 (in L2 for thousands of keys), become
// weights there, and multiply all values. Both products are exact sums of products of words, two for each
// instruction: twice the rate of float32, and neither the tile's height nor the order changes anything.
#pragma once

#include "gemm_pack-inl.h"
#include "weights-inl.h"
#include "words-inl.h"

namespace intaglio {
namespace {

constexpr int kHeadVectors = 2;
constexpr int64_t kHeadColumns = kHeadVectors * kLanes;  // divides kHeadPanel
constexpr int kHeadRows = kFloatTileRows[kHeadVectors];
// Values of one exact sum: 64 * kMostWeight * kValueLimit < 2^31. The sums are added in order, as floats.
constexpr int64_t kKeyBlock = 64;
constexpr float kValueLimit = 1023.0f;

// ---- Rounding to words ----------------------------------------------------------------------------

struct WordScale {
  float scale, inverse;
};

// The largest words of queries and keys of which `depth` products add up to an int32.
inline float depth_limit(int64_t depth) {
  const auto limit =
      static_cast<float>(__builtin_floor(__builtin_sqrt(2147483647.0 / static_cast<double>(depth))));
  return limit < 32767.0f ? limit : 32767.0f;
}

// The scale that takes `most`, the largest magnitude, to `limit`; NaN where it is not finite.
inline WordScale choose_word_scale(float most, float limit) {
  constexpr float kSmallest = 0x1p-100f;  // below, the inverse may overflow
  if (!(most < __builtin_inff())) return {__builtin_nanf(""), 0.0f};
  return most < kSmallest ? WordScale{0.0f, 0.0f} : WordScale{most / limit, limit / most};
}

// Magnitudes compare as their bits do, and NaN is above all of them.
inline I magnitude_bits(F x) { return and_int(as_int(x), set_int(0x7fffffff)); }

inline float largest_magnitude(const float* x, int64_t count) {
  I most = set_int(0);
  for_each_part(count, [&](int64_t i, int, auto n) __attribute__((always_inline)) {
    most = max_int(most, magnitude_bits(load_part(x + i, n)));
  });
  const int32_t bits = reduce_max_int(most);
  float largest;
  __builtin_memcpy(&largest, &bits, 4);
  return largest;
}

// Two words of each lane: those of a low, of b high.
inline I pair_words(I a, I b) { return add_int(and_int(a, set_int(0xffff)), shift_left<16>(b)); }
inline I rounded(F x, F inverse) { return to_int(mul(x, inverse)); }

// A head's rows lie apart, where the CPU's own fetching does not follow. Always inlined, as prefetch_row of
// embedding-inl.h.
constexpr int64_t kHeadRowsAhead = 32;
inline __attribute__((always_inline)) void fetch_row(const float* p, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(p + i);
}

// ---- Packing --------------------------------------------------------------------------------------

// Panels of kHeadColumns keys: of all keys the first two of the depth, then of all the next two.
inline void pack_keys(const PackHeadArgs& args) {
  const float limit = depth_limit(args.depth);
  const int64_t depth = words_of_depth(args.depth);
  for (int64_t key = 0; key < round_up(args.keys, kHeadColumns); key += kLanes) {
    const float* from = args.k + key * args.k_stride;
    const int64_t left = args.keys - key, panel = key / kHeadColumns * kHeadColumns;
    alignas(64) float inverse[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) {
      fetch_row(from + (l + kHeadRowsAhead) * args.k_stride, args.depth);
      const float most = l < left ? largest_magnitude(from + l * args.k_stride, args.depth) : 0.0f;
      const WordScale chosen = choose_word_scale(most, limit);
      args.key_scales[key + l] = chosen.scale;
      inverse[l] = chosen.inverse;
    }
    const F factor = load(inverse);
    int16_t* to = args.packed_keys + panel * depth + (key - panel) * 2;
    int64_t d = 0;
    if (left >= kLanes)
      for (; d + 4 <= args.depth; d += 4) {
        F v[4];
        load_quads(from + d, args.k_stride, v);
#pragma GCC unroll 2
        for (int c = 0; c < 4; c += 2)
          store_words(to + (d + c) * kHeadColumns,
                      pair_words(rounded(v[c], factor), rounded(v[c + 1], factor)));
      }
    for (; d < depth; d += 2) {
      alignas(64) float v[2][kLanes];
      for (int64_t c = 0; c < 2; ++c)
        for (int64_t l = 0; l < kLanes; ++l)
          v[c][l] = l < left && d + c < args.depth ? from[l * args.k_stride + d + c] : 0.0f;
      store_words(to + d * kHeadColumns,
                  pair_words(rounded(load(v[0]), factor), rounded(load(v[1]), factor)));
    }
  }
}

// Panels of kHeadColumns columns: of all columns the first two keys, then of all the next two.
inline void pack_values(const PackHeadArgs& args) {
  const int64_t keys = words_of_depth(args.keys);
  for (int64_t column = 0; column < args.width; column += kLanes) {
    const int64_t panel = column / kHeadColumns * kHeadColumns, left = args.width - column;
    const int n = static_cast<int>(left < kLanes ? left : kLanes);
    const float* from = args.v + column;
    I most = set_int(0);
    for (int64_t key = 0; key < args.keys; ++key) {
      fetch_row(from + (key + kHeadRowsAhead) * args.v_stride, 1);
      most = max_int(most, magnitude_bits(load_n(from + key * args.v_stride, n)));
    }
    alignas(64) float magnitudes[kLanes], inverse[kLanes];
    store(magnitudes, as_float(most));
    for (int64_t l = 0; l < kLanes; ++l) {
      const WordScale chosen = choose_word_scale(magnitudes[l], kValueLimit);
      args.value_scales[column + l] = chosen.scale;
      inverse[l] = chosen.inverse;
    }
    const F factor = load(inverse);
    int16_t* to = args.packed_values + panel * keys + (column - panel) * 2;
    for (int64_t key = 0; key < keys; key += 2) {
      const F a = load_n(from + key * args.v_stride, n);
      const F b = key + 1 < args.keys ? load_n(from + (key + 1) * args.v_stride, n) : set(0.0f);
      store_words(to + key * kHeadColumns, pair_words(rounded(a, factor), rounded(b, factor)));
    }
    if (left <= kLanes && column == panel)  // the panel's second half has no columns
      for (int64_t key = 0; key < keys; key += 2)
        store_words(to + key * kHeadColumns + 2 * kLanes, set_int(0));
  }
}

void pack_head(const PackHeadArgs& args) noexcept {
  pack_keys(args);
  pack_values(args);
}

// ---- Products -------------------------------------------------------------------------------------

// What a tile of query rows works with, all of it in the caller's scratch.
struct HeadScratch {
  float* scores;    // (kMostQueryRows, stride)
  int16_t* words;   // (kMostQueryRows, stride): weights
  int16_t* q;       // (kMostQueryRows, q_stride)
  float* q_scales;  // (kMostQueryRows), times the factor of the scores
  int64_t stride, q_stride;

  explicit HeadScratch(const AttendRowsArgs& args)
      : stride(round_up(args.keys, kHeadPanel)), q_stride(round_up(args.depth, kHeadPanel)) {
    scores = reinterpret_cast<float*>(args.scratch);
    q_scales = scores + kMostQueryRows * stride;
    words = reinterpret_cast<int16_t*>(q_scales + kMostQueryRows);
    q = words + kMostQueryRows * stride;
  }
};

inline void round_queries(const AttendRowsArgs& args, int64_t query, int64_t rows, const HeadScratch& tile) {
  const float limit = depth_limit(args.depth);
  for (int64_t i = 0; i < rows; ++i) {
    const float* x = args.q + (query + i) * args.q_stride;
    fetch_row(x + rows * args.q_stride, args.depth);  // the next tile's
    int16_t* to = tile.q + i * tile.q_stride;
    const WordScale chosen = choose_word_scale(largest_magnitude(x, args.depth), limit);
    const F factor = set(chosen.inverse);
    to[words_of_depth(args.depth) - 1] = 0;  // where the depth is odd
    for_each_part(args.depth, [&](int64_t d, int, auto n) __attribute__((always_inline)) {
      narrow_words(to + d, rounded(load_part(x + d, n), factor));
    });
    tile.q_scales[i] = chosen.scale * args.factor;
  }
}

template <int MR>
inline __attribute__((always_inline)) void multiply_words(const int16_t* a, int64_t a_stride,
                                                          const int16_t* b, int64_t count,
                                                          I (&acc)[MR][kHeadVectors]) {
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kHeadVectors; ++j) acc[i][j] = set_int(0);
  for (const int16_t* end = a + count; a < end; a += 2, b += 2 * kHeadColumns) {
    I w[kHeadVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kHeadVectors; ++j) w[j] = load_words(b + j * 2 * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const I x = broadcast_words(a + i * a_stride);
#pragma GCC unroll 2
      for (int j = 0; j < kHeadVectors; ++j) acc[i][j] = dot_words(acc[i][j], x, w[j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kHeadVectors; ++j) pin(acc[i][j]);
}

// The scores of MR rows for keys 0..limit-1, and what is left of the last panel.
template <int MR>
__attribute__((noinline)) void score_rows(const AttendRowsArgs& args, const HeadScratch& tile,
                                          int64_t limit) {
  float* const scores = tile.scores;
  const int64_t stride = tile.stride, depth = words_of_depth(args.depth);
  for (int64_t key = 0; key < limit; key += kHeadColumns) {
    I acc[MR][kHeadVectors];
    multiply_words<MR>(tile.q, tile.q_stride, args.packed_keys + key * depth, depth, acc);
#pragma GCC unroll 2
    for (int j = 0; j < kHeadVectors; ++j) {
      const int64_t at = key + j * kLanes;
      const F scale = load(args.key_scales + at);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i)
        store(scores + i * stride + at, mul(mul(to_float(acc[i][j]), scale), set(tile.q_scales[i])));
    }
  }
}

template <int MR>
__attribute__((noinline)) void blend_values(const AttendRowsArgs& args, const HeadScratch& tile,
                                            const float* inverse, float* y, int64_t limit) {
  const int64_t y_stride = args.y_stride, width = args.width, keys = words_of_depth(args.keys);
  for (int64_t column = 0; column < width; column += kHeadColumns)
    for (int64_t key = 0; key == 0 || key < limit; key += kKeyBlock) {
      const int64_t count = limit - key < kKeyBlock ? limit - key : kKeyBlock;
      const bool is_last = key + kKeyBlock >= limit;
      I acc[MR][kHeadVectors];
      multiply_words<MR>(tile.words + key, tile.stride,
                         args.packed_values + column * keys + key * kHeadColumns, count, acc);
#pragma GCC unroll 2
      for (int j = 0; j < kHeadVectors; ++j) {
        const int64_t left = width - column - j * kLanes;
        const int n = static_cast<int>(left >= kLanes ? kLanes : left > 0 ? left : 0);
        if (n == 0) continue;
        const F scale = load(args.value_scales + column + j * kLanes);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
          float* to = y + i * y_stride + column + j * kLanes;
          F v = to_float(acc[i][j]);
          if (key > 0) v = add(load_n(to, n), v);
          if (is_last) v = mul(mul(v, scale), set(inverse[i]));
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

// The weights of MR rows; inverse[i] becomes 1 / their sum, 0 where no key is seen.
inline void weigh_rows(const AttendRowsArgs& args, int64_t query, int64_t rows, int64_t limit,
                       const HeadScratch& tile, float* inverse) {
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = query + i;
    float* s = tile.scores + i * tile.stride;
    const int64_t count = args.is_causal && at + 1 < limit ? at + 1 : limit;
    if (args.mask != nullptr || args.allowed != nullptr)
      mask_row(s, count, args.mask == nullptr ? nullptr : args.mask + at * args.mask_stride,
               args.allowed == nullptr ? nullptr : args.allowed + at * args.allowed_stride);
    const float total = weigh_row_in_words(s, count, tile.words + i * tile.stride, words_of_depth(limit));
    inverse[i] = total == 0.0f ? 0.0f : 1.0f / total;
  }
}

// ---- Tiles ----------------------------------------------------------------------------------------

using ScoreRows = void (*)(const AttendRowsArgs&, const HeadScratch&, int64_t);
using BlendValues = void (*)(const AttendRowsArgs&, const HeadScratch&, const float*, float*, int64_t);
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
  const HeadScratch tile(args);
  for (int64_t group = args.query_begin; group < args.query_end; group += kQueryGroup) {
    const int64_t end = group + kQueryGroup < args.query_end ? group + kQueryGroup : args.query_end;
    const int64_t seen = group + kQueryGroup;  // by the group's last query, were it whole
    const int64_t limit = args.is_causal && seen < args.keys ? seen : args.keys;
    for (int64_t query = group, rows; query < end; query += rows) {
      rows = head_rows(end - query);
      const HeadTile kernels = head_tile_of(rows);
      float inverse[kMostQueryRows];
      round_queries(args, query, rows, tile);
      kernels.score(args, tile, limit);
      weigh_rows(args, query, rows, limit, tile, inverse);
      kernels.blend(args, tile, inverse, args.y + query * args.y_stride, limit);
    }
  }
}

}  // namespace
}  // namespace intaglio
