// One time step of LSTM, GRU and RNN: the int8 product of the quantized state, then the gates.
//
// The columns of the packed weight are the gates of kLanes hidden units side by side (i f g o of the
// same units), so that a tile's sums are in L1 when its units are finished.
#pragma once

#include "gates-inl.h"
#include "gemm-inl.h"

namespace intaglio {
namespace {

// Pre-activations from int32 sums, the parameters of their columns and the input's part.
struct SummedGates {
  const Panel& panel;
  const int32_t* sums;  // gate g of these units is at sums + g * kLanes
  int64_t column;       // in the panel, of the first gate
  const float* pre;     // as sums
  I zero_point;
  F row_scale;

  F on(int g, F base) const {
    return scaled(load_int(sums + g * kLanes), panel, column + g * kLanes, zero_point, row_scale, base);
  }
  F of(int g) const { return on(g, load(pre + g * kLanes)); }
  F hidden_part() const { return on(2, load(panel.bias + column + 2 * kLanes)); }
  F input_part() const { return load(pre + 2 * kLanes); }
};

// Taller tiles have more row addresses than general registers.
constexpr int most_sum_rows(int64_t vectors) { return kTileRows[vectors] < 8 ? kTileRows[vectors] : 8; }

// int32 sums of MR rows by NV vectors, to memory that stays in L1.
template <int MR, int NV>
__attribute__((noinline)) void sum_tile(const int8_t* weight, const Act* a, int64_t a_stride,
                                        int64_t k_padded, int32_t* sums) {
  I acc[MR][NV];
  if constexpr (kSplits<MR, NV>)
    accumulate_split<MR, NV>(a, a_stride, weight, k_padded, acc);
  else
    accumulate<MR, NV>(a, a_stride, weight, k_padded, acc);
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store_int(sums + (i * NV + j) * kLanes, acc[i][j]);
}

using SumTile = void (*)(const int8_t*, const Act*, int64_t, int64_t, int32_t*);

template <int NV, int MR = most_sum_rows(NV)>
SumTile sum_tile_of(int64_t rows) {
  if constexpr (MR == 1) {
    return sum_tile<1, NV>;
  } else {
    return rows == MR ? sum_tile<MR, NV> : sum_tile_of<NV, MR - 1>(rows);
  }
}

SumTile choose_sum_tile(int64_t vectors, int64_t rows) {
  switch (vectors) {
    case 1:
      return sum_tile_of<1>(rows);
    case 2:
      return sum_tile_of<2>(rows);
    case 3:
      return sum_tile_of<3>(rows);
    default:
      return sum_tile_of<4>(rows);
  }
}

template <class Cell>
void finish_units(const RecurrentStepArgs& args, const Panel& panel, int64_t vectors, int64_t row,
                  const int32_t* sums) {
  constexpr int64_t kWidth = Cell::kGates * kLanes;
  const int64_t states = row * args.units;
  int64_t unit = panel.first_column / Cell::kGates;
  for (int64_t column = 0; column < vectors * kLanes; column += kWidth, unit += kLanes) {
    const int64_t left = args.units - unit;
    Cell::finish(Units<SummedGates>{
        {panel, sums + column, column, args.pre + row * args.pre_stride + panel.first_column + column,
         set_int(args.row_zero_point[row]), set(args.row_scale[row])},
        args.c == nullptr ? nullptr : args.c + states + unit,
        args.h + states + unit,
        args.y == nullptr ? nullptr : args.y + row * args.y_stride + unit,
        static_cast<int>(left < kLanes ? left : kLanes)});
  }
}

template <class Cell>
void recurrent_step(const RecurrentStepArgs& args) {
  if (args.m <= 0) return;
  const PackedLayout layout = layout_of(args.packed);
  const int64_t k_padded = layout.k_padded;
  GemmArgs operand{};
  operand.a = args.q;
  operand.a_stride = args.q_stride;
  operand.m = args.m;
  operand.scratch = args.scratch;
  int64_t a_stride;
  const Act* a = prepare_activations(operand, k_padded, &a_stride);
  auto* sums = static_cast<int32_t*>(args.scratch);
  const int64_t panels = (layout.n_padded + layout.panel - 1) / layout.panel;
  for (int64_t i = 0; i < panels; ++i) {
    const int64_t p = args.backward ? panels - 1 - i : i;
    const Panel panel = panel_of(layout, args.packed, p);
    const int64_t vectors = panel.width / kLanes;
    const int64_t tiles = (args.m + most_sum_rows(vectors) - 1) / most_sum_rows(vectors);
    int64_t row = 0;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t rows = (args.m - row + tiles - t - 1) / (tiles - t);
      choose_sum_tile(vectors, rows)(panel.weight, a + row * a_stride, a_stride, k_padded, sums);
      for (int64_t r = 0; r < rows; ++r)
        finish_units<Cell>(args, panel, vectors, row + r, sums + r * vectors * kLanes);
      row += rows;
    }
  }
}

void lstm_step(const RecurrentStepArgs& args) noexcept { recurrent_step<Lstm>(args); }
void gru_step(const RecurrentStepArgs& args) noexcept { recurrent_step<Gru>(args); }
void rnn_step(const RecurrentStepArgs& args) noexcept {
  args.relu ? recurrent_step<RnnRelu>(args) : recurrent_step<RnnTanh>(args);
}

}  // namespace
}  // namespace intaglio
