// int8 GEMM: register tiles of kTileRows[v] rows by v vectors of columns over the packed panels.
//
// A tile keeps every accumulator in a register through the K loop and writes floats straight from
// them. What is not the plain case (an activation, an addend, u8 output) takes its int32 sums through
// a scratch tile that stays in L1, so that only two forms of each tile exist.
#pragma once

#include "gemm_pack-inl.h"
#include "quantize-inl.h"

namespace intaglio {
namespace {

constexpr int kMostTileRows = 16;
// Where accumulators are too few to hide the latency of `dot`, K is split between two sets of them, if
// the registers hold two.
template <int MR, int NV>
constexpr bool kSplits = MR <= 2 && 2 * MR * NV + 4 < kRegisters;
// Taller tiles have no address register left for what is fetched by the way.
constexpr int kFetchingRows = 8;

struct Panel {
  const int8_t* weight;
  const int32_t* column_sum;
  const float* scale;
  const float* bias;
  int64_t first_column;
  int64_t width;    // columns in memory
  int64_t columns;  // logical ones: the last panel's padding is computed and dropped
};

inline Panel panel_of(const PackedLayout& layout, const uint8_t* packed, int64_t p) {
  const int64_t first = p * layout.panel;
  const int64_t width = layout.n_padded - first < layout.panel ? layout.n_padded - first : layout.panel;
  return {reinterpret_cast<const int8_t*>(packed) + layout.weight_offset + first * layout.k_padded,
          reinterpret_cast<const int32_t*>(packed + layout.column_sum_offset) + first,
          reinterpret_cast<const float*>(packed + layout.scale_offset) + first,
          reinterpret_cast<const float*>(packed + layout.bias_offset) + first,
          first,
          width,
          layout.n - first < width ? layout.n - first : width};
}

// What the K loop fetches by the way, a line at each step: the next panel, so that weights which come from L3
// or from memory are in L2 when their turn comes. A burst between tiles is no help; this is.
struct Trickle {
  const int8_t* at;
  int64_t step;

  void next() {
    __builtin_prefetch(at, 0, 2);
    at += step;
  }
};
struct NoTrickle {
  void next() {}
};

template <int MR, int NV, class Fetch = NoTrickle>
inline __attribute__((always_inline)) void accumulate(const Act* a, int64_t a_stride, const int8_t* w,
                                                      int64_t k_padded, I (&acc)[MR][NV],
                                                      Fetch fetch = Fetch{}) {
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = set_int(0);
  const Act* end = a + k_padded;
  do {
    I b[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) b[j] = load_weights(w + j * kLanes * kGroup);
    w += NV * kLanes * kGroup;
    fetch.next();
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const I x = broadcast(a + i * a_stride);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = dot(acc[i][j], x, b[j]);
    }
    a += kGroup;
  } while (a < end);
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) pin(acc[i][j]);
}

// Few rows: the K loop is unrolled over `split` sets of accumulators, which are then added.
template <int MR, int NV>
inline __attribute__((always_inline)) void accumulate_split(const Act* a, int64_t a_stride, const int8_t* w,
                                                            int64_t k_padded, I (&acc)[MR][NV]) {
  I odd[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = odd[i][j] = set_int(0);
  constexpr int64_t kStep = NV * kLanes * kGroup;
  const Act* end = a + k_padded;
  for (; a + kGroup < end; a += 2 * kGroup, w += 2 * kStep) {
#pragma GCC unroll 2
    for (int i = 0; i < MR; ++i) {
      const I x = broadcast(a + i * a_stride), y = broadcast(a + i * a_stride + kGroup);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        acc[i][j] = dot(acc[i][j], x, load_weights(w + j * kLanes * kGroup));
        odd[i][j] = dot(odd[i][j], y, load_weights(w + kStep + j * kLanes * kGroup));
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      pin(acc[i][j]);
      pin(odd[i][j]);
    }
  if (a < end) {
#pragma GCC unroll 2
    for (int i = 0; i < MR; ++i) {
      const I x = broadcast(a + i * a_stride);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = dot(acc[i][j], x, load_weights(w + j * kLanes * kGroup));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = add_int(acc[i][j], odd[i][j]);
}

inline F scaled(I acc, const Panel& panel, int64_t j, I zero_point, F row_scale, F base) {
  const I sum = sub_int(acc, mul_int(zero_point, load_int(panel.column_sum + j)));
  return fma(to_float(sum), mul(row_scale, load(panel.scale + j)), base);
}

// The whole epilogue, for one row of int32 sums in scratch.
inline void finish_row(const GemmArgs& args, const Panel& panel, int64_t row, const int32_t* sums) {
  const int64_t param = row * args.row_param_stride, column = panel.first_column;
  const F row_scale = set(args.row_scale[param]);
  const I zero_point = set_int(args.row_zero_point[param]);
  const float* addend = args.addend == nullptr ? nullptr : args.addend + row * args.addend_stride + column;
  for (int64_t j = 0; j < panel.columns; j += kLanes) {
    const int n = static_cast<int>(panel.columns - j < kLanes ? panel.columns - j : kLanes);
    const F base = addend == nullptr ? load(panel.bias + j) : load_n(addend + j, n);
    F y = scaled(load_int(sums + j), panel, j, zero_point, row_scale, base);
    if (args.activation == Activation::kClamp) y = min(set(args.upper), max(set(args.lower), y));
    const int64_t at = row * args.c_stride + column + j;
    if (args.output == Output::kFloat) {
      store_n(static_cast<float*>(args.c) + at, y, n);
    } else {
      const I q = round_scaled<true>(y, set(args.output_inverse_scale));
      store_u8_n(static_cast<uint8_t*>(args.c) + at, add_int(q, set_int(args.output_zero_point)), n);
    }
  }
}

template <int MR, int NV, bool kPlain>
__attribute__((noinline)) void gemm_tile(const GemmArgs& args, const Panel& panel, const Act* a,
                                         int64_t a_stride, int64_t k_padded, int64_t row, int32_t* sums,
                                         const Trickle& fetch) {
  I acc[MR][NV];
  if constexpr (kSplits<MR, NV>)
    accumulate_split<MR, NV>(a, a_stride, panel.weight, k_padded, acc);
  else if constexpr (MR <= kFetchingRows)
    accumulate<MR, NV>(a, a_stride, panel.weight, k_padded, acc, fetch);
  else
    accumulate<MR, NV>(a, a_stride, panel.weight, k_padded, acc);
  if constexpr (kPlain) {
    const float* row_scale = args.row_scale + row * args.row_param_stride;
    const int32_t* row_zero_point = args.row_zero_point + row * args.row_param_stride;
    float* c = static_cast<float*>(args.c) + row * args.c_stride + panel.first_column;
    const int64_t c_stride = args.c_stride, param_stride = args.row_param_stride;
    const Panel p = panel;  // a copy: stores to c could alias the original's fields
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const I column_sum = load_int(p.column_sum + j * kLanes);
      const F scale = load(p.scale + j * kLanes), bias = load(p.bias + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const I sum = sub_int(acc[i][j], mul_int(set_int(row_zero_point[i * param_stride]), column_sum));
        store(c + i * c_stride + j * kLanes,
              fma(to_float(sum), mul(set(row_scale[i * param_stride]), scale), bias));
      }
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) store_int(sums + (i * NV + j) * kLanes, acc[i][j]);
    for (int i = 0; i < MR; ++i) finish_row(args, panel, row + i, sums + i * NV * kLanes);
  }
}

using Tile = void (*)(const GemmArgs&, const Panel&, const Act*, int64_t, int64_t, int64_t, int32_t*,
                      const Trickle&);

// tile_of<NV, kPlain>(rows): rows = 1..kTileRows[NV].
template <int NV, bool kPlain, int MR = kTileRows[NV]>
Tile tile_of(int64_t rows) {
  if constexpr (MR == 1) {
    return gemm_tile<1, NV, kPlain>;
  } else {
    return rows == MR ? gemm_tile<MR, NV, kPlain> : tile_of<NV, kPlain, MR - 1>(rows);
  }
}

Tile choose_tile(int64_t vectors, bool plain, int64_t rows) {
  switch (vectors) {
    case 1:
      return plain ? tile_of<1, true>(rows) : tile_of<1, false>(rows);
    case 2:
      return plain ? tile_of<2, true>(rows) : tile_of<2, false>(rows);
    case 3:
      return plain ? tile_of<3, true>(rows) : tile_of<3, false>(rows);
    default:
      return plain ? tile_of<4, true>(rows) : tile_of<4, false>(rows);
  }
}

constexpr int64_t kSumsBytes = int64_t{kMostTileRows} * kMaxVectors * kLanes * 4;
constexpr bool kWidens = sizeof(Act) != 1;

int64_t gemm_scratch_bytes(int64_t m, int64_t k_padded) noexcept {
  return kSumsBytes + (kWidens ? round_up(m * k_padded * static_cast<int64_t>(sizeof(Act)), 64) : 0);
}

inline const Act* prepare_activations(const GemmArgs& args, int64_t k_padded, int64_t* a_stride) {
  if constexpr (!kWidens) {
    *a_stride = args.a_stride;
    return reinterpret_cast<const Act*>(args.a);
  } else {
    Act* wide = reinterpret_cast<Act*>(static_cast<uint8_t*>(args.scratch) + kSumsBytes);
    for (int64_t i = 0; i < args.m; ++i)
      for (int64_t k = 0; k < k_padded; ++k) wide[i * k_padded + k] = args.a[i * args.a_stride + k];
    *a_stride = k_padded;
    return wide;
  }
}

// `next` is where the panel that follows begins, or nullptr.
void gemm_panel(const GemmArgs& args, const Panel& panel, int64_t vectors, const Act* a, int64_t a_stride,
                int64_t k_padded, const int8_t* next) {
  const bool plain = args.activation == Activation::kNone && args.addend == nullptr &&
                     args.output == Output::kFloat && panel.columns == vectors * kLanes;
  auto* sums = static_cast<int32_t*>(args.scratch);
  // Tiles of even height: 16 rows as 6 + 5 + 5 wait less on latency than 6 + 6 + 4.
  const int64_t tiles = (args.m + kTileRows[vectors] - 1) / kTileRows[vectors];
  const int64_t step = tiles == 0 ? 0 : (panel.width * kGroup + tiles - 1) / tiles;
  Trickle fetch{next, next == nullptr ? 0 : step};
  int64_t row = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t rows = (args.m - row + tiles - t - 1) / (tiles - t);
    choose_tile(vectors, plain, rows)(args, panel, a + row * a_stride, a_stride, k_padded, row, sums, fetch);
    fetch.at += fetch.step * (k_padded / kGroup);
    row += rows;
  }
}

void gemm(const GemmArgs& args) noexcept {
  if (args.m <= 0) return;
  const PackedLayout layout = layout_of(args.packed);
  int64_t a_stride;
  const Act* a = prepare_activations(args, layout.k_padded, &a_stride);
  for (int64_t p = args.panel_begin; p < args.panel_end; ++p) {
    const Panel panel = panel_of(layout, args.packed, p);
    const int8_t* next = p + 1 < args.panel_end ? panel.weight + panel.width * layout.k_padded : nullptr;
    gemm_panel(args, panel, panel.width / kLanes, a, a_stride, layout.k_padded, next);
  }
}

}  // namespace
}  // namespace intaglio
