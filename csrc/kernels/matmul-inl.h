// Products of two u8 matrices: the right one is shifted to int8 and packed, and the tiles are those of
// gemm_static-inl.h with one more term a row, for the right operand's zero point.
//
//   sum (a - za)(b - zb) = sum a b' - za sum b' - zb' sum a + k za zb',   b' = b - 128,  zb' = zb - 128
#pragma once

#include "gemm_static-inl.h"

namespace intaglio {
namespace {

constexpr int32_t kShift = 128;

// ---- Packing --------------------------------------------------------------------------------------

// Four k's of a vector of columns, from rows of columns; what does not exist reads as the shift, that is,
// zero.
inline I load_columns(const PackMatmulArgs& args, int64_t k, int64_t j) {
  const int rows = args.k - k < 4 ? static_cast<int>(args.k - k) : 4;
  const int columns = args.n - j < kLanes ? static_cast<int>(args.n - j) : kLanes;
  const uint8_t* b = args.b + k * args.k_stride + j;
  int64_t stride = args.k_stride;
  alignas(64) uint8_t block[4 * kLanes];
  if (rows < 4 || columns < kLanes) {
    __builtin_memset(block, kShift, sizeof block);
    for (int r = 0; r < rows; ++r)
      __builtin_memcpy(block + r * kLanes, b + r * stride, static_cast<size_t>(columns));
    b = block;
    stride = kLanes;
  }
  I four = load_u8_int(b);
  four = add_int(four, shift_left<8>(load_u8_int(b + stride)));
  four = add_int(four, shift_left<16>(load_u8_int(b + 2 * stride)));
  return add_int(four, shift_left<24>(load_u8_int(b + 3 * stride)));
}

// Sixteen k's of a vector of columns, from columns that lie one after the other.
inline void load_depths(const PackMatmulArgs& args, int64_t k, int64_t j, I (&fours)[4]) {
  const int depths = args.k - k < 16 ? static_cast<int>(args.k - k) : 16;
  const int columns = args.n - j < kLanes ? static_cast<int>(args.n - j) : kLanes;
  const uint8_t* b = args.b + j * args.n_stride + k;
  if (depths == 16 && columns == kLanes) return load_byte_quads(b, args.n_stride, fours);
  alignas(64) uint8_t block[kLanes * 16];
  __builtin_memset(block, kShift, sizeof block);
  for (int c = 0; c < columns; ++c)
    __builtin_memcpy(block + c * 16, b + c * args.n_stride, static_cast<size_t>(depths));
  load_byte_quads(block, 16, fours);
}

// Columns j .. j + kLanes - 1 of a panel: `w` is where their first k stands.
inline I pack_columns(const PackMatmulArgs& args, int64_t k_padded, int64_t j, int8_t* w, int64_t stride) {
  const I shift = set_u8s(kShift);
  const int64_t step = 4 / kGroup * stride;
  int8_t* to = w;
  if (args.n_stride == 1) {
    for (int64_t k = 0; k < k_padded; k += 4, to += step)
      store_weights(to, stride, xor_bits(load_columns(args, k, j), shift));
  } else {
    for (int64_t k = 0; k < k_padded; k += 16) {
      I fours[4];
      load_depths(args, k, j, fours);
      for (int g = 0; g < 4 && k + 4 * g < k_padded; ++g, to += step)
        store_weights(to, stride, xor_bits(fours[g], shift));
    }
  }
  const Act ones[4] = {1, 1, 1, 1};
  const I one = broadcast(ones);
  I sum = set_int(0);
  for (int64_t k = 0; k < k_padded; k += kGroup, w += stride) sum = dot(sum, one, load_weights(w));
  return sum;
}

void pack_matmul(const PackMatmulArgs& args) noexcept {
  const PackedLayout layout = choose_layout(args.n, args.k, 0, args.bytes);
  if (args.packed == nullptr) return;
  __builtin_memcpy(args.packed, &layout, sizeof layout);
  auto* sums = reinterpret_cast<int32_t*>(args.packed + layout.column_sum_offset);
  for (int64_t j = 0; j < layout.n_padded; j += kLanes) {
    int64_t stride;
    auto* w = const_cast<int8_t*>(column_of(layout, args.packed, j, &stride));
    store_int(sums + j, pack_columns(args, layout.k_padded, j, w, stride));
  }
}

// ---- The product ----------------------------------------------------------------------------------

template <int MR, int NV, EpilogueForm kForm>
__attribute__((noinline)) void matmul_tile(const RowRuns& rows, int64_t row, const Panel& panel,
                                           const int32_t* row_first, const PanelRequantizer& requantizer,
                                           const StaticOutput& output) {
  I acc[MR][NV];
  accumulate_runs<MR, NV>(rows, row, panel.weight, requantizer.first, acc);
  int64_t at[MR];
  output.find(row, at);
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    const I more = set_int(row_first[row + i]);
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = add_int(acc[i][j], more);
  }
  requantize_tile<MR, NV, kForm>(acc, requantizer, output.c, at);
}

using MatmulTile = void (*)(const RowRuns&, int64_t, const Panel&, const int32_t*, const PanelRequantizer&,
                            const StaticOutput&);

template <int NV, EpilogueForm kForm, int MR = kStaticRows<NV, kForm>>
MatmulTile matmul_tile_of(int64_t rows) {
  if constexpr (MR == 1) {
    return matmul_tile<1, NV, kForm>;
  } else {
    return rows == MR ? matmul_tile<MR, NV, kForm> : matmul_tile_of<NV, kForm, MR - 1>(rows);
  }
}

template <EpilogueForm kForm>
MatmulTile choose_matmul_tile(int64_t vectors, int64_t rows) {
  switch (vectors) {
    case 1:
      return matmul_tile_of<1, kForm>(rows);
    case 2:
      return matmul_tile_of<2, kForm>(rows);
    case 3:
      return matmul_tile_of<3, kForm>(rows);
    default:
      return matmul_tile_of<4, kForm>(rows);
  }
}

inline int32_t sum_of_bytes(const uint8_t* p, int64_t count) {
  const I mask = set_int(0x00ff00ff);
  I sum = set_int(0);
  for (int64_t i = 0; i < count; i += kBytes) {
    const I bytes = count - i < kBytes ? load_u8s_n(p + i, static_cast<int>(count - i)) : load_u8s(p + i);
    const I pairs = add_int(and_int(bytes, mask), and_int(shift_right<8>(bytes), mask));
    sum = add_int(sum, add_int(and_int(pairs, set_int(0xffff)), shift_right<16>(pairs)));
  }
  int32_t lanes[kLanes];
  store_int(lanes, sum);
  int32_t total = 0;
  for (const int32_t lane : lanes) total += lane;
  return total;
}

// Where the sums of each row start, but for the panel's part.
inline void find_row_starts(const MatmulStaticArgs& args, int64_t k) {
  const int32_t zero_b = args.zero_point_b - kShift;
  const int32_t whole = static_cast<int32_t>(k) * args.zero_point_a * zero_b;
  for (int64_t i = 0; i < args.m; ++i)
    args.row_first[i] = zero_b == 0 ? 0 : whole - zero_b * sum_of_bytes(args.a + i * args.a_stride, k);
}

void matmul_static(const MatmulStaticArgs& args) noexcept {
  if (args.m <= 0) return;
  const PackedLayout layout = layout_of(args.packed);
  find_row_starts(args, layout.k);
  const int64_t begin = 0;
  GemmStaticArgs gemm{};
  gemm.image = args.a;
  gemm.row_bytes = args.a_stride;
  gemm.m = args.m;
  gemm.run = &begin;
  gemm.run_count = layout.k > 0 ? 1 : 0;
  gemm.run_bytes = layout.k;
  gemm.scratch = args.scratch;
  const RowRuns rows = prepare_runs(gemm, layout.k_padded);
  const Requantize requantize{args.multiplier,
                              args.offset,
                              args.range.zero_point,
                              args.range.lower,
                              args.range.upper,
                              nullptr,
                              0,
                              0.0f};
  for (int64_t p = 0; p * layout.panel < layout.n; ++p) {
    const Panel panel = panel_of(layout, args.packed, p);
    const PanelRequantizer requantizer(requantize, panel.first_column, panel.columns, args.zero_point_a,
                                       panel.column_sum, layout.k_padded);
    const StaticOutput output{args.c + panel.first_column, nullptr, args.c_stride};
    const int64_t vectors = panel.width / kLanes;
    const bool any = requantizer.form == EpilogueForm::kAny;
    const int64_t most = any ? (kTileRows[vectors] > 2 ? 2 : kTileRows[vectors]) : kTileRows[vectors];
    for (int64_t row = 0; row < args.m; row += most) {
      const int64_t height = args.m - row < most ? args.m - row : most;
      const MatmulTile tile = any ? choose_matmul_tile<EpilogueForm::kAny>(vectors, height)
                                  : choose_matmul_tile<EpilogueForm::kPlain>(vectors, height);
      tile(rows, row, panel, args.row_first, requantizer, output);
    }
  }
}

}  // namespace
}  // namespace intaglio
