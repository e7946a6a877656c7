// Threaded driver of products of two quantized matrices (docs/numerics.md, "Static quantization").
#pragma once

#include <vector>

#include "../kernels/kernels.h"

namespace intaglio {

// For each index of the batch: c (m, n) = a (m, k) @ b (k, n). Strides are in bytes; those of `batch` have
// one value for each of its axes, 0 where an operand is the same for all.
struct MatmulCall {
  const uint8_t* a;
  const uint8_t* b;
  std::vector<int64_t> batch, a_batch_strides, b_batch_strides;
  int64_t m, k, n;
  int64_t a_stride;            // between rows, whose values are neighbours
  int64_t k_stride, n_stride;  // of b; one of them is 1
  double scale_a, scale_b, scale;
  int32_t zero_point_a, zero_point_b;
  OutputRange range;
  uint8_t* c;  // (*batch, m, n)
  int threads;
};

// std::invalid_argument where a sum could exceed int32.
void matmul_static(const MatmulCall& call);

}  // namespace intaglio
