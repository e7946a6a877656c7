// Blocks, runs and the packed weight of a static convolution.
#include "conv_static_plan.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "parallel.h"

namespace intaglio {
namespace {

// More outputs than this for each input channel, and a GEMM uses its lanes better.
constexpr int64_t kMostDepthwiseRepeats = 4;

// The matrix that pack_gemm gets for one piece and block, and where each of its values comes from.
class StaticMatrix {
 public:
  StaticMatrix(const ConvSpec& spec, const StaticBlocks& blocks, const std::array<Phase, kAxes>& phase,
               int64_t block)
      : spec_(spec), blocks_(blocks), phase_(phase), block_(block), runs_(blocks, phase) {}
  int64_t n() const { return blocks_.outputs; }
  int64_t k() const { return runs_.count() * runs_.padded_bytes(); }

  // visit(row * k + column of the matrix, index in `weight`) for every value that is not padding.
  template <class Visit>
  void each(const Visit& visit) const {
    const int64_t group_inputs = spec_.in_channels / spec_.groups;
    const int64_t group_outputs = spec_.out_channels / spec_.groups, taps = volume(spec_.kernel);
    for (int64_t row = 0; row < n(); ++row) {
      const int64_t output = block_ * blocks_.outputs + row;
      const int64_t first = row * k() + row / group_outputs * group_inputs;
      for (int64_t z = 0; z < phase_[0].taps; ++z)
        for (int64_t y = 0; y < phase_[1].taps; ++y)
          for (int64_t x = 0; x < phase_[2].taps; ++x) {
            const int64_t run = (z * runs_.height + y) * runs_.width + x / runs_.taps;
            const int64_t column = first + run * runs_.padded_bytes() + x % runs_.taps * blocks_.inputs;
            const int64_t tap =
                (tap_at(0, z) * spec_.kernel[1] + tap_at(1, y)) * spec_.kernel[2] + tap_at(2, x);
            for (int64_t c = 0; c < group_inputs; ++c)
              visit(column + c, (output * group_inputs + c) * taps + tap);
          }
    }
  }

 private:
  int64_t tap_at(size_t axis, int64_t i) const { return phase_[axis].first_tap + i * phase_[axis].tap_step; }
  const ConvSpec& spec_;
  const StaticBlocks& blocks_;
  std::array<Phase, kAxes> phase_;
  int64_t block_;
  TapRuns runs_;
};

int64_t table_bytes(int64_t entries) {
  return aligned_size(static_cast<int64_t>(sizeof(StaticConvHeader)) + entries * 8);
}

// visit(entry, matrix) in the order in which the parts of a packed weight stand.
template <class Visit>
void each_matrix(const ConvSpec& spec, const StaticBlocks& blocks, const Visit& visit) {
  const Phases phases(spec);
  for (int64_t piece = 0; piece < phases.pieces(); ++piece)
    for (int64_t block = 0; block < blocks.count; ++block)
      visit(piece * blocks.count + block, StaticMatrix(spec, blocks, phases.of(piece), block));
}

// The weight (channels, tap_rows, taps) of one piece and block of a depthwise convolution.
struct DepthwiseBlock {
  DepthwiseShape shape;
  std::vector<int8_t> weight;
};

DepthwiseBlock depthwise_block(const ConvSpec& spec, const StaticBlocks& blocks,
                               const std::array<Phase, kAxes>& phase, int64_t block, const int8_t* weight) {
  const int64_t first = block * blocks.outputs,
                channels = std::min(blocks.outputs, spec.out_channels - first);
  const int64_t taps = volume(spec.kernel);
  DepthwiseBlock part{depthwise_shape(phase, channels, spec.transposed ? 1 : spec.stride[2]), {}};
  if (weight == nullptr) return part;
  const auto tap_at = [&phase](size_t axis, int64_t i) {
    return phase[axis].first_tap + i * phase[axis].tap_step;
  };
  for (int64_t c = first; c < first + channels; ++c)
    for (int64_t y = 0; y < phase[1].taps; ++y)
      for (int64_t z = 0; z < phase[0].taps; ++z)
        for (int64_t x = 0; x < phase[2].taps; ++x)
          part.weight.push_back(
              weight[c * taps + (tap_at(0, z) * spec.kernel[1] + tap_at(1, y)) * spec.kernel[2] +
                     tap_at(2, x)]);
  return part;
}

// visit(entry, block) of a depthwise convolution; `weight` may be nullptr.
template <class Visit>
void each_depthwise(const ConvSpec& spec, const StaticBlocks& blocks, const int8_t* weight,
                    const Visit& visit) {
  const Phases phases(spec);
  for (int64_t piece = 0; piece < phases.pieces(); ++piece)
    for (int64_t block = 0; block < blocks.count; ++block)
      visit(piece * blocks.count + block, depthwise_block(spec, blocks, phases.of(piece), block, weight));
}

void pack_static_depthwise(const ConvSpec& spec, const StaticBlocks& blocks, const int8_t* weight,
                           int64_t offset, uint8_t* packed) {
  const int64_t plain = spec.out_channels * volume(spec.kernel);
  std::memcpy(packed + offset, weight, static_cast<size_t>(plain));
  offset += aligned_size(plain);
  each_depthwise(spec, blocks, weight, [&](int64_t entry, const DepthwiseBlock& block) {
    int64_t bytes = 0;
    active_kernels().pack_depthwise({block.shape, block.weight.data(), packed + offset, &bytes});
    std::memcpy(packed + sizeof(StaticConvHeader) + entry * 8, &offset, sizeof offset);
    offset += aligned_size(bytes);
  });
}

}  // namespace

DepthwiseShape depthwise_shape(const std::array<Phase, kAxes>& phase, int64_t channels, int64_t stride) {
  const bool none = volume({phase[0].taps, phase[1].taps, phase[2].taps}) == 0;
  return {channels, none ? 0 : phase[0].taps * phase[1].taps, none ? 0 : phase[2].taps, stride,
          phase[2].offset_step};
}

StaticBlocks static_blocks_of(const ConvSpec& spec, const KernelTable& kernels) {
  if (spec.groups > 1 && spec.in_channels == spec.groups &&
      spec.out_channels / spec.groups <= kMostDepthwiseRepeats) {
    const int64_t width = 4 * kernels.lanes;
    return {true, 1, (spec.out_channels + width - 1) / width, width, width};
  }
  const int64_t merged = merged_groups(spec, kernels);
  return {false, merged, spec.groups / merged, merged * (spec.in_channels / spec.groups),
          merged * (spec.out_channels / spec.groups)};
}

TapRuns::TapRuns(const StaticBlocks& blocks, const std::array<Phase, kAxes>& phase) {
  const bool joined = blocks.count == 1 && phase[2].offset_step == 1 && phase[2].taps > 0;
  depth = phase[0].taps;
  height = phase[1].taps;
  width = joined ? 1 : phase[2].taps;
  taps = joined ? phase[2].taps : 1;
  bytes = taps * blocks.inputs;
}

int static_panel_vectors(int64_t n, const KernelTable& kernels) {
  if (kernels.lanes != 16) return 0;
  const int64_t vectors = (n + kernels.lanes - 1) / kernels.lanes;
  if (vectors <= 4) return static_cast<int>(vectors);
  if (vectors % 4 == 0) return 4;
  return vectors % 3 == 0 || vectors % 4 == 1 ? 3 : 4;
}

PackedStaticConv::PackedStaticConv(const uint8_t* packed)
    : packed_(packed), header_(static_conv_header(packed)) {
  const Isa isa = active_kernels().isa;
  if (header_.isa != static_cast<int32_t>(isa))
    throw std::invalid_argument(std::string("a weight packed for ") +
                                isa_name(static_cast<Isa>(header_.isa)) + " cannot be used by the " +
                                isa_name(isa) + " kernels: pack it again");
}

const uint8_t* PackedStaticConv::weight(int64_t piece, int64_t block) const {
  const int64_t entry = piece * header_.blocks.count + block;
  int64_t offset;
  std::memcpy(&offset, packed_ + sizeof(StaticConvHeader) + entry * 8, sizeof offset);
  return packed_ + offset;
}

int64_t packed_static_conv_bytes(const ConvSpec& spec) {
  const KernelTable& kernels = active_kernels();
  const StaticBlocks blocks = static_blocks_of(spec, kernels);
  int64_t entries = 0, total = 0;
  if (blocks.depthwise) {
    each_depthwise(spec, blocks, nullptr, [&](int64_t, const DepthwiseBlock& block) {
      int64_t bytes = 0;
      kernels.pack_depthwise({block.shape, nullptr, nullptr, &bytes});
      ++entries;
      total += aligned_size(bytes);
    });
    return table_bytes(entries) + aligned_size(spec.out_channels * volume(spec.kernel)) + total;
  }
  each_matrix(spec, blocks, [&](int64_t, const StaticMatrix& matrix) {
    PackedLayout layout;
    int64_t bytes = 0;
    const int vectors = static_panel_vectors(matrix.n(), kernels);
    kernels.pack_gemm({nullptr, nullptr, nullptr, matrix.n(), matrix.k(), vectors, nullptr, &layout, &bytes});
    ++entries;
    total += aligned_size(bytes);
  });
  return table_bytes(entries) + total;
}

void pack_static_conv(const ConvSpec& spec, const int8_t* weight, uint8_t* packed) {
  const KernelTable& kernels = active_kernels();
  const StaticBlocks blocks = static_blocks_of(spec, kernels);
  const int64_t pieces = Phases(spec).pieces(), entries = pieces * blocks.count;
  std::memset(packed, 0, static_cast<size_t>(table_bytes(entries)));
  const StaticConvHeader header{kStaticConvMagic, static_cast<int32_t>(kernels.isa), spec, blocks, pieces};
  std::memcpy(packed, &header, sizeof header);
  int64_t offset = table_bytes(entries);
  if (blocks.depthwise) {
    pack_static_depthwise(spec, blocks, weight, offset, packed);
    return;
  }
  std::vector<int8_t> values;
  each_matrix(spec, blocks, [&](int64_t entry, const StaticMatrix& matrix) {
    values.assign(static_cast<size_t>(matrix.n() * matrix.k()), 0);
    matrix.each([&](int64_t to, int64_t from) { values[static_cast<size_t>(to)] = weight[from]; });
    PackedLayout layout;
    int64_t bytes = 0;
    kernels.pack_gemm({values.data(), nullptr, nullptr, matrix.n(), matrix.k(),
                       static_panel_vectors(matrix.n(), kernels), packed + offset, &layout, &bytes});
    std::memcpy(packed + sizeof(StaticConvHeader) + entry * 8, &offset, sizeof offset);
    offset += aligned_size(bytes);
  });
}

void unpack_static_conv(const uint8_t* packed, int8_t* weight) {
  const StaticConvHeader header = static_conv_header(packed);
  if (header.blocks.depthwise) {
    std::memcpy(weight, packed + table_bytes(header.pieces * header.blocks.count),
                static_cast<size_t>(header.spec.out_channels * volume(header.spec.kernel)));
    return;
  }
  std::vector<int8_t> values;
  std::vector<float> unused(static_cast<size_t>(header.blocks.outputs));
  each_matrix(header.spec, header.blocks, [&](int64_t entry, const StaticMatrix& matrix) {
    values.resize(static_cast<size_t>(matrix.n() * matrix.k()));
    int64_t offset;
    std::memcpy(&offset, packed + sizeof(StaticConvHeader) + entry * 8, sizeof offset);
    active_kernels().unpack_gemm({packed + offset, values.data(), unused.data(), unused.data()});
    matrix.each([&](int64_t to, int64_t from) { weight[from] = values[static_cast<size_t>(to)]; });
  });
}

StaticConvHeader static_conv_header(const uint8_t* packed) {
  StaticConvHeader header;
  std::memcpy(&header, packed, sizeof header);
  if (header.magic != kStaticConvMagic) throw std::invalid_argument("not a packed static convolution");
  return header;
}

}  // namespace intaglio
