// Fake quantization of training: values on the quantized grid as floats, masks of where gradients pass, and
// the gradients of learned parameters (training_kernels.h).
#pragma once

#include "quantize-inl.h"

namespace intaglio {
namespace {

// Values whose bits are whole bytes and fill at least one vector.
constexpr int kMaskStep = kLanes < 8 ? 8 : kLanes;

// ---- Values and bits --------------------------------------------------------------------------------

// kLimits: `low` and `high` matter. Without them infinities are beyond the integers' limits anyhow, unless
// the inverse of the scale is zero and makes NaN of them.
template <bool kLimits>
struct FakeQuantizer {
  explicit FakeQuantizer(const FakeQuantization& q)
      : inverse(set(1.0f / q.scale)),
        scale(set(q.scale)),
        zero(set(q.zero_point)),
        least(set(q.quant_min)),
        most(set(q.quant_max)),
        low(set(q.low)),
        high(set(q.high)) {}

  // One comparison finds what both ends of a clamp moved.
  F run(F x, Mask* inside) const {
    const F v = kLimits ? min(high, max(low, x)) : x;
    const F q = add(round(mul(v, inverse)), zero);
    const F clamped = min(most, max(least, q));
    *inside = within(x, same_or_nan(clamped, q));
    return mul(sub(clamped, zero), scale);
  }
  Mask within(F x, Mask unclipped) const {
    if constexpr (!kLimits) return unclipped;
    return both(unclipped, both(not_at_most(x, low), not_at_least(x, high)));
  }

  F inverse, scale, zero, least, most, low, high;
};

inline bool needs_limits(const FakeQuantization& q) {
  return !(q.low == -__builtin_inff() && q.high == __builtin_inff() && 1.0f / q.scale > 0.0f);
}

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

template <class Quantizer, class Bits>
inline void fake_quantize_run(const Quantizer& quantizer, const float* x, int64_t count, float* y,
                              Bits& bits) {
  int64_t i = 0;
  for (; i + kMaskStep <= count; i += kMaskStep) {
    uint32_t step = 0;
#pragma GCC unroll 8
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

template <bool kLimits>
inline void fake_quantize_all(const FakeQuantizeValuesArgs& args) {
  BitWriter<true> bits(args.mask);
  fake_quantize_run(FakeQuantizer<kLimits>(args.quantization), args.x, args.count, args.y, bits);
  bits.finish();
}

void fake_quantize_values(const FakeQuantizeValuesArgs& args) noexcept {
  needs_limits(args.quantization) ? fake_quantize_all<true>(args) : fake_quantize_all<false>(args);
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
    needs_limits(row) ? fake_quantize_run(FakeQuantizer<true>(row), w, cols, y, bits)
                      : fake_quantize_run(FakeQuantizer<false>(row), w, cols, y, bits);
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
inline Extremes extremes_of(const float* x, int64_t count) {
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

struct WeightRow {
  float lo, hi, scale;
  bool finite;

  WeightRow(const Extremes& extremes, float most) {
    extremes.reduce(&lo, &hi);
    const float reach = -lo > hi ? -lo : hi;
    finite = reach < __builtin_inff();
    scale = (reach < kSmallestRange ? kSmallestRange : reach) / most;
  }
};

// The zero that is added takes the sign of a negative one, as the reference's zero point does.
inline F to_grid(F w, F inverse, F scale) { return mul(add(round(mul(w, inverse)), set(0.0f)), scale); }

void fake_quantize_weight(const FakeQuantizeWeightArgs& args) noexcept {
  const float* w = args.w;
  float *y = args.y, *min_val = args.min_val, *max_val = args.max_val, *scales = args.scale;
  const int64_t cols = args.cols, rows = args.rows;
  const auto most = static_cast<float>(args.most);
  int64_t bad_row = -1;
  for (int64_t r = 0; r < rows; ++r, w += cols, y += cols) {
    const int few = cols < kLanes ? static_cast<int>(cols) : 0;
    const F whole = few > 0 ? load_n_or(w, few, set(w[0])) : set(0.0f);
    const WeightRow row(cols < kLanes ? Extremes(whole) : extremes_of(w, cols), most);
    min_val[r] = row.lo;
    max_val[r] = row.hi;
    scales[r] = row.scale;
    if (!row.finite && bad_row < 0) bad_row = r;
    const F inverse = set(1.0f / row.scale), scale = set(row.scale);
    if (cols < kLanes) {
      store_n(y, to_grid(whole, inverse, scale), few);
      continue;
    }
    int64_t i = 0;
    for (; i + kLanes <= cols; i += kLanes) store(y + i, to_grid(load(w + i), inverse, scale));
    if (i < cols) store(y + cols - kLanes, to_grid(load(w + cols - kLanes), inverse, scale));
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
#pragma GCC unroll 8
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

template <bool kLimits>
class LearnedGradients {
 public:
  explicit LearnedGradients(const FakeQuantization& q) : quantizer_(q), minus_scale_(set(-q.scale)) {}

  // The gradient of x; *by_scale and *by_zero_point are the terms of the sums.
  F run(F grad, F x, F* by_scale, F* by_zero_point) const {
    const F limited = kLimits ? min(quantizer_.high, max(quantizer_.low, x)) : x;
    const F v = mul(limited, quantizer_.inverse);
    const F q = add(round(v), quantizer_.zero);
    const F clamped = min(quantizer_.most, max(quantizer_.least, q));
    const Mask unclipped = same_or_nan(clamped, q);
    const F steps = sub(clamped, quantizer_.zero);
    *by_scale = mul(grad, choose(unclipped, sub(steps, v), steps));
    *by_zero_point = choose(unclipped, set(0.0f), mul(grad, minus_scale_));
    return keep(quantizer_.within(x, unclipped), grad);
  }

 private:
  const FakeQuantizer<kLimits> quantizer_;
  const F minus_scale_;
};

constexpr int kSumVectors = kSumLanes / kLanes;

inline double sum_in_order(const F (&lanes)[kSumVectors]) {
  float values[kSumLanes];
  for (int j = 0; j < kSumVectors; ++j) store(values + j * kLanes, lanes[j]);
  double total = 0.0;
  for (const float value : values) total += static_cast<double>(value);
  return total;
}

template <bool kLimits>
inline void sum_gradients(const LearnedGradientsArgs& args) {
  const LearnedGradients<kLimits> gradients(args.quantization);
  const float *grad = args.grad, *x = args.x;
  float* grad_x = args.grad_x;
  const int64_t count = args.count;
  double scale_sum = 0.0, zero_point_sum = 0.0;
  for (int64_t begin = 0; begin < count; begin += kSumBlock) {
    const int64_t end = count - begin < kSumBlock ? count : begin + kSumBlock;
    F by_scale[kSumVectors], by_zero_point[kSumVectors];
#pragma GCC unroll 16
    for (int j = 0; j < kSumVectors; ++j) by_scale[j] = by_zero_point[j] = set(0.0f);
    int64_t i = begin;
    for (; i + kSumLanes <= end; i += kSumLanes) {
#pragma GCC unroll 16
      for (int j = 0; j < kSumVectors; ++j) {
        const int64_t at = i + j * kLanes;
        F scale_term, zero_point_term;
        store(grad_x + at, gradients.run(load(grad + at), load(x + at), &scale_term, &zero_point_term));
        by_scale[j] = add(by_scale[j], scale_term);
        by_zero_point[j] = add(by_zero_point[j], zero_point_term);
      }
    }
#pragma GCC unroll 16
    for (int j = 0; j < kSumVectors; ++j) {
      const int64_t at = i + j * kLanes;
      if (at >= end) break;
      const int n = end - at < kLanes ? static_cast<int>(end - at) : kLanes;
      const Mask held = from_bits((1u << n) - 1u);
      F scale_term, zero_point_term;
      store_n(grad_x + at,
              gradients.run(load_n(grad + at, n), load_n(x + at, n), &scale_term, &zero_point_term), n);
      by_scale[j] = add(by_scale[j], keep(held, scale_term));
      by_zero_point[j] = add(by_zero_point[j], keep(held, zero_point_term));
    }
    scale_sum += sum_in_order(by_scale);
    zero_point_sum += sum_in_order(by_zero_point);
  }
  args.sums[0] = scale_sum;
  args.sums[1] = zero_point_sum;
}

void learned_gradients(const LearnedGradientsArgs& args) noexcept {
  needs_limits(args.quantization) ? sum_gradients<true>(args) : sum_gradients<false>(args);
}

}  // namespace
}  // namespace intaglio
