// Threaded drivers of fake quantization in training: what is shared out, and how ranges move.
//
// Whole tensors are taken in memory order; the arithmetic is intaglio/ops/reference_fake_quantize.py.
#pragma once

#include "../kernels/kernels.h"

namespace intaglio {

void fake_quantize_values(const FakeQuantizeValuesArgs& call, int threads);

// A moving range and the parameters that follow from it, each changed in place.
struct ObservedCall {
  const float* x;
  int64_t count;
  float* min_val;
  float* max_val;
  float* scale;
  int32_t* zero_point;
  float averaging_constant;
  int32_t quant_min, quant_max;
  bool symmetric;
  double eps;  // the smallest scale
  float low, high;
  float* y;       // or nullptr: observe only
  uint8_t* mask;  // or nullptr
};

// Whether the extremes of `x` are finite; where they are not the range does not move. Parameters of a range
// that never saw anything are left as they are.
bool fake_quantize_observed(const ObservedCall& call, int threads);

// The first row that holds NaN or infinity, or -1.
int64_t fake_quantize_weight(const FakeQuantizeWeightArgs& call, int threads);

void fake_quantize_rows(const FakeQuantizeRowsArgs& call, int threads);
void apply_mask(const ApplyMaskArgs& call, int threads);

// (rows, cols), each row with its own parameters and sums.
struct LearnedGradientsCall {
  const float* grad;
  const float* x;
  int64_t rows, cols;
  const float* scale;       // (rows)
  const float* zero_point;  // (rows)
  float quant_min, quant_max, low, high;
  float* grad_x;
  float* grad_scale;       // (rows)
  float* grad_zero_point;  // (rows)
};

void learned_gradients(const LearnedGradientsCall& call, int threads);

}  // namespace intaglio
