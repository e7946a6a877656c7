// What a convolution is made of, worked out from its hyperparameters alone, and its packed weight.
//
// Every convolution is three-dimensional here (depth, height, width), and every one is a set of pieces:
// ordinary ones have a single piece; a transposed one has a piece for each residue of the output position
// modulo the stride, in each axis. A piece is a plain dense convolution (the sub-pixel, or gather, form:
// each output sums the inputs that reach it; nothing is multiplied by inserted zeros), so both kinds run
// on the same code. In a transposed convolution the outputs of a piece are `stride` apart.
#pragma once

#include <array>
#include <vector>

#include "../kernels/kernels.h"

namespace intaglio {

enum class PaddingMode : int64_t { kZeros = 0, kReflect = 1, kReplicate = 2, kCircular = 3 };

constexpr int kAxes = 3;
using Extent = std::array<int64_t, kAxes>;

struct ConvSpec {
  int64_t out_channels, in_channels, groups;
  Extent kernel, stride, dilation;
  Extent padding;  // before the first pixel; of a transposed convolution, what it cuts off
  bool transposed;
  PaddingMode padding_mode;
};

// One residue of one axis: taps first_tap, first_tap + tap_step ..., which read the inputs at
// first_offset, first_offset + offset_step ... (offset_step > 0) relative to an output's own position.
struct Phase {
  int64_t taps, first_tap, tap_step, first_offset, offset_step;
};

std::vector<Phase> phases_of(const ConvSpec& spec, int axis);

// The phases of all axes, and of each piece: width changes fastest.
struct Phases {
  std::array<std::vector<Phase>, kAxes> axis;
  explicit Phases(const ConvSpec& spec) {
    for (int a = 0; a < kAxes; ++a) axis[static_cast<size_t>(a)] = phases_of(spec, a);
  }
  int64_t pieces() const { return static_cast<int64_t>(axis[0].size() * axis[1].size() * axis[2].size()); }
  // The residue of each axis in a piece.
  Extent residues(int64_t piece) const {
    const auto height = static_cast<int64_t>(axis[1].size()), width = static_cast<int64_t>(axis[2].size());
    return {piece / (height * width), piece / width % height, piece % width};
  }
  std::array<Phase, kAxes> of(int64_t piece) const {
    const Extent r = residues(piece);
    return {axis[0][static_cast<size_t>(r[0])], axis[1][static_cast<size_t>(r[1])],
            axis[2][static_cast<size_t>(r[2])]};
  }
};

inline int64_t volume(const Extent& e) { return e[0] * e[1] * e[2]; }

// How the channels are cut into blocks, each with an image and packed weights of its own.
//
// A depthwise block is one vector of channels for conv_depthwise. Otherwise a block is `merged` groups
// side by side in one GEMM, zeros between them, so that narrow groups fill a vector.
struct ConvBlocks {
  bool depthwise;
  int64_t merged;
  int64_t count;          // blocks
  int64_t block_inputs;   // channels of a block's image
  int64_t block_outputs;  // outputs of a block, fewer in the last one of a depthwise convolution
  int64_t repeat;         // outputs that share an input channel (depthwise)
};

ConvBlocks blocks_of(const ConvSpec& spec, const KernelTable& kernels);
// How many groups stand side by side in one GEMM.
int64_t merged_groups(const ConvSpec& spec, const KernelTable& kernels);

// The start of a packed weight; `pieces` tables of pack_gemm follow where `offset` says.
struct ConvHeader {
  int32_t magic, isa;
  ConvSpec spec;
  ConvBlocks blocks;
  int64_t pieces;
};
constexpr int32_t kConvMagic = 0x766e6f63;

// A view of a packed weight: std::invalid_argument if it is none, or one of another instruction set.
class PackedConv {
 public:
  explicit PackedConv(const uint8_t* packed);
  const ConvSpec& spec() const { return header_.spec; }
  const ConvBlocks& blocks() const { return header_.blocks; }
  // The pack_gemm table of a piece; a depthwise convolution has one for all of its blocks.
  const uint8_t* weight(int64_t piece, int64_t block) const;

 private:
  const uint8_t* packed_;
  ConvHeader header_;
};

// `weight` is (out_channels, in_channels / groups, kernel...) int8, transposed convolutions too;
// `scale` and `bias` (or nullptr) are (out_channels).
int64_t packed_conv_bytes(const ConvSpec& spec);
void pack_conv(const ConvSpec& spec, const int8_t* weight, const float* scale, const float* bias,
               uint8_t* packed);
void unpack_conv(const uint8_t* packed, int8_t* weight, float* scale, float* bias);
// The instruction set and hyperparameters of a packed weight of any instruction set.
ConvHeader conv_header(const uint8_t* packed);

}  // namespace intaglio
