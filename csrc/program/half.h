// Threaded drivers of the float16-weight GEMM: packing, Linear.
//
// Contract: as in gemm.h. A recurrent layer runs its input projection of all steps as one linear_half and
// then, a step at a time, h @ W_hh on top of it: `addend` is that step's projection, and the chain of fma
// goes on from it.
#pragma once

#include "../kernels/kernels.h"

namespace intaglio {

// Bytes that pack_half_weight writes for an (n, k) weight.
int64_t packed_half_bytes(int64_t n, int64_t k);
void pack_half_weight(const uint16_t* weight, const float* bias, int64_t n, int64_t k, uint8_t* packed);
// Reads what was packed for any instruction set.
void unpack_half_weight(const uint8_t* packed, uint16_t* weight, float* bias);

struct LinearHalfCall {
  const float* x;  // (m, k), contiguous
  int64_t m, k;
  const uint8_t* packed;
  const float* addend;  // (m, n), contiguous, in the bias's place, or nullptr; may be y
  float* y;             // (m, n), contiguous
  int threads;
};

// y = x @ float(w).T + bias, in float32 (docs/numerics.md, "float16 weights").
void linear_half(const LinearHalfCall& call);

}  // namespace intaglio
