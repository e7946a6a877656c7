// Convolution and Linear from u8 to u8 with fixed parameters: threaded drivers.
//
// The image is read where it lies if nothing stands beyond its borders; otherwise it is copied once with a
// border of zero points (or of copied pixels) around it.
#pragma once

#include "conv_static_plan.h"

namespace intaglio {

struct ConvStaticCall {
  const uint8_t* x;  // (batch, D, H, W, channels)
  int64_t batch, channels;
  Extent input;  // D, H, W
  int32_t zero_point;
  const uint8_t* packed;
  Extent output;
  int64_t outputs;        // channels
  Requantize requantize;  // a value for each of them; the residual lies as y
  uint8_t* y;             // (batch, D, H, W, out_channels)
  int threads;
};

// docs/numerics.md, "Static quantization". Any output size is computed: beyond the input lies padding.
// std::invalid_argument if x does not fit the packed weight.
void conv_static(const ConvStaticCall& call);

struct LinearStaticCall {
  const uint8_t* x;  // (m, k)
  int64_t m, k;
  int32_t zero_point;
  const uint8_t* packed;  // of pack_weight
  int64_t n;
  Requantize requantize;  // a value for each column; the residual lies as y
  uint8_t* y;             // (m, n)
  int threads;
};

void linear_static(const LinearStaticCall& call);

}  // namespace intaglio
