// The dynamic quantized convolution: threaded drivers.
//
// Each sample of a batch is quantized once, with a range of its own, to a bordered u8 image whose channels
// stand side by side; the border holds the sample's zero point (or, in the other padding modes, copies of
// pixels), so padding is exact. GEMM blocks and depthwise strips then read that image.
#pragma once

#include "conv_plan.h"

namespace intaglio {

struct ConvDynamicCall {
  const float* x;  // (batch, C, D, H, W) contiguous, or (batch, D, H, W, C) if x_channels_last
  int64_t batch, channels;
  Extent input;  // D, H, W
  bool x_channels_last;
  const uint8_t* packed;
  Extent output;
  float* y;  // as x: planes or channels last
  bool y_channels_last;
  int threads;
};

// y = conv(x_q, w_q) * scales + bias, x quantized per sample (docs/numerics.md). Any output size is
// computed: beyond the input lies padding. std::invalid_argument if x does not fit the packed weight.
void conv_dynamic(const ConvDynamicCall& call);

}  // namespace intaglio
