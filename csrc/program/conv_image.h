// The geometry of one call, and the quantized images that it works on.
#pragma once

#include "conv.h"
#include "parallel.h"

namespace intaglio {

// Sizes that follow from the spec and the sizes of input and output.
struct ConvGeometry {
  // Of an image whose pixels have `pixel` bytes, in `blocks` blocks.
  ConvGeometry(const ConvSpec& spec, const Extent& input, const Extent& output, int64_t pixel,
               int64_t blocks);

  std::array<std::vector<Phase>, kAxes> phases;
  Extent input, output;
  Extent input_step, output_step;  // 1, or the stride of an ordinary, of a transposed convolution
  Extent low, bordered;            // border before the first pixel; size with both borders
  int64_t pixel_bytes, row_bytes, plane_bytes, block_bytes, sample_bytes;
  // What kernels may read beyond the last sample.
  int64_t slack_bytes;

  // Outputs of a phase: positions phase, phase + output_step ... below `output`.
  int64_t count(int axis, int64_t phase) const;
  // Byte of the image at input position `z, y, x` of a block's first channel; borders have negative ones.
  int64_t offset(int64_t z, int64_t y, int64_t x) const {
    return (z + low[0]) * plane_bytes + (y + low[1]) * row_bytes + (x + low[2]) * pixel_bytes;
  }
};

// std::invalid_argument if an axis is empty, or a border would copy pixels that do not exist.
void check_geometry(const ConvSpec& spec, const ConvGeometry& geometry);

// The pixel of `size` that stands at position i of the padded row, or -1 in the border of zeros; i is at most
// one size outside.
int64_t source_of(int64_t i, int64_t size, PaddingMode mode);

struct SampleParams {
  float scale, inverse_scale;
  int32_t zero_point;
};

// Quantizes `samples` samples from `first` on into `image`, and says with which parameters.
void quantize_samples(const ConvDynamicCall& call, const PackedConv& packed, const ConvGeometry& geometry,
                      int64_t first, int64_t samples, int threads, uint8_t* image, SampleParams* params);

}  // namespace intaglio
