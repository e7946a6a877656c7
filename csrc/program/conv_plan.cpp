// Phases, blocks and the packed weight of a convolution.
#include "conv_plan.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "parallel.h"

namespace intaglio {
namespace {

// More outputs than this for each input channel, and a GEMM uses its lanes better.
constexpr int64_t kMostRepeats = 4;
// int32 sums of K products stay exact up to here, so groups are not merged beyond (ops/packing.py).
constexpr int64_t kLargestMergedK = 65'793;

int64_t pad_to_4(int64_t n) { return (n + 3) / 4 * 4; }

// The matrix that pack_gemm gets for one piece and block, and where each of its values comes from.
class PieceMatrix {
 public:
  PieceMatrix(const ConvSpec& spec, const ConvBlocks& blocks, const std::array<Phase, kAxes>& phase,
              int64_t block)
      : spec_(spec), blocks_(blocks), phase_(phase), block_(block) {
    row_taps_ = blocks.depthwise ? pad_to_4(phase[2].taps) : phase[2].taps;
  }
  int64_t n() const { return blocks_.depthwise ? spec_.out_channels : blocks_.block_outputs; }
  int64_t k() const {
    return phase_[0].taps * phase_[1].taps * row_taps_ * (blocks_.depthwise ? 1 : blocks_.block_inputs);
  }
  int64_t first_output() const { return blocks_.depthwise ? 0 : block_ * blocks_.block_outputs; }

  // visit(row * k + column of the matrix, index in `weight`) for every value that is not padding.
  template <class Visit>
  void each(const Visit& visit) const {
    const int64_t group_inputs = spec_.in_channels / spec_.groups;
    const int64_t group_outputs = spec_.out_channels / spec_.groups, taps = volume(spec_.kernel);
    const int64_t pixel = blocks_.depthwise ? 1 : blocks_.block_inputs;
    for (int64_t row = 0; row < n(); ++row) {
      const int64_t output = first_output() + row;
      const int64_t shift = blocks_.depthwise ? 0 : row / group_outputs * group_inputs;
      int64_t column = row * k() + shift;
      for (int64_t z = 0; z < phase_[0].taps; ++z)
        for (int64_t y = 0; y < phase_[1].taps; ++y) {
          for (int64_t x = 0; x < phase_[2].taps; ++x) {
            const int64_t tap =
                (tap_at(0, z) * spec_.kernel[1] + tap_at(1, y)) * spec_.kernel[2] + tap_at(2, x);
            for (int64_t c = 0; c < group_inputs; ++c)
              visit(column + x * pixel + c, (output * group_inputs + c) * taps + tap);
          }
          column += row_taps_ * pixel;
        }
    }
  }

 private:
  int64_t tap_at(size_t axis, int64_t i) const { return phase_[axis].first_tap + i * phase_[axis].tap_step; }
  const ConvSpec& spec_;
  const ConvBlocks& blocks_;
  std::array<Phase, kAxes> phase_;
  int64_t block_, row_taps_;
};

int64_t matrix_bytes(const KernelTable& kernels, const PieceMatrix& matrix, bool depthwise) {
  PackedLayout layout;
  int64_t bytes = 0;
  kernels.pack_gemm(
      {nullptr, nullptr, nullptr, matrix.n(), matrix.k(), depthwise ? 1 : 0, nullptr, &layout, &bytes});
  return aligned_size(bytes);
}

int64_t table_bytes(int64_t entries) {
  return aligned_size(static_cast<int64_t>(sizeof(ConvHeader)) + entries * 8);
}

// visit(piece, block, matrix) in the order in which the parts of a packed weight stand.
template <class Visit>
void each_matrix(const ConvSpec& spec, const ConvBlocks& blocks, const Visit& visit) {
  const Phases phases(spec);
  const int64_t tables = blocks.depthwise ? 1 : blocks.count;
  for (int64_t piece = 0; piece < phases.pieces(); ++piece)
    for (int64_t block = 0; block < tables; ++block)
      visit(piece * tables + block, PieceMatrix(spec, blocks, phases.of(piece), block));
}

}  // namespace

std::vector<Phase> phases_of(const ConvSpec& spec, int axis) {
  const auto a = static_cast<size_t>(axis);
  const int64_t kernel = spec.kernel[a], stride = spec.stride[a], dilation = spec.dilation[a];
  const int64_t padding = spec.padding[a];
  if (!spec.transposed) return {{kernel, 0, 1, -padding, dilation}};
  // Output `residue + stride * t` gets tap k from input `t + (residue + padding - k * dilation) / stride`,
  // where that divides: taps a period apart, the later the tap the earlier the input.
  const int64_t common = std::gcd(stride, dilation), period = stride / common;
  std::vector<Phase> phases;
  for (int64_t residue = 0; residue < stride; ++residue) {
    int64_t last = -1;
    for (int64_t k = 0; k < kernel; ++k)
      if ((residue + padding - k * dilation) % stride == 0) last = k;
    if (last < 0) {
      phases.push_back({0, 0, 1, 0, 1});
    } else {
      phases.push_back({last / period + 1, last, -period, (residue + padding - last * dilation) / stride,
                        dilation / common});
    }
  }
  return phases;
}

int64_t merged_groups(const ConvSpec& spec, const KernelTable& kernels) {
  const int64_t group_inputs = spec.in_channels / spec.groups;
  const int64_t group_outputs = spec.out_channels / spec.groups;
  int64_t merged = 1;
  for (int64_t m = 2; m <= spec.groups && m * group_outputs <= kernels.lanes; ++m)
    if (spec.groups % m == 0 && m * group_inputs * volume(spec.kernel) <= kLargestMergedK) merged = m;
  return merged;
}

ConvBlocks blocks_of(const ConvSpec& spec, const KernelTable& kernels) {
  const int64_t group_inputs = spec.in_channels / spec.groups;
  const int64_t group_outputs = spec.out_channels / spec.groups, lanes = kernels.lanes;
  if (spec.groups > 1 && group_inputs == 1 && group_outputs <= kMostRepeats)
    return {true, 1, (spec.out_channels + lanes - 1) / lanes, lanes, lanes, group_outputs};
  const int64_t merged = merged_groups(spec, kernels);
  return {false, merged, spec.groups / merged, merged * group_inputs, merged * group_outputs, 1};
}

PackedConv::PackedConv(const uint8_t* packed) : packed_(packed), header_(conv_header(packed)) {
  const Isa isa = active_kernels().isa;
  if (header_.isa != static_cast<int32_t>(isa))
    throw std::invalid_argument(std::string("a weight packed for ") +
                                isa_name(static_cast<Isa>(header_.isa)) + " cannot be used by the " +
                                isa_name(isa) + " kernels: pack it again");
}

const uint8_t* PackedConv::weight(int64_t piece, int64_t block) const {
  const int64_t entry = header_.blocks.depthwise ? piece : piece * header_.blocks.count + block;
  int64_t offset;
  std::memcpy(&offset, packed_ + sizeof(ConvHeader) + entry * 8, sizeof offset);
  return packed_ + offset;
}

int64_t packed_conv_bytes(const ConvSpec& spec) {
  const KernelTable& kernels = active_kernels();
  const ConvBlocks blocks = blocks_of(spec, kernels);
  int64_t entries = 0, bytes = 0;
  each_matrix(spec, blocks, [&](int64_t, const PieceMatrix& matrix) {
    ++entries;
    bytes += matrix_bytes(kernels, matrix, blocks.depthwise);
  });
  return table_bytes(entries) + bytes;
}

void pack_conv(const ConvSpec& spec, const int8_t* weight, const float* scale, const float* bias,
               uint8_t* packed) {
  const KernelTable& kernels = active_kernels();
  const ConvBlocks blocks = blocks_of(spec, kernels);
  const int64_t pieces = Phases(spec).pieces(), entries = pieces * (blocks.depthwise ? 1 : blocks.count);
  std::memset(packed, 0, static_cast<size_t>(table_bytes(entries)));
  const ConvHeader header{kConvMagic, static_cast<int32_t>(kernels.isa), spec, blocks, pieces};
  std::memcpy(packed, &header, sizeof header);
  int64_t offset = table_bytes(entries);
  std::vector<int8_t> values;
  each_matrix(spec, blocks, [&](int64_t entry, const PieceMatrix& matrix) {
    values.assign(static_cast<size_t>(matrix.n() * matrix.k()), 0);
    matrix.each([&](int64_t to, int64_t from) { values[static_cast<size_t>(to)] = weight[from]; });
    PackedLayout layout;
    int64_t bytes = 0;
    const int64_t first = matrix.first_output();
    kernels.pack_gemm({values.data(), scale + first, bias == nullptr ? nullptr : bias + first, matrix.n(),
                       matrix.k(), blocks.depthwise ? 1 : 0, packed + offset, &layout, &bytes});
    std::memcpy(packed + sizeof(ConvHeader) + entry * 8, &offset, sizeof offset);
    offset += aligned_size(bytes);
  });
}

void unpack_conv(const uint8_t* packed, int8_t* weight, float* scale, float* bias) {
  const ConvHeader header = conv_header(packed);
  std::vector<int8_t> values;
  each_matrix(header.spec, header.blocks, [&](int64_t entry, const PieceMatrix& matrix) {
    values.resize(static_cast<size_t>(matrix.n() * matrix.k()));
    int64_t offset;
    std::memcpy(&offset, packed + sizeof(ConvHeader) + entry * 8, sizeof offset);
    const int64_t first = matrix.first_output();
    active_kernels().unpack_gemm({packed + offset, values.data(), scale + first, bias + first});
    matrix.each([&](int64_t to, int64_t from) { weight[from] = values[static_cast<size_t>(to)]; });
  });
}

ConvHeader conv_header(const uint8_t* packed) {
  ConvHeader header;
  std::memcpy(&header, packed, sizeof header);
  if (header.magic != kConvMagic) throw std::invalid_argument("not a packed convolution");
  return header;
}

}  // namespace intaglio
