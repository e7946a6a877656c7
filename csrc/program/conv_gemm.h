// Convolutions as blocks of GEMM over quantized images.
#pragma once

#include "conv_image.h"

namespace intaglio {

// Writes every output of samples first..first+samples-1, whose images and parameters are given.
void run_gemm_conv(const ConvDynamicCall& call, const PackedConv& packed, const ConvGeometry& geometry,
                   int64_t first, int64_t samples, const uint8_t* image, const SampleParams* params,
                   int threads);

}  // namespace intaglio
