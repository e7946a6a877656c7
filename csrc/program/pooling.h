// Threaded driver of pooling over u8 images of up to three axes (docs/numerics.md, "Static quantization").
#pragma once

#include <array>

#include "../kernels/kernels.h"

namespace intaglio {

// The windows along one axis: `kernel` taps `dilation` apart, `stride` from one window to the next, the first
// beginning at -padding; or, where `adaptive`, window i from floor(i * size / out) to ceil((i + 1) * size /
// out).
struct PoolAxis {
  int64_t size, out, kernel, stride, padding, dilation;
  bool adaptive;
};

struct PoolCall {
  const uint8_t* x;  // (batch, *size, channels)
  int64_t batch, channels;
  std::array<PoolAxis, 3> axes;
  bool average;
  bool count_padding;        // averages: what a window counts includes the padding
  int64_t divisor_override;  // averages: what each sum is divided by, or 0
  OutputRange range;         // averages
  uint8_t* y;                // (batch, *out, channels)
  int threads;
};

// std::invalid_argument where a sum could exceed int32.
void pool(const PoolCall& call);

}  // namespace intaglio
