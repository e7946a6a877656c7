// A product and what follows it, block of rows by block of rows: one call for a Linear of a Transformer with
// its activation, residual sum, normalization and the quantization for the next Linear.
//
//   x (float32)  or  q, scale, zero_point   -- the rows
//     [quantize]  [int8 product + bias]  [function]  [+ residual] -> sum  [normalization] -> y  [quantize] ->
//     q
//
// Each step in brackets is there if its fields are. Between the product and the last step a block of rows
// stays in L2. The formulas are in docs/numerics.md, "Float operations of a Program"; neither threads nor the
// way rows are blocked change a bit.
#pragma once

#include "gemm.h"

namespace intaglio {

// Rows of uint8 with the scale and the zero point of each: what quantize_activations writes.
struct QuantizedRows {
  uint8_t* q = nullptr;    // (m, stride)
  int64_t stride = 0;      // bytes from row to row; read by a product: >= k rounded up to 4
  float* scale = nullptr;  // (m), or one value if param_stride == 0
  int32_t* zero_point = nullptr;
  int64_t param_stride = 1;  // 0 or 1
};

// Rows of float32, or none where data == nullptr.
struct FloatRows {
  float* data = nullptr;
  int64_t stride = 0;  // floats from row to row
};

struct RowsCall {
  // ---- The rows: `x`, or with x == nullptr `input`, which a product must follow.
  const float* x = nullptr;  // (m, k), rows x_stride floats apart
  int64_t x_stride = 0;
  QuantizedRows input;
  Granularity granularity = Granularity::kPerRow;  // of the quantization of x
  int64_t m = 0, k = 0;

  // ---- The product: (m, n) of the weight's n columns; without one n is k and nothing is quantized first.
  const uint8_t* packed = nullptr;  // made by pack_weight, or nullptr

  // ---- What follows. residual, sum and y may be the same rows as one another; without a product also as x.
  Function function = Function::kNone;
  float lower = 0.0f, upper = 0.0f;  // parameters of the function
  const float* residual = nullptr;   // (m, n), added after the function
  int64_t residual_stride = 0;
  FloatRows sum;  // where the sum goes before it is normalized, if anywhere
  Norm norm = Norm::kNone;
  const float* weight = nullptr;  // (n), or nullptr for ones
  const float* bias = nullptr;    // (n), or nullptr for zeros
  float epsilon = 0.0f;
  FloatRows y;           // where the result goes as float, if anywhere
  QuantizedRows output;  // where it goes quantized per row, if q is not null

  int threads = 1;
};

void run_rows(const RowsCall& call);

// What follows the product alone, for rows row..row + rows - 1 of a call, whose products (rows, n) stand at
// `x`, on this thread; `scratch` holds n floats. For drivers whose rows come from elsewhere.
void finish_block(const RowsCall& call, int64_t row, int64_t rows, int64_t n, const FloatRows& x,
                  float* scratch);

}  // namespace intaglio
