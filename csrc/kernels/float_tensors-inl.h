// What stands around a Program's products in float32: gathered sums, softmax, arithmetic, means, unit rows.
#pragma once

#include "lanes-inl.h"
#include "weights-inl.h"

namespace intaglio {
namespace {

// ---- Gathering ------------------------------------------------------------------------------------

inline const float* gathered_row(const GatherSumsArgs::Table& table, int64_t row, int64_t cols) {
  const int64_t at = row % table.period;
  const int64_t index = table.is_int64 ? static_cast<const int64_t*>(table.indices)[at]
                                       : static_cast<const int32_t*>(table.indices)[at];
  return table.rows + index * cols;
}

template <int kCount>
inline void gather_rows(const GatherSumsArgs& args) {
  for (int64_t r = args.row_begin; r < args.row_end; ++r) {
    const float* row[kCount];
    for (int t = 0; t < kCount; ++t) row[t] = gathered_row(args.tables[t], r, args.cols);
    float* y = args.y + (r - args.row_begin) * args.y_stride;
    for_each_part(args.cols, [&](int64_t i, int, auto n) __attribute__((always_inline)) {
      F v = load_part(row[0] + i, n);
#pragma GCC unroll 4
      for (int t = 1; t < kCount; ++t) v = add(v, load_part(row[t] + i, n));
      store_part(y + i, v, n);
    });
  }
}

void gather_sums(const GatherSumsArgs& args) noexcept {
  switch (args.count) {
    case 1:
      return gather_rows<1>(args);
    case 2:
      return gather_rows<2>(args);
    case 3:
      return gather_rows<3>(args);
    case 4:
      return gather_rows<4>(args);
    default:
      return;
  }
}

// ---- Softmax --------------------------------------------------------------------------------------

void softmax_floats(const SoftmaxFloatsArgs& args) noexcept {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* x = args.x + r * args.x_stride;
    float* y = args.y + r * args.y_stride;
    for_each_part(args.cols, [&](int64_t i, int, auto n) __attribute__((always_inline)) {
      store_part(y + i, mul(load_part(x + i, n), set(kLog2E)), n);
    });
    const F inverse = set(1.0f / weigh_row(y, args.cols));
    for_each_part(args.cols, [&](int64_t i, int, auto n) __attribute__((always_inline)) {
      store_part(y + i, mul(load_part(y + i, n), inverse), n);
    });
  }
}

// ---- Arithmetic -----------------------------------------------------------------------------------

template <FloatOp kOp>
inline F combined(F a, F b) {
  if constexpr (kOp == FloatOp::kAdd) return add(a, b);
  if constexpr (kOp == FloatOp::kSub) return sub(a, b);
  if constexpr (kOp == FloatOp::kMul) return mul(a, b);
  return div(a, b);
}

template <FloatOp kOp>
inline void combine_rows(const CombineFloatsArgs& args) {
  const bool a_is_scalar = args.a.is_scalar, b_is_scalar = args.b.is_scalar;
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* a = args.a.data + r * args.a.row_stride;
    const float* b = args.b.data + r * args.b.row_stride;
    float* y = args.y + r * args.y_stride;
    const F one_a = a_is_scalar ? set(*a) : set(0.0f), one_b = b_is_scalar ? set(*b) : set(0.0f);
    for_each_part(args.cols, [&](int64_t i, int, auto n) __attribute__((always_inline)) {
      const F left = a_is_scalar ? one_a : load_part(a + i, n);
      const F right = b_is_scalar ? one_b : load_part(b + i, n);
      store_part(y + i, combined<kOp>(left, right), n);
    });
  }
}

void combine_floats(const CombineFloatsArgs& args) noexcept {
  switch (args.op) {
    case FloatOp::kAdd:
      return combine_rows<FloatOp::kAdd>(args);
    case FloatOp::kSub:
      return combine_rows<FloatOp::kSub>(args);
    case FloatOp::kMul:
      return combine_rows<FloatOp::kMul>(args);
    case FloatOp::kDiv:
      return combine_rows<FloatOp::kDiv>(args);
  }
}

// ---- Means and norms ------------------------------------------------------------------------------

// Vectors of columns are independent chains: four at once hide the latency of the sums.
template <int NV>
inline void mean_columns(const MeanRowsArgs& args, int64_t column, int n) {
  F sum[NV];
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) sum[j] = set(0.0f);
  const float* x = args.x + column;
  for (int64_t r = 0; r < args.rows; ++r, x += args.x_stride)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const F v = NV == 1 ? load_n(x, n) : load(x + j * kLanes);
      sum[j] = r == 0 ? v : add(sum[j], v);
    }
  const F divisor = set(args.divisor);
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    const F mean = div(sum[j], divisor);
    float* y = args.y + column + j * kLanes;
    NV == 1 ? store_n(y, mean, n) : store(y, mean);
  }
}

void mean_rows(const MeanRowsArgs& args) noexcept {
  int64_t column = 0;
  for (; column + 4 * kLanes <= args.cols; column += 4 * kLanes) mean_columns<4>(args, column, kLanes);
  for (; column < args.cols; column += kLanes) {
    const int64_t left = args.cols - column;
    mean_columns<1>(args, column, static_cast<int>(left < kLanes ? left : kLanes));
  }
}

void unit_rows(const UnitRowsArgs& args) noexcept {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* x = args.x + r * args.x_stride;
    float* y = args.y + r * args.y_stride;
    ChainSum squares;
    for_each_part(args.cols, [&](int64_t i, int part, auto n) __attribute__((always_inline)) {
      squares.add_square(part, load_part(x + i, n));
    });
    const float length = __builtin_sqrtf(squares.total());
    const F divisor = set(length < args.epsilon ? args.epsilon : length);
    for_each_part(args.cols, [&](int64_t i, int, auto n) __attribute__((always_inline)) {
      store_part(y + i, div(load_part(x + i, n), divisor), n);
    });
  }
}

}  // namespace
}  // namespace intaglio
