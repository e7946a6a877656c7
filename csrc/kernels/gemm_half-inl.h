// GEMM with float16 weights and float32 arithmetic: register tiles over panels of IEEE halves.
//
// Each output is one chain of fma in the order of k, whatever the tile, so that every instruction set
// gives the same bits. Halves are widened in registers by every tile that reads them: widening a panel
// once into L2 for many tiles was measured slower, because it doubles what the tiles read.
#pragma once

#include "gemm_pack-inl.h"

namespace intaglio {
namespace {

// Operands of one tile. `base` is what the chains start from: the bias (stride 0) or the addend.
struct HalfTile {
  const float* a;
  int64_t a_stride;
  const uint16_t* weight;  // (k, columns of the panel rounded up to whole vectors)
  int64_t panel_stride;    // to the next of neighbouring panels, in halves
  int64_t k;
  const float* base;
  int64_t base_stride;
  float* c;
  int64_t c_stride;
  int64_t columns;  // logical ones, of all panels together
};

// How many of a vector's columns are there, `left` columns before the end.
inline int columns_of(int64_t left) {
  return left >= kLanes ? kLanes : left > 0 ? static_cast<int>(left) : 0;
}

// MR rows by NP neighbouring panels of NV vectors.
template <int MR, int NV, int NP>
__attribute__((noinline)) void half_tile(const HalfTile& tile) {
  constexpr int kVectors = NP * NV;
  F acc[MR][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      const float* base = tile.base + i * tile.base_stride + j * kLanes;
      const int n = columns_of(tile.columns - j * kLanes);
      acc[i][j] = n == kLanes ? load(base) : load_n(base, n);
    }
  const float *a = tile.a, *end = tile.a + tile.k;
  const uint16_t* w = tile.weight;
  const int64_t a_stride = tile.a_stride, panel_stride = tile.panel_stride;
  for (; a < end; ++a, w += NV * kLanes) {
    // Few rows: each vector of weights is used and let go; eight of them would spill on 256 bits.
    constexpr int kHeld = NP > 1 ? 1 : NV;
#pragma GCC unroll 8
    for (int first = 0; first < kVectors; first += kHeld) {
      F b[kHeld];
#pragma GCC unroll 8
      for (int j = 0; j < kHeld; ++j)
        b[j] = load_half(w + (first + j) / NV * panel_stride + (first + j) % NV * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const F x = set(a[i * a_stride]);
#pragma GCC unroll 8
        for (int j = 0; j < kHeld; ++j) acc[i][first + j] = fma(x, b[j], acc[i][first + j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) pin_float(acc[i][j]);
  float* const c = tile.c;
  const int64_t c_stride = tile.c_stride, columns = tile.columns;
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      const int n = columns_of(columns - j * kLanes);
      if (n == kLanes)
        store(c + i * c_stride + j * kLanes, acc[i][j]);
      else
        store_n(c + i * c_stride + j * kLanes, acc[i][j], n);
    }
}

// half_tile_of<NV>(rows): rows = 1..kFloatTileRows[NV].
template <int NV, int MR = kFloatTileRows[NV]>
void half_tile_of(int64_t rows, const HalfTile& tile) {
  if constexpr (MR == 1)
    half_tile<1, NV, 1>(tile);
  else
    rows == MR ? half_tile<MR, NV, 1>(tile) : half_tile_of<NV, MR - 1>(rows, tile);
}

void run_half_tile(int64_t vectors, int64_t rows, const HalfTile& tile) {
  switch (vectors) {
    case 1:
      return half_tile_of<1>(rows, tile);
    case 2:
      return half_tile_of<2>(rows, tile);
    case 3:
      return half_tile_of<3>(rows, tile);
    default:
      return half_tile_of<4>(rows, tile);
  }
}

// Tiles of even height, as in gemm: 8 rows as 4 + 4, not 6 + 2.
void half_panel(int64_t vectors, int64_t rows, HalfTile tile) {
  const int64_t most = kFloatTileRows[vectors];
  for (int64_t tiles = (rows + most - 1) / most; tiles > 0; --tiles) {
    const int64_t height = (rows + tiles - 1) / tiles;
    run_half_tile(vectors, height, tile);
    tile.a += height * tile.a_stride;
    tile.base += height * tile.base_stride;
    tile.c += height * tile.c_stride;
    rows -= height;
  }
}

// One or two rows have too few chains in a panel to hide the latency of fma: neighbouring panels then
// run together. Twelve accumulators at most, so that 256-bit vectors do not spill.
constexpr int kChains = 8;
constexpr int kPanelsForOneRow = kChains / kFloatPanelVectors;
constexpr int kPanelsForTwoRows = kChains / 2 / kFloatPanelVectors;

inline int64_t panels_together(int64_t rows) {
  return rows == 1 ? kPanelsForOneRow : rows == 2 ? kPanelsForTwoRows : 1;
}

void gemm_half(const GemmHalfArgs& args) noexcept {
  if (args.m <= 0) return;
  const PackedLayout layout = layout_of(args.packed);
  const auto* weight = reinterpret_cast<const uint16_t*>(args.packed + layout.weight_offset);
  const auto* bias = reinterpret_cast<const float*>(args.packed + layout.bias_offset);
  const bool from_bias = args.addend == nullptr;
  const int64_t together = panels_together(args.m);
  for (int64_t p = args.panel_begin; p < args.panel_end;) {
    const int64_t first = p * layout.panel, left = layout.n_padded - first;
    HalfTile tile{args.a,
                  args.a_stride,
                  weight + first * layout.k,
                  layout.panel * layout.k,
                  layout.k,
                  (from_bias ? bias : args.addend) + first,
                  from_bias ? 0 : args.addend_stride,
                  args.c + first,
                  args.c_stride,
                  layout.n - first};
    if (together > 1 && left >= together * layout.panel && p + together <= args.panel_end) {
      args.m == 1 ? half_tile<1, kFloatPanelVectors, kPanelsForOneRow>(tile)
                  : half_tile<2, kFloatPanelVectors, kPanelsForTwoRows>(tile);
      p += together;
      continue;
    }
    const int64_t width = left < layout.panel ? left : layout.panel;
    if (tile.columns > width) tile.columns = width;
    half_panel(width / kLanes, args.m, tile);
    ++p;
  }
}

// ---- Packing --------------------------------------------------------------------------------------

PackedLayout choose_half_layout(int64_t n, int64_t k, int64_t* bytes) {
  PackedLayout layout{};
  layout.magic = kPackedHalfMagic;
  layout.isa = static_cast<int32_t>(kIsa);
  layout.n = n;
  layout.k = k;
  layout.n_padded = round_up(n, kLanes);
  layout.k_padded = k;
  layout.panel = kFloatPanelVectors * kLanes;
  layout.k_group = 1;
  layout.bias_offset = static_cast<int32_t>(sizeof(PackedLayout));
  layout.weight_offset = layout.bias_offset + static_cast<int32_t>(round_up(layout.n_padded * 4, 64));
  *bytes = layout.weight_offset + round_up(layout.n_padded * k * 2, 64);
  return layout;
}

// Where column j's first k stands (in halves from the weights' beginning), and the distance to the next.
inline int64_t half_column(const PackedLayout& layout, int64_t j, int64_t* k_stride) {
  const int64_t first = j / layout.panel * layout.panel, left = layout.n_padded - first;
  *k_stride = left < layout.panel ? left : layout.panel;
  return first * layout.k + (j - first);
}

void pack_half(const PackHalfArgs& args) noexcept {
  const PackedLayout layout = choose_half_layout(args.n, args.k, args.bytes);
  *args.layout = layout;
  if (args.packed == nullptr) return;
  __builtin_memset(args.packed, 0, static_cast<size_t>(*args.bytes));
  __builtin_memcpy(args.packed, &layout, sizeof layout);
  auto* weight = reinterpret_cast<uint16_t*>(args.packed + layout.weight_offset);
  auto* bias = reinterpret_cast<float*>(args.packed + layout.bias_offset);
  for (int64_t j = 0; j < args.n; ++j) {
    int64_t stride;
    uint16_t* column = weight + half_column(layout, j, &stride);
    for (int64_t k = 0; k < args.k; ++k) column[k * stride] = args.weight[j * args.k + k];
    bias[j] = args.bias == nullptr ? 0.0f : args.bias[j];
  }
}

void unpack_half(const UnpackHalfArgs& args) noexcept {
  const PackedLayout layout = layout_of(args.packed);
  const auto* weight = reinterpret_cast<const uint16_t*>(args.packed + layout.weight_offset);
  const auto* bias = reinterpret_cast<const float*>(args.packed + layout.bias_offset);
  for (int64_t j = 0; j < layout.n; ++j) {
    int64_t stride;
    const uint16_t* column = weight + half_column(layout, j, &stride);
    for (int64_t k = 0; k < layout.k; ++k) args.weight[j * layout.k + k] = column[k * stride];
    args.bias[j] = bias[j];
  }
}

}  // namespace
}  // namespace intaglio
