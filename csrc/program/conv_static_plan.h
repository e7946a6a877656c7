// The packed weight of a static convolution, and the runs of image bytes that its rows are made of.
//
// Images are read with all of their channels side by side (NHWC). A block is `merged` groups side by side in
// one GEMM, zeros between them, so that narrow groups fill a vector; it reads its own channels of each pixel.
#pragma once

#include "conv_plan.h"

namespace intaglio {

struct StaticBlocks {
  bool depthwise;  // blocks are whole calls of depthwise_static, of `outputs` channels but for the last
  int64_t merged;
  int64_t count;            // blocks
  int64_t inputs, outputs;  // channels of a block
};

StaticBlocks static_blocks_of(const ConvSpec& spec, const KernelTable& kernels);

// How the taps of a piece lie in the image: `rows` runs of `taps` neighbouring pixels' channels each, or one
// run a tap where taps are apart or a block does not have all channels. In the packed weight each run is
// rounded up to 4 bytes.
struct TapRuns {
  TapRuns(const StaticBlocks& blocks, const std::array<Phase, kAxes>& phase);
  int64_t count() const { return depth * height * width; }
  int64_t padded_bytes() const { return (bytes + 3) / 4 * 4; }
  int64_t depth, height, width;  // runs along each axis
  int64_t taps;                  // in a run
  int64_t bytes;                 // of a run
};

// The start of a packed weight. For each piece and block the offset of its part follows: a matrix of
// pack_gemm, or a block of pack_depthwise. Depthwise convolutions also keep the plain weight, before those.
struct StaticConvHeader {
  int32_t magic, isa;
  ConvSpec spec;
  StaticBlocks blocks;
  int64_t pieces;
};
constexpr int32_t kStaticConvMagic = 0x76637473;

// A view of a packed weight: std::invalid_argument if it is none, or one of another instruction set.
class PackedStaticConv {
 public:
  explicit PackedStaticConv(const uint8_t* packed);
  const ConvSpec& spec() const { return header_.spec; }
  const StaticBlocks& blocks() const { return header_.blocks; }
  const uint8_t* weight(int64_t piece, int64_t block) const;
  int64_t pieces() const { return header_.pieces; }

 private:
  const uint8_t* packed_;
  StaticConvHeader header_;
};

// `weight` is (out_channels, in_channels / groups, kernel...) int8, transposed convolutions too.
int64_t packed_static_conv_bytes(const ConvSpec& spec);
void pack_static_conv(const ConvSpec& spec, const int8_t* weight, uint8_t* packed);
void unpack_static_conv(const uint8_t* packed, int8_t* weight);
StaticConvHeader static_conv_header(const uint8_t* packed);

// The rows of taps of a depthwise piece, for output rows of one plane: they follow each other height by
// height, in each the taps along the depth.
DepthwiseShape depthwise_shape(const std::array<Phase, kAxes>& phase, int64_t channels, int64_t stride);

// Vectors in a panel of a static GEMM: wide panels where they divide N, no last panel of a single vector.
int static_panel_vectors(int64_t n, const KernelTable& kernels);

}  // namespace intaglio
