// Elementwise arithmetic on u8: tables, sums and products (docs/numerics.md, "Static quantization").
#pragma once

#include "layout-inl.h"

namespace intaglio {
namespace {

// ---- Tables ---------------------------------------------------------------------------------------

template <class Map>
inline void map_rows(const LookUpArgs& args, const Map& map) {
  // Copies: bytes that are stored could be the arguments', for all that the compiler knows.
  const int64_t cols = args.cols, x_stride = args.x_stride, y_stride = args.y_stride;
  const int64_t whole = cols / kBytes * kBytes;
  const int left = static_cast<int>(cols - whole);
  const uint8_t* x = args.x;
  uint8_t* y = args.y;
  for (int64_t r = args.rows; r > 0; --r, x += x_stride, y += y_stride) {
    for (int64_t i = 0; i < whole; i += kBytes) store_u8s(y + i, map(load_u8s(x + i)));
    if (left > 0) store_u8s_n(y + whole, map(load_u8s_n(x + whole, left)), left);
  }
}

void look_up_bytes(const LookUpArgs& args) noexcept {
  if (args.table == nullptr) {
    map_rows(args, [](I x) { return x; });
  } else if (args.permutes_bytes) {
    const ByteTable<true> table(args.table);
    map_rows(args, [&table](I x) { return table.look_up(x); });
  } else {
    const ByteTable<false> table(args.table);
    map_rows(args, [&table](I x) { return table.look_up(x); });
  }
}

// ---- Pairs ----------------------------------------------------------------------------------------

// A sum or a product of two vectors of steps (vec_*-inl.h, to_steps): those of odd places count 256 times,
// and so have factors that are 256 times smaller, or 65536 times for products. Powers of two round nothing.
struct Sum {
  explicit Sum(const PairArgs& args)
      : factor_a{set(args.factor_a), set(args.factor_a / 256.0f)},
        factor_b{set(args.factor_b), set(args.factor_b / 256.0f)} {}
  F operator()(F a, F b, int odd) const { return fma(a, factor_a[odd], mul(b, factor_b[odd])); }
  F factor_a[2], factor_b[2];
};

struct Product {
  explicit Product(const PairArgs& args) : factor{set(args.factor_a), set(args.factor_a / 65536.0f)} {}
  F operator()(F a, F b, int odd) const { return mul(mul(a, b), factor[odd]); }
  F factor[2];
};

// kBounded: no result can be beyond what the conversion to int32 holds.
template <class Op, bool kBounded>
class PairCombiner {
 public:
  explicit PairCombiner(const PairArgs& args)
      : op_(args),
        zeros_a_(step_zeros(args.zero_point_a)),
        zeros_b_(step_zeros(args.zero_point_b)),
        encoder_(args.range) {}

  void run(const uint8_t* a, const uint8_t* b, int64_t count, uint8_t* y) const {
    int64_t i = 0;
    for (; i + kBytes <= count; i += kBytes)
      store_u8s(y + i, combine(widen(load_u8s(a + i), zeros_a_), widen(load_u8s(b + i), zeros_b_)));
    const int n = static_cast<int>(count - i);
    if (n > 0)
      store_u8s_n(y + i,
                  combine(widen(load_u8s_n(a + i, n), zeros_a_), widen(load_u8s_n(b + i, n), zeros_b_)), n);
  }

  // A single row meets `rows` rows: its steps stay in registers while they pass.
  template <bool kSingleIsA>
  void run_single(const uint8_t* single, const uint8_t* many, int64_t rows, int64_t cols, uint8_t* y) const {
    for (int64_t i = 0; i < cols; i += kBytes) {
      const int n = to_n(cols - i, kBytes);
      const bool whole = n == kBytes;
      const Steps row =
          widen(whole ? load_u8s(single + i) : load_u8s_n(single + i, n), kSingleIsA ? zeros_a_ : zeros_b_);
      for (int64_t at = i; at < rows * cols; at += cols) {
        const Steps other =
            widen(whole ? load_u8s(many + at) : load_u8s_n(many + at, n), kSingleIsA ? zeros_b_ : zeros_a_);
        const I bytes = kSingleIsA ? combine(row, other) : combine(other, row);
        whole ? store_u8s(y + at, bytes) : store_u8s_n(y + at, bytes, n);
      }
    }
  }

 private:
  struct Steps {
    F v[4];
  };
  static Steps widen(I bytes, const StepZeros& zeros) {
    Steps steps;
    to_steps(bytes, zeros, steps.v);
    return steps;
  }
  I combine(const Steps& a, const Steps& b) const {
    I v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const F y = op_(a.v[j], b.v[j], j % 2);
      v[j] = kBounded ? to_int(y) : round_to_int(y);
    }
    return encoder_.clamp(interleave_u8_four(v, encoder_.zero));
  }

  const Op op_;
  const StepZeros zeros_a_, zeros_b_;
  const ByteEncoder encoder_;
};

template <class Op, bool kBounded>
void combine_pairs(const PairArgs& args) {
  constexpr int64_t kChunkBytes = 16 * 1024;  // rows of a chunk stay in L1 while the columns pass
  const PairCombiner<Op, kBounded> combiner(args);
  if (args.single == SingleRow::kNone) return combiner.run(args.a, args.b, args.rows * args.cols, args.y);
  const bool single_is_a = args.single == SingleRow::kA;
  const uint8_t* single = single_is_a ? args.a : args.b;
  const uint8_t* many = single_is_a ? args.b : args.a;
  const int64_t cols = args.cols, step = kChunkBytes / (cols + 1) + 1;
  for (int64_t r = 0; r < args.rows; r += step) {
    const int64_t rows = args.rows - r < step ? args.rows - r : step;
    single_is_a ? combiner.template run_single<true>(single, many + r * cols, rows, cols, args.y + r * cols)
                : combiner.template run_single<false>(single, many + r * cols, rows, cols, args.y + r * cols);
  }
}

void add_pairs(const PairArgs& args) noexcept {
  const bool bounded = 255.0f * args.factor_a + 255.0f * args.factor_b < kLargestStep;
  bounded ? combine_pairs<Sum, true>(args) : combine_pairs<Sum, false>(args);
}

void mul_pairs(const PairArgs& args) noexcept {
  const bool bounded = 65025.0f * args.factor_a < kLargestStep;
  bounded ? combine_pairs<Product, true>(args) : combine_pairs<Product, false>(args);
}

}  // namespace
}  // namespace intaglio
