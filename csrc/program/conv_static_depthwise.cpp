// Depthwise convolutions from u8 to u8: which rows and channels each thread computes, and where rows lie.
#include "conv_static_depthwise.h"

#include <algorithm>
#include <cstring>

#include "conv_static_image.h"
#include "parallel.h"

namespace intaglio {
namespace {

// Input rows of a strip, which stay in L2 while the blocks of channels pass over them.
constexpr int64_t kStripBytes = 384 * 1024;
constexpr int64_t kFewestStripRows = 4;

// Where the pixels of a call lie: x itself, or its bordered copies.
struct SourceImage {
  const uint8_t* data;
  Extent low, size;  // border before the first pixel, and pixels that exist, borders included
};

// One piece: its outputs, and how its taps lie.
class DepthwisePiece {
 public:
  DepthwisePiece(const ConvStaticCall& call, const PackedStaticConv& packed, const ConvGeometry& geometry,
                 const SourceImage& image, int64_t index)
      : call_(call), packed_(packed), g_(geometry), image_(image), index_(index) {
    const Phases phases(packed.spec());
    phase_ = phases.of(index);
    residue_ = phases.residues(index);
    for (size_t a = 0; a < kAxes; ++a) count_[a] = g_.count(static_cast<int>(a), residue_[a]);
    planes_ = std::max<int64_t>(phase_[0].taps, 1);
    for (int64_t y = 0; y < phase_[1].taps; ++y)
      for (int64_t z = 0; z < phase_[0].taps; ++z)
        row_offset_.push_back(y * phase_[1].offset_step * planes_ + z);
  }

  bool is_empty() const { return volume(count_) == 0; }
  int64_t planes() const { return call_.batch * count_[0]; }
  int64_t rows() const { return count_[1]; }
  // Rows of the source that `rows` rows of outputs look at, plane by plane of the taps.
  int64_t source_rows(int64_t rows) const {
    const int64_t reach = phase_[1].taps == 0 ? 0 : (phase_[1].taps - 1) * phase_[1].offset_step;
    return ((rows - 1) * g_.input_step[1] + reach + 1) * planes_;
  }

  DepthwiseStaticArgs plan(int64_t rows) const;
  // Rows `rows` of plane `plane` (of all samples) and one block of channels.
  void run(int64_t plane, Share rows, int64_t block, const uint8_t** source, void* scratch) const;

 private:
  const uint8_t* source_row(int64_t sample, int64_t z, int64_t y) const;

  const ConvStaticCall& call_;
  const PackedStaticConv& packed_;
  const ConvGeometry& g_;
  const SourceImage& image_;
  int64_t index_, planes_;
  std::array<Phase, kAxes> phase_;
  Extent residue_, count_;
  std::vector<int64_t> row_offset_;
};

// What does not depend on the rows and channels of a call.
DepthwiseStaticArgs DepthwisePiece::plan(int64_t rows) const {
  DepthwiseStaticArgs args{};
  args.shape = depthwise_shape(phase_, packed_.blocks().outputs, g_.input_step[2]);
  args.row_offset = row_offset_.data();
  args.row_step = g_.input_step[1] * planes_;
  args.pixel_bytes = g_.pixel_bytes;
  args.repeat = packed_.spec().out_channels / packed_.spec().groups;
  // The first tap of the first output stands at pixel -low of the source.
  const int64_t first = image_.low[2] + phase_[2].first_offset;
  args.low = std::max<int64_t>(-first, 0);
  args.width = std::max<int64_t>(image_.size[2] - std::max<int64_t>(first, 0), 0);
  args.zero_point = call_.zero_point;
  args.rows = rows;
  args.columns = count_[2];
  const int64_t outputs = packed_.spec().out_channels;
  args.y_row_bytes = g_.output_step[1] * g_.output[2] * outputs;
  args.y_pixel_bytes = g_.output_step[2] * outputs;
  return args;
}

// The row of the source at input position z, y, moved to the first tap of the first output; nullptr beyond.
const uint8_t* DepthwisePiece::source_row(int64_t sample, int64_t z, int64_t y) const {
  z += image_.low[0];
  y += image_.low[1];
  if (z < 0 || z >= image_.size[0] || y < 0 || y >= image_.size[1]) return nullptr;
  const int64_t row = (sample * image_.size[0] + z) * image_.size[1] + y;
  const int64_t first = std::max<int64_t>(image_.low[2] + phase_[2].first_offset, 0);
  return image_.data + (row * image_.size[2] + std::min(first, image_.size[2])) * g_.pixel_bytes;
}

void DepthwisePiece::run(int64_t plane, Share rows, int64_t block, const uint8_t** source,
                         void* scratch) const {
  const int64_t outputs = packed_.spec().out_channels, channel = block * packed_.blocks().outputs;
  DepthwiseStaticArgs args = plan(rows.end - rows.begin);
  args.shape.channels = std::min(outputs - channel, packed_.blocks().outputs);
  args.packed = packed_.weight(index_, block);
  args.first = channel % args.repeat;
  const int64_t sample = plane / count_[0], out_z = plane % count_[0];
  const int64_t z = out_z * g_.input_step[0] + phase_[0].first_offset;
  const int64_t y = rows.begin * g_.input_step[1] + phase_[1].first_offset;
  const int64_t count = source_rows(args.rows);
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t* row = source_row(sample, z + i % planes_ * phase_[0].offset_step, y + i / planes_);
    source[i] = row == nullptr ? nullptr : row + channel / args.repeat;
  }
  args.source = source;
  const int64_t to_z = out_z * g_.output_step[0] + residue_[0];
  const int64_t to_y = rows.begin * g_.output_step[1] + residue_[1];
  const int64_t pixel = ((sample * g_.output[0] + to_z) * g_.output[1] + to_y) * g_.output[2] + residue_[2];
  const int64_t to = pixel * outputs + channel;
  args.requantize = call_.requantize;
  args.requantize.multiplier += channel;
  args.requantize.offset += channel;
  if (args.requantize.residual != nullptr) args.requantize.residual += to;
  args.y = call_.y + to;
  args.scratch = scratch;
  active_kernels().depthwise_static(args);
}

// Strips of rows that thread and cache like: at least as many as there are threads, if blocks are few.
int64_t strip_rows(const DepthwisePiece& piece, const ConvGeometry& g, int64_t items, int threads) {
  const int64_t input = g.input[2] * g.pixel_bytes * g.input_step[1];
  int64_t rows = std::max(kFewestStripRows, kStripBytes / std::max<int64_t>(input, 1));
  if (items < 4 * threads) rows = std::min(rows, (piece.rows() + threads - 1) / threads);
  return std::min(rows, piece.rows());
}

void run_piece(const DepthwisePiece& piece, const PackedStaticConv& packed, const ConvGeometry& g,
               int threads) {
  const int64_t blocks = packed.blocks().count;
  const int64_t most = strip_rows(piece, g, piece.planes() * blocks, threads);
  const int64_t strips = (piece.rows() + most - 1) / most, items = piece.planes() * strips * blocks;
  const int64_t table = aligned_size(piece.source_rows(most) * 8);
  const int64_t bytes = table + aligned_size(active_kernels().depthwise_scratch_bytes(piece.plan(most)));
  Scratch scratch(bytes * threads);
  auto* memory = scratch.take<uint8_t>(bytes * threads);
  run_parallel(threads, [&](int thread, int count) {
    uint8_t* mine = memory + bytes * thread;
    const Share share = share_of(items, 1, thread, count);
    for (int64_t i = share.begin; i < share.end; ++i) {
      const int64_t strip = i / blocks % strips;
      const Share rows{piece.rows() * strip / strips, piece.rows() * (strip + 1) / strips};
      piece.run(i / blocks / strips, rows, i % blocks, reinterpret_cast<const uint8_t**>(mine), mine + table);
    }
  });
}

}  // namespace

void run_static_depthwise(const ConvStaticCall& call, const PackedStaticConv& packed,
                          const ConvGeometry& geometry, int threads) {
  const ConvSpec& spec = packed.spec();
  SourceImage image{call.x, {0, 0, 0}, call.input};
  std::vector<uint8_t> bordered;
  if (spec.padding_mode != PaddingMode::kZeros) {
    bordered.resize(static_cast<size_t>(call.batch * geometry.sample_bytes));
    copy_bordered(call, spec, geometry, 0, call.batch, threads, bordered.data());
    image = {bordered.data(), geometry.low, geometry.bordered};
  }
  for (int64_t p = 0; p < packed.pieces(); ++p) {
    const DepthwisePiece piece(call, packed, geometry, image, p);
    if (!piece.is_empty()) run_piece(piece, packed, geometry, threads);
  }
}

}  // namespace intaglio
