// Threaded drivers between float32 tensors and u8 images (docs/numerics.md, section 2).
//
// A u8 image has its channels innermost; a float one has them innermost or in planes.
#pragma once

#include "../kernels/kernels.h"

namespace intaglio {

struct ImageSize {
  int64_t batch, channels, pixels;
};

// What is not in planes is one run of batch * channels * pixels values in the order of the other side.
void quantize_image(const float* x, const ImageSize& size, bool planes, float scale, const OutputRange& range,
                    uint8_t* q, int threads);
void dequantize_image(const uint8_t* q, const ImageSize& size, bool planes, float scale, int32_t zero_point,
                      float* x, int threads);

}  // namespace intaglio
