// Embeddings: rows of codes to floats, and bags of rows reduced (docs/numerics.md, "Embeddings").
//
// A lookup is bound by memory, and rows lie anywhere: each loop asks for a row some indices before it
// needs it. Bags keep the sums of a tile of columns in registers while the bag's rows pass.
#pragma once

#include "gemm_pack-inl.h"

namespace intaglio {
namespace {

// Indices between asking for a row and using it: covers the memory's latency at about 20 ns a row.
constexpr int64_t kRowsAhead = 8;
constexpr int64_t kCacheLine = 64;
constexpr int kBagVectors = 8;

inline int64_t index_at(const Indices& indices, int64_t i) {
  return indices.is_int64 ? static_cast<const int64_t*>(indices.data)[i]
                          : static_cast<const int32_t*>(indices.data)[i];
}

struct Row {
  F scale, offset;
  const uint8_t* codes;
};

inline Row row_at(const EmbeddingTable& table, int64_t index) {
  const uint8_t* p = table.rows + index * table.row_bytes;
  float scale, offset;
  __builtin_memcpy(&scale, p, 4);
  __builtin_memcpy(&offset, p + 4, 4);
  return {set(scale), set(offset), p + 8};
}

// Always inlined: GCC 12 takes a function that only prefetches for one without effect and drops the call.
inline __attribute__((always_inline)) void prefetch_row(const EmbeddingTable& table, const Indices& indices,
                                                        int64_t i) {
  if (i >= indices.count) return;
  const uint8_t* p = table.rows + index_at(indices, i) * table.row_bytes;
  for (int64_t at = 0; at < table.row_bytes; at += kCacheLine) __builtin_prefetch(p + at);
  __builtin_prefetch(p + table.row_bytes - 1);
}

template <int kBits>
inline F values(const Row& row, int64_t i) {
  return fma(kBits == 8 ? load_u8(row.codes + i) : load_u4(row.codes, i), row.scale, row.offset);
}

template <int kBits>
inline F values_n(const Row& row, int64_t i, int n) {
  return fma(kBits == 8 ? load_u8_n(row.codes + i, n) : load_u4_n(row.codes, i, n), row.scale, row.offset);
}

template <int kBits>
void expand_rows(const EmbeddingRowsArgs& args) {
  const int64_t width = args.table.width, whole = width / kLanes * kLanes;
  for (int64_t i = 0; i < kRowsAhead; ++i) prefetch_row(args.table, args.indices, i);
  for (int64_t i = 0; i < args.indices.count; ++i) {
    prefetch_row(args.table, args.indices, i + kRowsAhead);
    const Row row = row_at(args.table, index_at(args.indices, i));
    float* y = args.y + i * width;
    for (int64_t j = 0; j < whole; j += kLanes) store(y + j, values<kBits>(row, j));
    if (whole < width) {
      const int n = static_cast<int>(width - whole);
      store_n(y + whole, values_n<kBits>(row, whole, n), n);
    }
  }
}

void embedding_rows(const EmbeddingRowsArgs& args) noexcept {
  args.table.bits == 8 ? expand_rows<8>(args) : expand_rows<4>(args);
}

// ---- Bags -----------------------------------------------------------------------------------------

enum class Reduction { kAdd, kAddWeighted, kMax };

// NV vectors of columns of one bag, from column `first` on; the last vector may reach beyond the width.
template <int kBits, Reduction kReduction, int NV>
__attribute__((noinline)) void reduce_tile(const EmbeddingBagsArgs& args, int64_t begin, int64_t end,
                                           int64_t first, float* y) {
  constexpr int kLast = NV - 1;
  const int64_t left = args.table.width - first - kLast * kLanes;
  const int tail = static_cast<int>(left < kLanes ? left : kLanes);
  F acc[NV];
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) acc[v] = set(0.0f);
  int64_t rows = 0;
  for (int64_t i = begin; i < end; ++i) {
    if (first == 0) prefetch_row(args.table, args.indices, i + kRowsAhead);
    const int64_t index = index_at(args.indices, i);
    if (index == args.padding_index) continue;
    const Row row = row_at(args.table, index);
    const F weight = set(kReduction == Reduction::kAddWeighted ? args.weights[i] : 1.0f);
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const int64_t at = first + v * kLanes;
      const F w = v == kLast && tail < kLanes ? values_n<kBits>(row, at, tail) : values<kBits>(row, at);
      if constexpr (kReduction == Reduction::kAdd) acc[v] = add(acc[v], w);
      if constexpr (kReduction == Reduction::kAddWeighted) acc[v] = fma(weight, w, acc[v]);
      if constexpr (kReduction == Reduction::kMax) acc[v] = rows == 0 ? w : max(acc[v], w);
    }
    ++rows;
  }
  const F count = set(static_cast<float>(rows));
  const bool mean = args.mode == BagMode::kMean && rows > 0;
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) {
    const F out = mean ? div(acc[v], count) : acc[v];
    if (v == kLast && tail < kLanes)
      store_n(y + first + v * kLanes, out, tail);
    else
      store(y + first + v * kLanes, out);
  }
}

// Columns in tiles of 8, 4, 2 and 1 vectors, as many of the wide ones as fit.
template <int kBits, Reduction kReduction, int NV = kBagVectors>
void reduce_columns(const EmbeddingBagsArgs& args, int64_t begin, int64_t end, int64_t first, float* y) {
  for (; args.table.width - first > (NV - 1) * kLanes; first += NV * kLanes)
    reduce_tile<kBits, kReduction, NV>(args, begin, end, first, y);
  if constexpr (NV > 1) reduce_columns<kBits, kReduction, NV / 2>(args, begin, end, first, y);
}

template <int kBits, Reduction kReduction>
void reduce_bags(const EmbeddingBagsArgs& args) {
  for (int64_t b = args.bag_begin; b < args.bag_end; ++b)
    reduce_columns<kBits, kReduction>(args, args.bounds[b], args.bounds[b + 1], 0,
                                      args.y + b * args.table.width);
}

template <int kBits>
void reduce_by_mode(const EmbeddingBagsArgs& args) {
  if (args.mode == BagMode::kMax) return reduce_bags<kBits, Reduction::kMax>(args);
  args.weights == nullptr ? reduce_bags<kBits, Reduction::kAdd>(args)
                          : reduce_bags<kBits, Reduction::kAddWeighted>(args);
}

void embedding_bags(const EmbeddingBagsArgs& args) noexcept {
  args.table.bits == 8 ? reduce_by_mode<8>(args) : reduce_by_mode<4>(args);
}

// ---- Rows of a packed matrix ------------------------------------------------------------------------

// The k's of one column lie kGroup by kGroup at a stride: they are collected before they are converted,
// many at a time so that no vector load waits for the small stores before it.
void packed_rows(const PackedRowsArgs& args) noexcept {
  constexpr int64_t kChunk = 1024;
  alignas(64) int8_t codes[kChunk + kLanes] = {};
  const PackedLayout layout = layout_of(args.packed);
  const auto* scales = reinterpret_cast<const float*>(args.packed + layout.scale_offset);
  for (int64_t i = 0; i < args.indices.count; ++i) {
    const int64_t index = index_at(args.indices, i);
    int64_t stride;
    const int8_t* column = column_of(layout, args.packed, index, &stride);
    const F scale = set(scales[index]);
    float* y = args.y + i * layout.k;
    for (int64_t k = 0; k < layout.k; k += kChunk, column += kChunk / kGroup * stride) {
      const int64_t count = layout.k - k < kChunk ? layout.k - k : kChunk;
      for (int64_t g = 0; g < count; g += kGroup)
        __builtin_memcpy(codes + g, column + g / kGroup * stride, kGroup);
      for (int64_t j = 0; j < count; j += kLanes) {
        const int n = static_cast<int>(count - j < kLanes ? count - j : kLanes);
        store_n(y + k + j, mul(load_s8(codes + j), scale), n);
      }
    }
  }
}

}  // namespace
}  // namespace intaglio
