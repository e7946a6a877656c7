// Depthwise convolutions from u8 to u8: blocks of channels and strips of rows.
#pragma once

#include "conv_image.h"
#include "conv_static.h"

namespace intaglio {

void run_static_depthwise(const ConvStaticCall& call, const PackedStaticConv& packed,
                          const ConvGeometry& geometry, int threads);

}  // namespace intaglio
