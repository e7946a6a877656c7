// Contracts of the kernels that a Program runs on float32 between its integer products: activations, residual
// sums, normalization and quantization of rows, attention, gathering (docs/numerics.md, "Float operations of
// a Program"). What kernels.h says holds here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace intaglio {

// ---- Rows -----------------------------------------------------------------------------------------

// Functions of one value. `lower` and `upper` are the limits of kClamp; `lower` is the slope of kLeakyRelu.
enum class Function : int32_t {
  kNone = 0,
  kRelu = 1,
  kClamp = 2,
  kGelu = 3,       // x Phi(x)
  kGeluTanh = 4,   // its approximation by tanh
  kQuickGelu = 5,  // x sigmoid(1.702 x)
  kSilu = 6,
  kSigmoid = 7,
  kTanh = 8,
  kHardswish = 9,
  kHardsigmoid = 10,
  kLeakyRelu = 11,
};

enum class Norm : int32_t { kNone = 0, kLayer = 1, kRms = 2 };

// Of each row, in this order, where the pointers say so:
//   v = function(x) + residual -> sum;  v = normalized v -> y;  v -> q, quantized as quantize_rows does
// Each of x, residual, sum and y may be the same rows as another; none may overlap otherwise.
struct FinishRowsArgs {
  const float* x;  // (rows, cols), rows `x_stride` floats apart
  int64_t x_stride;
  int64_t rows, cols;
  Function function;
  float lower, upper;
  const float* residual;  // (rows, cols), or nullptr
  int64_t residual_stride;
  float* sum;  // (rows, cols), or nullptr
  int64_t sum_stride;
  Norm norm;
  const float* weight;  // (cols), or nullptr for ones
  const float* bias;    // (cols), or nullptr for zeros
  float epsilon;
  float* y;  // (rows, cols), or nullptr
  int64_t y_stride;
  uint8_t* q;  // (rows, q_stride), or nullptr; columns cols..q_stride-1 are set to 0
  int64_t q_stride;
  float* scale;         // (rows), with q
  int32_t* zero_point;  // (rows), with q
  float* scratch;       // (cols): a row, where neither sum nor y is stored
};

}  // namespace intaglio
