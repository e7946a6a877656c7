// 3 x 3 convolutions from u8 to u8 in Winograd's form: blocks of tiles, panels of channels.
#pragma once

#include "conv_image.h"
#include "conv_static.h"

namespace intaglio {

// Whether the weight is packed for it, and the image is large enough for it to be faster.
bool prefers_winograd(const ConvStaticCall& call, const PackedStaticConv& packed);

void run_static_winograd(const ConvStaticCall& call, const PackedStaticConv& packed,
                         const ConvGeometry& geometry, int threads);

}  // namespace intaglio
