// Threaded drivers of the int8 GEMM: packing, dynamic Linear.
//
// Contract: pointers are valid for the sizes given; a packed buffer is 64-byte aligned and was made for
// the instruction set in use, or std::invalid_argument is thrown.
#pragma once

#include "../kernels/kernels.h"

namespace intaglio {

enum class Granularity : int { kPerTensor = 0, kPerRow = 1 };

// Bytes that pack_weight writes for an (n, k) weight.
int64_t packed_weight_bytes(int64_t n, int64_t k, int panel_vectors);
void pack_weight(const int8_t* weight, const float* scale, const float* bias, int64_t n, int64_t k,
                 int panel_vectors, uint8_t* packed);
void unpack_weight(const uint8_t* packed, int8_t* weight, float* scale, float* bias);

// The header of a packed weight after checking it against the instruction set in use.
PackedLayout checked_layout(const uint8_t* packed);
int64_t panels_of(const PackedLayout& layout);

struct LinearDynamicCall {
  const float* x;  // (m, k), contiguous
  int64_t m, k;
  const uint8_t* packed;
  Granularity granularity;
  Activation activation;
  float lower, upper;
  float* y;  // (m, n), contiguous; with fewer panels, (m, columns of those panels)
  int threads;
  int64_t panel_begin = 0, panel_end = -1;  // the panels to compute; -1: all that follow
};

// y = activation(x_q @ w_q.T * scales + bias), x quantized dynamically (docs/numerics.md, section 4).
void linear_dynamic(const LinearDynamicCall& call);

// Quantizes `rows` rows; with kPerTensor one range serves them all and scale/zero_point have one value.
void quantize_activations(const float* x, int64_t rows, int64_t cols, Granularity granularity, uint8_t* q,
                          int64_t q_stride, float* scale, int32_t* zero_point, int threads);

}  // namespace intaglio
