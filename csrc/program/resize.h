// Threaded driver of interpolation over u8 images of up to three axes (docs/numerics.md, "Static
// quantization").
#pragma once

#include <array>

#include "../kernels/kernels.h"

namespace intaglio {

// Along one axis: the source positions `first` and `second` of each output, and the weight of the second.
struct ResizeAxis {
  int64_t size, out;
  const int64_t* first;   // (out), each below size
  const int64_t* second;  // (out)
  const float* weight;    // (out)
};

struct ResizeCall {
  const uint8_t* x;  // (batch, *size, channels)
  int64_t batch, channels;
  std::array<ResizeAxis, 3> axes;
  bool blend;  // or else each output is a copy of `first`
  OutputRange range;
  uint8_t* y;  // (batch, *out, channels)
  int threads;
};

void resize(const ResizeCall& call);

}  // namespace intaglio
