// Contracts of the kernels of quantization-aware training: float32 in, float32 out, on the quantized grid;
// see also the top of kernels.h.
//
// The arithmetic is intaglio/ops/reference_fake_quantize.py, operation for operation: nothing is contracted,
// NaN stays NaN and passes gradients. Masks hold a bit for each value in memory order, value i at bit i % 8
// of byte i / 8; the bits beyond the last value are 0.
#pragma once

#include <cstddef>
#include <cstdint>

namespace intaglio {

// `low` and `high` limit the values before they are rounded: those of an activation, or -inf and inf.
struct FakeQuantization {
  float scale;
  float zero_point;
  float quant_min, quant_max;
  float low, high;
};

// y[i] = (clamp(round(clamp(x[i], low, high) * (1 / scale)) + zero_point, quant_min, quant_max) - zero_point)
// * scale; the mask is set where neither clamp moves a value and x[i] is neither `low` nor `high`.
struct FakeQuantizeValuesArgs {
  const float* x;
  int64_t count;
  FakeQuantization quantization;
  float* y;       // (count)
  uint8_t* mask;  // (ceil(count / 8))
};

// The smallest and the largest of `count` values; both NaN if any value is, inf and -inf of no values.
struct FindExtremesArgs {
  const float* x;
  int64_t count;
  float* least;
  float* largest;
};

// Each row on its own symmetric grid, found from its extremes, which are written as well:
// scale[r] = max(|least|, |largest|, 2^-118) / most, y = round(w * (1 / scale[r])) * scale[r].
struct FakeQuantizeWeightArgs {
  const float* w;  // (rows, cols)
  int64_t rows, cols;
  int32_t most;      // 1 .. 255: no rounded value can leave -most .. most, nor an inverse float32
  float* min_val;    // (rows); of an empty row 0, and NaN of one that holds NaN
  float* max_val;    // (rows), likewise
  float* scale;      // (rows)
  float* y;          // (rows, cols); any value in a row that is not finite
  int64_t* bad_row;  // the first row that holds NaN or infinity, or -1
};

// As fake_quantize_values without limits, with the parameters of each row.
struct FakeQuantizeRowsArgs {
  const float* w;  // (rows, cols)
  int64_t rows, cols;
  const float* scale;         // (rows)
  const int32_t* zero_point;  // (rows)
  float quant_min, quant_max;
  float* y;       // (rows, cols)
  uint8_t* mask;  // (ceil(rows * cols / 8))
};

// grad_x[i] = the mask's bit ? grad[i] : 0.
struct ApplyMaskArgs {
  const float* grad;
  const uint8_t* mask;
  int64_t count;
  float* grad_x;  // may be `grad`
};

// The gradients of x, of the scale and of the zero point (`learned_gradients` of the reference), the last two
// summed. The order of the sums is fixed: in blocks of kSumBlock values, value i of a block is added to lane
// i % kSumLanes in float32; a block's lanes, and then the blocks, are added in their order in float64. That
// of the zero point sums the gradients of clipped integers, and is multiplied by -scale at the end.
constexpr int kSumLanes = 16;
constexpr int64_t kSumBlock = 1024;
struct LearnedGradientsArgs {
  const float* grad;
  const float* x;
  int64_t count;
  FakeQuantization quantization;
  float* grad_x;  // (count)
  double* sums;   // (2): of the scale, of the zero point
};

}  // namespace intaglio
