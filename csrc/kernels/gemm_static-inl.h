// int8 GEMM from u8 to u8: the tiles of gemm-inl.h over rows that are read where they lie, and a
// requantizing epilogue straight from the registers.
//
// Sums start at minus zero point times the weights' column sums, so the zero point costs nothing later.
// Each row of a tile has a pointer in a register, the end of its run, and one index counts up to zero along
// all of them: an end to compare with would be a register too many for tiles of twelve rows.
#pragma once

#include "gemm-inl.h"
#include "requantize-inl.h"

namespace intaglio {
namespace {

// The rows of `a` as the K loop reads them: row i at base + start[i] or base + i * step, in `count` runs of
// `length` values.
struct RowRuns {
  const Act* base;
  const int64_t* start;
  int64_t step;
  const int64_t* run;
  int64_t count, length;
  template <int MR>
  void find(int64_t row, const Act* (&a)[MR]) const {
    if (start == nullptr) {
      const Act* p = base + row * step;
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i, p += step) a[i] = p;
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) a[i] = base + start[row + i];
    }
  }
};

// Weights come from L3 or beyond. Tiles of some rows fetch a part of the next panel's into L2 as they go;
// with more rows no register is left for its address, with fewer it costs more than it brings.
template <int MR>
constexpr bool kFetchesNext = kRegisters == 32 && MR > 2 && MR <= 8;
constexpr int64_t kFetchedBytes = 8;  // of the next panel, for each k of a tile

// sums[i][j] = first[j] + the products of row i and the panel. With kFetches, `next` is what to fetch.
template <int MR, int NV, bool kFetches = false>
inline __attribute__((always_inline)) void accumulate_runs(const RowRuns& rows, int64_t row, const int8_t* w,
                                                           const int32_t* first, I (&acc)[MR][NV],
                                                           const int8_t* next = nullptr) {
  const Act* a[MR];
  rows.find(row, a);
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    const I sum = load_int(first + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) acc[i][j] = sum;
  }
  const int64_t* run = rows.run;
  const int64_t length = rows.length;
  int64_t at = 0;
  for (const int64_t* last = run + rows.count; run < last; ++run) {
    const int64_t move = *run + length - at;
    at += move;
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) a[i] += move;
    int64_t k = -length;
    if constexpr (kFetches) next += length * kFetchedBytes;
    do {
      if constexpr (kFetches) __builtin_prefetch(next + k * kFetchedBytes, 0, 2);
      I b[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) b[j] = load_weights(w + j * kLanes * kGroup);
      w += NV * kLanes * kGroup;
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const I x = broadcast(a[i] + k);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[i][j] = dot(acc[i][j], x, b[j]);
      }
      k += kGroup;
    } while (k < 0);
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) pin(acc[i][j]);
}

// Where the results of a call go.
struct StaticOutput {
  uint8_t* c;
  const int64_t* place;
  int64_t stride;
  template <int MR>
  void find(int64_t row, int64_t (&at)[MR]) const {
    if (place == nullptr) {
      int64_t p = row * stride;
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i, p += stride) at[i] = p;
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) at[i] = place[row + i];
    }
  }
};

template <int MR, int NV, EpilogueForm kForm>
__attribute__((noinline)) void static_tile(const RowRuns& rows, int64_t row, const int8_t* weight,
                                           const int8_t* next, const PanelRequantizer& panel,
                                           const StaticOutput& output) {
  I acc[MR][NV];
  accumulate_runs<MR, NV, kFetchesNext<MR>>(rows, row, weight, panel.first, acc, next);
  __asm__ volatile("" ::: "memory");  // what the epilogue loads takes no registers of the loop
  int64_t at[MR];
  output.find(row, at);
  requantize_tile<MR, NV, kForm>(acc, panel, output.c, at);
}

using StaticTile = void (*)(const RowRuns&, int64_t, const int8_t*, const int8_t*, const PanelRequantizer&,
                            const StaticOutput&);

// Sums that may exceed the bound are rare: lower tiles are fast enough, and less code.
template <int NV, EpilogueForm kForm>
constexpr int kStaticRows = kForm == EpilogueForm::kAny && kTileRows[NV] > 2 ? 2 : kTileRows[NV];

template <int NV, EpilogueForm kForm, int MR = kStaticRows<NV, kForm>>
StaticTile static_tile_of(int64_t rows) {
  if constexpr (MR == 1) {
    return static_tile<1, NV, kForm>;
  } else {
    return rows == MR ? static_tile<MR, NV, kForm> : static_tile_of<NV, kForm, MR - 1>(rows);
  }
}

template <EpilogueForm kForm>
StaticTile choose_static_tile(int64_t vectors, int64_t rows) {
  switch (vectors) {
    case 1:
      return static_tile_of<1, kForm>(rows);
    case 2:
      return static_tile_of<2, kForm>(rows);
    case 3:
      return static_tile_of<3, kForm>(rows);
    default:
      return static_tile_of<4, kForm>(rows);
  }
}

StaticTile choose_static_tile(EpilogueForm form, int64_t vectors, int64_t rows) {
  switch (form) {
    case EpilogueForm::kPlain:
      return choose_static_tile<EpilogueForm::kPlain>(vectors, rows);
    case EpilogueForm::kResidual:
      return choose_static_tile<EpilogueForm::kResidual>(vectors, rows);
    default:
      return choose_static_tile<EpilogueForm::kAny>(vectors, rows);
  }
}

// Rows of a tile. After short sums the epilogue of one tile runs beside the sums of the next, if both are
// small enough for the CPU to see them at once; with a residual that is worth more than fewer loads of
// weights.
inline int64_t tile_rows(EpilogueForm form, int64_t vectors, int64_t k) {
  constexpr int64_t kShortSum = 128;
  if (form == EpilogueForm::kAny) return 2;
  const bool overlaps = kRegisters == 32 && form == EpilogueForm::kResidual && vectors == 4 && k <= kShortSum;
  return overlaps ? 2 : kTileRows[vectors];
}

inline int64_t padded_run(int64_t run_bytes) { return round_up(run_bytes, 4); }

// The rows as Act: where they lie, or gathered and widened in scratch as one run each.
inline RowRuns prepare_runs(const GemmStaticArgs& args, int64_t k_padded) {
  if constexpr (!kWidens) {
    return {reinterpret_cast<const Act*>(args.image),
            args.start,
            args.row_bytes,
            args.run,
            args.run_count,
            padded_run(args.run_bytes)};
  } else {
    static const int64_t kBegin = 0;
    Act* wide = reinterpret_cast<Act*>(static_cast<uint8_t*>(args.scratch) + kSumsBytes);
    const int64_t length = padded_run(args.run_bytes);
    for (int64_t i = 0; i < args.m; ++i) {
      const uint8_t* from = args.image + (args.start == nullptr ? i * args.row_bytes : args.start[i]);
      for (int64_t r = 0; r < args.run_count; ++r)
        widen(wide + i * k_padded + r * length, from + args.run[r], length);
    }
    return {wide, nullptr, k_padded, &kBegin, args.run_count > 0 ? 1 : 0, k_padded};
  }
}

void gemm_static(const GemmStaticArgs& args) noexcept {
  if (args.m <= 0) return;
  const PackedLayout layout = layout_of(args.packed);
  const RowRuns rows = prepare_runs(args, layout.k_padded);
  for (int64_t p = args.panel_begin; p < args.panel_end; ++p) {
    const Panel panel = panel_of(layout, args.packed, p);
    const PanelRequantizer requantizer(args.requantize, panel.first_column, panel.columns, args.zero_point,
                                       panel.column_sum, layout.k_padded);
    const StaticOutput output{args.c + panel.first_column, args.place, args.c_stride};
    const int64_t vectors = panel.width / kLanes;
    // Tiles of even height, as in gemm_panel: at most two heights, the taller first.
    const int64_t most = tile_rows(requantizer.form, vectors, layout.k_padded);
    const int64_t tiles = (args.m + most - 1) / most;
    const int64_t height = args.m / tiles, taller = args.m % tiles;
    int64_t row = 0;
    // The tiles together walk through the next panel, again and again; behind the last there is none.
    const int8_t* const other =
        p + 1 < args.panel_end ? panel_of(layout, args.packed, p + 1).weight : panel.weight;
    const int64_t part = layout.k_padded * kFetchedBytes, parts = panel.width / kFetchedBytes;
    int64_t fetched = 0;
    const auto next = [&] {
      fetched = fetched + 1 < parts ? fetched + 1 : 0;
      return other + fetched * part;
    };
    StaticTile tile = choose_static_tile(requantizer.form, vectors, taller > 0 ? height + 1 : height);
    for (int64_t t = 0; t < taller; ++t, row += height + 1)
      tile(rows, row, panel.weight, next(), requantizer, output);
    if (taller > 0) tile = choose_static_tile(requantizer.form, vectors, height);
    for (; row < args.m; row += height) tile(rows, row, panel.weight, next(), requantizer, output);
  }
}

}  // namespace
}  // namespace intaglio
