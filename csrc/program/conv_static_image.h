// Copies of the images of a static convolution with a border around them.
#pragma once

#include "conv_image.h"
#include "conv_static.h"

namespace intaglio {

// Copies `samples` samples from `first` on: the border holds the zero point, or pixels as the padding mode
// says.
void copy_bordered(const ConvStaticCall& call, const ConvSpec& spec, const ConvGeometry& geometry,
                   int64_t first, int64_t samples, int threads, uint8_t* image);

}  // namespace intaglio
