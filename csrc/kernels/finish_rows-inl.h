// What follows a product, row by row: a function, a residual, a normalization, a quantization.
//
// A row stays in L1 from the first pass over it to the last. Each pass also gathers what the next one needs:
// the sum, the sum of squares or the range.
#pragma once

#include "functions-inl.h"
#include "lanes-inl.h"
#include "quantize-inl.h"

namespace intaglio {
namespace {

// Two running ranges, so that the chains of one do not wait for their latency.
struct RowRange {
  Range half[2];

  RowRange() {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) half[i].low = half[i].high = half[i].poison = set(0.0f);
  }
  void widen(int part, F v) { half[part % 2].widen(v); }
  RowParams params() {
    half[0].widen(half[1]);
    const bool finite = !any_nan(half[0].poison);
    return choose_row_params(finite ? reduce_min(half[0].low) : __builtin_nanf(""),
                             finite ? reduce_max(half[0].high) : __builtin_nanf(""));
  }
};

template <bool kRange, class Fn>
inline RowRange apply_function(const Fn& fn, const float* x, float* y, int64_t cols) {
  RowRange range;
  for_each_part(cols, [&](int64_t i, int part, auto n) __attribute__((always_inline)) {
    const F v = fn(load_part(x + i, n));
    store_part(y + i, v, n);
    if (kRange) range.widen(part, only_part(v, set(0.0f), n));  // not function(0)
  });
  return range;
}

enum class Statistic { kNone, kSum, kSquares, kRange };

struct Gathered {
  ChainSum sum;
  RowRange range;
};

// v = x + residual -> y, and what is to be known of v; y may be null where v is x itself.
template <Statistic kStatistic>
inline Gathered add_residual(const float* x, const float* residual, int64_t residual_stride, float* y,
                             int64_t cols) {
  Gathered got;
  for_each_part(cols, [&](int64_t i, int part, auto n) __attribute__((always_inline)) {
    F v = load_part(x + i, n);
    if (residual != nullptr) {
      v = add(v, load_part(residual + i, n));
      if (part * kLanes % 16 == 0) __builtin_prefetch(residual + residual_stride + i);  // the next row's
    }
    if (y != nullptr) store_part(y + i, v, n);
    if (kStatistic == Statistic::kSum) got.sum.add_value(part, v);
    if (kStatistic == Statistic::kSquares) got.sum.add_square(part, v);
    if (kStatistic == Statistic::kRange) got.range.widen(part, v);
  });
  return got;
}

// The sum of squared distances from `mean`.
inline float spread_about(const float* x, float mean, int64_t cols) {
  ChainSum sum;
  const F center = set(mean);
  for_each_part(cols, [&](int64_t i, int part, auto n) __attribute__((always_inline)) {
    sum.add_square(part, sub(load_part_or(x + i, n, center), center));
  });
  return sum.total();
}

// y = fma((x - mean) * inverse, weight, bias), and its range.
template <bool kAffine>
inline RowRange normalize_row(const FinishRowsArgs& args, const float* x, float mean, float inverse,
                              float* y) {
  RowRange range;
  const float *weight = args.weight, *bias = args.bias;
  const F center = set(mean), factor = set(inverse);
  for_each_part(args.cols, [&](int64_t i, int part, auto n) __attribute__((always_inline)) {
    F v = mul(sub(load_part_or(x + i, n, center), center), factor);
    if (kAffine)
      v = fma(v, load_part(weight + i, n), load_part(bias + i, n));
    else
      v = fma(v, weight == nullptr ? set(1.0f) : load_part(weight + i, n),
              bias == nullptr ? set(0.0f) : load_part(bias + i, n));
    store_part(y + i, v, n);
    range.widen(part, v);
  });
  return range;
}

inline float inverse_root(float mean_square, float epsilon) {
  const double square = static_cast<double>(mean_square) + static_cast<double>(epsilon);
  return static_cast<float>(1.0 / __builtin_sqrt(square));
}

// The normalized row; `sum` is that of the values or of their squares.
inline RowRange normalize_row(const FinishRowsArgs& args, const float* x, const ChainSum& sum, float* y) {
  const auto count = static_cast<float>(args.cols);
  const float first = sum.total() / count;
  float mean = 0.0f, mean_square = first;
  if (args.norm == Norm::kLayer) {
    mean = first;
    mean_square = spread_about(x, mean, args.cols) / count;
  }
  const float inverse = inverse_root(mean_square, args.epsilon);
  return args.weight != nullptr && args.bias != nullptr ? normalize_row<true>(args, x, mean, inverse, y)
                                                        : normalize_row<false>(args, x, mean, inverse, y);
}

inline void quantize_row(const FinishRowsArgs& args, int64_t row, const float* x, RowRange& range) {
  const RowParams p = range.params();
  uint8_t* q = args.q + row * args.q_stride;
  quantize_span<false>(x, args.cols, p.inverse_scale, p.zero_point, q);
  for (int64_t i = args.cols; i < args.q_stride; ++i) q[i] = 0;
  args.scale[row] = p.scale;
  args.zero_point[row] = p.zero_point;
}

// `x` has been through the function.
__attribute__((noinline)) void finish_row(const FinishRowsArgs& args, int64_t row, const float* x) {
  const float* residual = args.residual == nullptr ? nullptr : args.residual + row * args.residual_stride;
  float* sum = args.sum == nullptr ? nullptr : args.sum + row * args.sum_stride;
  float* y = args.y == nullptr ? nullptr : args.y + row * args.y_stride;
  const bool normalizes = args.norm != Norm::kNone;
  float* to = sum != nullptr ? sum : normalizes && y != nullptr ? y : args.scratch;
  if (!normalizes && sum == nullptr && y != nullptr) to = y;
  if (residual == nullptr && (x == to || (sum == nullptr && (normalizes || y == nullptr)))) to = nullptr;
  const float* v = to == nullptr ? x : to;
  Gathered got;
  if (args.norm == Norm::kLayer)
    got = add_residual<Statistic::kSum>(x, residual, args.residual_stride, to, args.cols);
  else if (args.norm == Norm::kRms)
    got = add_residual<Statistic::kSquares>(x, residual, args.residual_stride, to, args.cols);
  else if (args.q != nullptr)
    got = add_residual<Statistic::kRange>(x, residual, args.residual_stride, to, args.cols);
  else if (to != nullptr)
    add_residual<Statistic::kNone>(x, residual, args.residual_stride, to, args.cols);
  if (normalizes) {
    float* normal = y != nullptr ? y : args.scratch;
    got.range = normalize_row(args, v, got.sum, normal);
    v = normal;
  } else if (y != nullptr && y != v) {
    __builtin_memcpy(y, v, static_cast<size_t>(args.cols) * sizeof(float));
  }
  if (args.q != nullptr) quantize_row(args, row, v, got.range);
}

// A function alone, or followed by a quantization alone.
template <class Fn>
inline void function_rows(const FinishRowsArgs& args, const Fn& fn) {
  float* to = args.sum != nullptr ? args.sum : args.y;
  const int64_t to_stride = args.sum != nullptr ? args.sum_stride : args.y != nullptr ? args.y_stride : 0;
  const bool ends = args.residual == nullptr && args.norm == Norm::kNone;
  if (to == nullptr) to = args.scratch;
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* x = args.x + r * args.x_stride;
    float* v = to + r * to_stride;
    if (!ends || (args.sum != nullptr && args.y != nullptr)) {
      apply_function<false>(fn, x, args.scratch, args.cols);
      finish_row(args, r, args.scratch);
    } else if (args.q == nullptr) {
      apply_function<false>(fn, x, v, args.cols);
    } else {
      RowRange range = apply_function<true>(fn, x, v, args.cols);
      quantize_row(args, r, v, range);
    }
  }
}

void finish_rows(const FinishRowsArgs& args) noexcept {
  if (args.function == Function::kNone) {
    for (int64_t r = 0; r < args.rows; ++r) finish_row(args, r, args.x + r * args.x_stride);
    return;
  }
  with_function(args.function, args.lower, args.upper, [&args](const auto& fn) { function_rows(args, fn); });
}

}  // namespace
}  // namespace intaglio
