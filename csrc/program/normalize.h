// Threaded drivers of normalization and softmax (docs/numerics.md, "Static quantization").
#pragma once

#include "../kernels/kernels.h"

namespace intaglio {

// `count` values normalized together must be at most 2^23, or std::invalid_argument is thrown.
void normalize_rows(const NormalizeRowsArgs& call, int threads);

// Images (batch, pixels, channels), each group of channels / groups normalized over all pixels.
struct NormalizeGroupsCall {
  const uint8_t* x;
  int64_t batch, pixels, channels, groups;
  double epsilon;
  const float* multiplier;  // (channels)
  const float* offset;      // (channels)
  OutputRange range;
  uint8_t* y;
  int threads;
};

void normalize_groups(const NormalizeGroupsCall& call);

void softmax_rows(const SoftmaxRowsArgs& call, int threads);

}  // namespace intaglio
