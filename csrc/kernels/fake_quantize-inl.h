// Fake quantization of training: values on the quantized grid as floats, masks of where gradients pass, and
// the gradients of learned parameters (training_kernels.h).
#pragma once

#include "layout-inl.h"

namespace intaglio {
namespace {

// Values whose bits are whole bytes and fill at least one vector.
constexpr int kMaskStep = kLanes < 8 ? 8 : kLanes;

// ---- Values and bits --------------------------------------------------------------------------------

// What an activation's limits ask of a kernel. Rounding never changes an order, so that limits of values
// become limits of integers, and only the mask still compares values. An infinite limit asks for nothing,
// infinities being beyond the integers' limits. All this holds for an inverse scale that is positive and
// finite; kAny does what the definition says, for every scale.
enum class Limit { kNone, kLow, kBoth, kAny };

inline Limit limit_of(const FakeQuantization& q) {
  const float inverse = 1.0f / q.scale;
  if (!(inverse > 0.0f && inverse < __builtin_inff())) return Limit::kAny;
  if (q.high < __builtin_inff()) return Limit::kBoth;
  return q.low > -__builtin_inff() ? Limit::kLow : Limit::kNone;
}

template <Limit kLimit>
struct FakeQuantizer {
  explicit FakeQuantizer(const FakeQuantization& q)
      : inverse(set(1.0f / q.scale)),
        scale(set(q.scale)),
        zero(set(q.zero_point)),
        least(set(q.quant_min)),
        most(set(q.quant_max)),
        low(set(q.low)),
        high(set(q.high)) {
    if (kLimit == Limit::kNone || kLimit == Limit::kAny) return;
    const F from = clamp(add(round(mul(low, inverse)), zero));
    if (kLimit == Limit::kBoth) most = clamp(add(round(mul(high, inverse)), zero));
    least = from;
  }

  F clamp(F q) const { return min(most, max(least, q)); }
  // One comparison finds what both ends of a clamp moved.
  F run(F x, Mask* inside) const {
    const F v = kLimit == Limit::kAny ? min(high, max(low, x)) : x;
    const F q = add(round(mul(v, inverse)), zero);
    const F clamped = clamp(q);
    *inside = within(x, same_or_nan(clamped, q));
    return mul(sub(clamped, zero), scale);
  }
  Mask within(F x, Mask unclipped) const {
    if constexpr (kLimit != Limit::kNone) unclipped = both(unclipped, not_at_most(x, low));
    if constexpr (kLimit >= Limit::kBoth) unclipped = both(unclipped, not_at_least(x, high));
    return unclipped;
  }

  F inverse, scale, zero, least, most, low, high;
};

// Bits one after the other; kAligned: every run but the last one is whole bytes.
template <bool kAligned>
class BitWriter {
 public:
  explicit BitWriter(uint8_t* mask) : at_(mask) {}

  void put_step(uint32_t bits) {
    pending_ = kAligned ? bits : pending_ | bits << fill_;
    __builtin_memcpy(at_, &pending_, kMaskStep / 8);
    at_ += kMaskStep / 8;
    pending_ = kAligned ? 0 : pending_ >> kMaskStep;
  }
  void put(uint32_t bits, int n) {
    pending_ |= (bits & ((1u << n) - 1u)) << fill_;
    for (fill_ += n; fill_ >= 8; fill_ -= 8, pending_ >>= 8) *at_++ = static_cast<uint8_t>(pending_);
  }
  void finish() {
    if (fill_ > 0) *at_ = static_cast<uint8_t>(pending_);
  }

 private:
  uint8_t* at_;
  uint32_t pending_ = 0;
  int fill_ = 0;  // bits pending, below 8 between calls
};

// Inlined, or the compiler would keep the quantizer's vectors in memory.
template <class Quantizer, class Bits>
inline __attribute__((always_inline)) void fake_quantize_run(const Quantizer& quantizer, const float* x,
                                                             int64_t count, float* y, Bits& bits) {
  int64_t i = 0;
  for (; i + kMaskStep <= count; i += kMaskStep) {
    uint32_t step = 0;
    for (int j = 0; j < kMaskStep; j += kLanes) {
      Mask inside;
      store(y + i + j, quantizer.run(load(x + i + j), &inside));
      step |= to_bits(inside) << j;
    }
    bits.put_step(step);
  }
  while (i < count) {
    const int n = count - i < kLanes ? static_cast<int>(count - i) : kLanes;
    Mask inside;
    store_n(y + i, quantizer.run(load_n(x + i, n), &inside), n);
    bits.put(to_bits(inside), n);
    i += n;
  }
}

template <Limit kLimit>
inline void fake_quantize_all(const FakeQuantizeValuesArgs& args) {
  BitWriter<true> bits(args.mask);
  fake_quantize_run(FakeQuantizer<kLimit>(args.quantization), args.x, args.count, args.y, bits);
  bits.finish();
}

void fake_quantize_values(const FakeQuantizeValuesArgs& args) noexcept {
  switch (limit_of(args.quantization)) {
    case Limit::kNone:
      return fake_quantize_all<Limit::kNone>(args);
    case Limit::kLow:
      return fake_quantize_all<Limit::kLow>(args);
    case Limit::kBoth:
      return fake_quantize_all<Limit::kBoth>(args);
    case Limit::kAny:
      return fake_quantize_all<Limit::kAny>(args);
  }
}

template <bool kAligned>
inline void fake_quantize_each_row(const FakeQuantizeRowsArgs& args) {
  const float* w = args.w;
  float* y = args.y;
  const int64_t cols = args.cols, rows = args.rows;
  const float *scale = args.scale, least = args.quant_min, most = args.quant_max;
  const int32_t* zero_point = args.zero_point;
  BitWriter<kAligned> bits(args.mask);
  for (int64_t r = 0; r < rows; ++r, w += cols, y += cols) {
    const FakeQuantization row{
        scale[r], static_cast<float>(zero_point[r]), least, most, -__builtin_inff(), __builtin_inff()};
    limit_of(row) == Limit::kNone ? fake_quantize_run(FakeQuantizer<Limit::kNone>(row), w, cols, y, bits)
                                  : fake_quantize_run(FakeQuantizer<Limit::kAny>(row), w, cols, y, bits);
  }
  bits.finish();
}

void fake_quantize_rows(const FakeQuantizeRowsArgs& args) noexcept {
  args.cols % 8 == 0 ? fake_quantize_each_row<true>(args) : fake_quantize_each_row<false>(args);
}

// ---- Extremes ---------------------------------------------------------------------------------------

// Infinities count, so that one which an activation's limits cut off does no harm; NaN is watched for.
struct Extremes {
  F least, largest;
  Mask nan;

  explicit Extremes(F v) : least(v), largest(v), nan(unordered(v, v)) {}
  void widen(F v) {
    least = min(v, least);
    largest = max(v, largest);
  }
  // One comparison sees the NaNs of two vectors.
  void widen_two(F a, F b) {
    nan = either(nan, unordered(a, b));
    widen(a);
    widen(b);
  }
  void join(const Extremes& other) {
    widen(other.least);
    widen(other.largest);
    nan = either(nan, other.nan);
  }
  // A zero has no sign here: which one is found first differs between instruction sets.
  void reduce(float* lo, float* hi) const {
    const bool any = to_bits(nan) != 0;
    *lo = any ? __builtin_nanf("") : reduce_min(least) + 0.0f;
    *hi = any ? __builtin_nanf("") : reduce_max(largest) + 0.0f;
  }
};

// Of at least kLanes values. The last vector may count values twice, which changes nothing.
inline __attribute__((always_inline)) Extremes extremes_of(const float* x, int64_t count) {
  const F begin = load(x), end = load(x + count - kLanes);
  Extremes even(begin), odd(end);
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    even.widen_two(load(x + i), load(x + i + kLanes));
    odd.widen_two(load(x + i + 2 * kLanes), load(x + i + 3 * kLanes));
  }
  for (; i + kLanes <= count; i += kLanes) {
    const F v = load(x + i);
    even.widen_two(v, v);
  }
  even.join(odd);
  return even;
}

void find_extremes(const FindExtremesArgs& args) noexcept {
  if (args.count == 0) {
    *args.least = __builtin_inff();
    *args.largest = -__builtin_inff();
  } else if (args.count < kLanes) {
    Extremes(load_n_or(args.x, static_cast<int>(args.count), set(args.x[0])))
        .reduce(args.least, args.largest);
  } else {
    extremes_of(args.x, args.count).reduce(args.least, args.largest);
  }
}

// ---- Weights ----------------------------------------------------------------------------------------

constexpr int kRowBlock = 16;  // rows whose scales are divided together: whole vectors

// The zero that is added takes the sign of a negative one, as the reference's zero point does.
inline F to_grid(F w, F inverse, F scale) { return mul(add(round(mul(w, inverse)), set(0.0f)), scale); }

// The scales and their inverses of `n` rows; the bit of each one that is not finite.
inline uint32_t scales_of(const float* min_val, const float* max_val, int n, float most, float* scale,
                          float* inverse) {
  uint32_t bad = 0;
  for (int j = 0; j < n; j += kLanes) {
    const int left = to_n(n - j, kLanes);
    const F reach = max(sub(set(0.0f), load_n(min_val + j, left)), load_n(max_val + j, left));
    const F scales = div(max(set(kSmallestRange), reach), set(most));
    store_n(scale + j, scales, left);
    store(inverse + j, div(set(1.0f), scales));
    bad |= to_bits(same_or_nan(reach, set(__builtin_inff()))) << j;
  }
  return bad;
}

// Rows of at least a vector, the last one of which may overlap the one before.
inline void weight_to_grid(const float* w, int64_t cols, float inverse_scale, float row_scale, float* y) {
  const F inverse = set(inverse_scale), scale = set(row_scale);
  int64_t i = 0;
  for (; i + kLanes <= cols; i += kLanes) store(y + i, to_grid(load(w + i), inverse, scale));
  if (i < cols) store(y + cols - kLanes, to_grid(load(w + cols - kLanes), inverse, scale));
}

void fake_quantize_weight(const FakeQuantizeWeightArgs& args) noexcept {
  constexpr int64_t kBlockValues = 6144;  // rows of a block stay in L1
  const float* w = args.w;
  float *y = args.y, *min_val = args.min_val, *max_val = args.max_val, *scale = args.scale;
  const int64_t cols = args.cols, rows = args.rows;
  const auto most = static_cast<float>(args.most);
  const int few = cols < kLanes ? static_cast<int>(cols) : 0;
  const int block = cols * 2 > kBlockValues ? 1 : to_n(kBlockValues / (cols + 1), kRowBlock);
  alignas(64) float inverse[kRowBlock];
  int64_t bad_row = -1;
  for (int64_t first = 0; first < rows; first += block, w += block * cols, y += block * cols) {
    const int n = to_n(rows - first, block);
    float *lows = min_val + first, *highs = max_val + first, *scales = scale + first;
    for (int r = 0; r < n; ++r) {
      const float* row = w + r * cols;
      if (cols >= kLanes)
        extremes_of(row, cols).reduce(lows + r, highs + r);
      else
        Extremes(few > 0 ? load_n_or(row, few, set(*row)) : set(0.0f)).reduce(lows + r, highs + r);
    }
    const uint32_t bad = scales_of(lows, highs, n, most, scales, inverse);
    if (bad != 0 && bad_row < 0) bad_row = first + __builtin_ctz(bad);
    for (int r = 0; r < n; ++r) {
      const float* row = w + r * cols;
      if (cols >= kLanes)
        weight_to_grid(row, cols, inverse[r], scales[r], y + r * cols);
      else
        store_n(y + r * cols, to_grid(load_n(row, few), set(inverse[r]), set(scales[r])), few);
    }
  }
  *args.bad_row = bad_row;
}

// ---- Gradients --------------------------------------------------------------------------------------

void apply_mask(const ApplyMaskArgs& args) noexcept {
  const float* grad = args.grad;
  float* grad_x = args.grad_x;
  const uint8_t* mask = args.mask;
  const int64_t count = args.count;
  int64_t i = 0;
  for (; i + kMaskStep <= count; i += kMaskStep) {
    uint32_t bits = 0;
    __builtin_memcpy(&bits, mask + i / 8, kMaskStep / 8);
    for (int j = 0; j < kMaskStep; j += kLanes)
      store(grad_x + i + j, keep(from_bits(bits >> j), load(grad + i + j)));
  }
  if (i == count) return;
  uint32_t bits = mask[i / 8];
  if (count - i > 8) bits |= static_cast<uint32_t>(mask[i / 8 + 1]) << 8;
  for (; i < count; i += kLanes, bits >>= kLanes % 32) {
    const int n = count - i < kLanes ? static_cast<int>(count - i) : kLanes;
    store_n(grad_x + i, keep(from_bits(bits), load_n(grad + i, n)), n);
  }
}

// A value's distance from its integer counts, which limits move too: kNone or kAny.
template <Limit kLimit>
class LearnedGradients {
 public:
  explicit LearnedGradients(const FakeQuantization& q) : quantizer_(q) {}

  // The gradient of x; *by_scale is that of the scale, *clipped the gradient where an integer was clipped.
  F run(F grad, F x, F* by_scale, F* clipped) const {
    const F limited = kLimit == Limit::kAny ? min(quantizer_.high, max(quantizer_.low, x)) : x;
    const F v = mul(limited, quantizer_.inverse);
    const F q = add(round(v), quantizer_.zero);
    const F clamped = quantizer_.clamp(q);
    const Mask unclipped = same_or_nan(clamped, q);
    const F steps = sub(clamped, quantizer_.zero);
    *by_scale = mul(grad, choose(unclipped, sub(steps, v), steps));
    *clipped = choose(unclipped, set(0.0f), grad);
    return keep(quantizer_.within(x, unclipped), grad);
  }

 private:
  const FakeQuantizer<kLimit> quantizer_;
};

constexpr int kSumVectors = kSumLanes / kLanes;

inline double sum_in_order(const F (&lanes)[kSumVectors]) {
  float values[kSumLanes];
  for (int j = 0; j < kSumVectors; ++j) store(values + j * kLanes, lanes[j]);
  double total = 0.0;
  for (const float value : values) total += static_cast<double>(value);
  return total;
}

template <Limit kLimit>
inline void sum_gradients(const LearnedGradientsArgs& args) {
  const LearnedGradients<kLimit> gradients(args.quantization);
  const float *grad = args.grad, *x = args.x;
  float* grad_x = args.grad_x;
  const int64_t count = args.count;
  double scale_sum = 0.0, clipped_sum = 0.0;
  for (int64_t begin = 0; begin < count; begin += kSumBlock) {
    const int64_t end = count - begin < kSumBlock ? count : begin + kSumBlock;
    F by_scale[kSumVectors], clipped[kSumVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kSumVectors; ++j) by_scale[j] = clipped[j] = set(0.0f);
    int64_t i = begin;
    for (; i + kSumLanes <= end; i += kSumLanes) {
#pragma GCC unroll 2
      for (int j = 0; j < kSumVectors; ++j) {
        const int64_t at = i + j * kLanes;
        F scale_term, clipped_term;
        store(grad_x + at, gradients.run(load(grad + at), load(x + at), &scale_term, &clipped_term));
        by_scale[j] = add(by_scale[j], scale_term);
        clipped[j] = add(clipped[j], clipped_term);
      }
    }
#pragma GCC unroll 2
    for (int j = 0; j < kSumVectors; ++j) {
      const int64_t at = i + j * kLanes;
      if (at >= end) break;
      const int n = end - at < kLanes ? static_cast<int>(end - at) : kLanes;
      const Mask held = from_bits((1u << n) - 1u);
      F scale_term, clipped_term;
      store_n(grad_x + at, gradients.run(load_n(grad + at, n), load_n(x + at, n), &scale_term, &clipped_term),
              n);
      by_scale[j] = add(by_scale[j], keep(held, scale_term));
      clipped[j] = add(clipped[j], keep(held, clipped_term));
    }
    scale_sum += sum_in_order(by_scale);
    clipped_sum += sum_in_order(clipped);
  }
  args.sums[0] = scale_sum;
  args.sums[1] = clipped_sum == 0.0 ? 0.0 : -static_cast<double>(args.quantization.scale) * clipped_sum;
}

void learned_gradients(const LearnedGradientsArgs& args) noexcept {
  limit_of(args.quantization) == Limit::kNone ? sum_gradients<Limit::kNone>(args)
                                              : sum_gradients<Limit::kAny>(args);
}

}  // namespace
}  // namespace intaglio
