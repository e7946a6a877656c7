// Depthwise convolutions from u8 to u8: which rows and channels each thread computes, and where rows lie.
#include <algorithm>

#include "conv_static_form.h"
#include "parallel.h"

namespace intaglio {
namespace {

// Input rows of a strip, which stay in L2 while the blocks of channels pass over them.
constexpr int64_t kStripBytes = 384 * 1024;
constexpr int64_t kFewestStripRows = 4;
constexpr int64_t kFewestRowShare = 6;  // of a thread

// One piece: its outputs, and how its taps lie.
struct DepthwisePiece {
  DepthwisePiece(const PackedStaticConv& packed, const ConvGeometry& g, int64_t piece) : index(piece) {
    const Phases phases(packed.spec());
    phase = phases.of(index);
    residue = phases.residues(index);
    for (size_t a = 0; a < kAxes; ++a) count[a] = g.count(static_cast<int>(a), residue[a]);
    planes = std::max<int64_t>(phase[0].taps, 1);
    row_step = g.input_step[1];
    for (int64_t y = 0; y < phase[1].taps; ++y)
      for (int64_t z = 0; z < phase[0].taps; ++z) row_offset.push_back(y * phase[1].offset_step * planes + z);
  }
  int64_t rows() const { return count[1]; }
  // Rows of the source that `rows` rows of outputs look at, plane by plane of the taps.
  int64_t source_rows(int64_t rows) const {
    const int64_t reach = phase[1].taps == 0 ? 0 : (phase[1].taps - 1) * phase[1].offset_step;
    return ((rows - 1) * row_step + reach + 1) * planes;
  }

  int64_t index, planes, row_step;
  std::array<Phase, kAxes> phase;
  Extent residue, count;
  std::vector<int64_t> row_offset;
};

class StaticDepthwise : public StaticConvForm {
 public:
  explicit StaticDepthwise(const StaticConvShape& shape);
  int64_t scratch_bytes(int threads) const override;
  void run(const StaticOperands& operands, uint8_t* scratch, int threads) const override;

 private:
  // How many rows of a piece make a strip.
  int64_t strip_rows(const DepthwisePiece& piece, int threads) const;
  int64_t table_bytes(const DepthwisePiece& piece, int64_t rows) const {
    return aligned_size(piece.source_rows(rows) * 8);
  }
  int64_t workspace_bytes(const DepthwisePiece& piece, int64_t rows) const {
    return table_bytes(piece, rows) + aligned_size(kernels_.depthwise_scratch_bytes(plan(piece, rows)));
  }
  bool copies() const { return packed_.spec().padding_mode != PaddingMode::kZeros; }
  int64_t image_bytes() const { return copies() ? aligned_size(shape_.batch * g_.sample_bytes) : 0; }
  DepthwiseStaticArgs plan(const DepthwisePiece& piece, int64_t rows) const;
  const uint8_t* source_row(const DepthwisePiece& piece, const uint8_t* image, int64_t sample, int64_t z,
                            int64_t y) const;
  void run_piece(const DepthwisePiece& piece, const StaticOperands& operands, const uint8_t* image,
                 uint8_t* memory, int threads) const;
  void run_strip(const DepthwisePiece& piece, const StaticOperands& operands, const uint8_t* image,
                 int64_t plane, Share rows, int64_t block, const uint8_t** source, void* scratch) const;

  Extent low_, size_;  // of the source: its border before the first pixel, and pixels that exist, borders too
  std::vector<DepthwisePiece> pieces_;
};

StaticDepthwise::StaticDepthwise(const StaticConvShape& shape) : StaticConvForm(shape) {
  low_ = copies() ? g_.low : Extent{0, 0, 0};
  size_ = copies() ? g_.bordered : shape.input;
  for (int64_t p = 0; p < packed_.pieces(); ++p) {
    DepthwisePiece piece(packed_, g_, p);
    if (volume(piece.count) > 0) pieces_.push_back(std::move(piece));
  }
}

// What does not depend on the rows and channels of a call.
DepthwiseStaticArgs StaticDepthwise::plan(const DepthwisePiece& piece, int64_t rows) const {
  DepthwiseStaticArgs args{};
  args.shape = depthwise_shape(piece.phase, packed_.blocks().outputs, g_.input_step[2]);
  args.row_offset = piece.row_offset.data();
  args.row_step = g_.input_step[1] * piece.planes;
  args.pixel_bytes = g_.pixel_bytes;
  args.repeat = packed_.spec().out_channels / packed_.spec().groups;
  // The first tap of the first output stands at pixel -low of the source.
  const int64_t first = low_[2] + piece.phase[2].first_offset;
  args.low = std::max<int64_t>(-first, 0);
  args.width = std::max<int64_t>(size_[2] - std::max<int64_t>(first, 0), 0);
  args.zero_point = shape_.zero_point;
  args.rows = rows;
  args.columns = piece.count[2];
  const int64_t outputs = packed_.spec().out_channels;
  args.y_row_bytes = g_.output_step[1] * g_.output[2] * outputs;
  args.y_pixel_bytes = g_.output_step[2] * outputs;
  return args;
}

// The row of the source at input position z, y, moved to the first tap of the first output; nullptr beyond.
const uint8_t* StaticDepthwise::source_row(const DepthwisePiece& piece, const uint8_t* image, int64_t sample,
                                           int64_t z, int64_t y) const {
  z += low_[0];
  y += low_[1];
  if (z < 0 || z >= size_[0] || y < 0 || y >= size_[1]) return nullptr;
  const int64_t row = (sample * size_[0] + z) * size_[1] + y;
  const int64_t first = std::max<int64_t>(low_[2] + piece.phase[2].first_offset, 0);
  return image + (row * size_[2] + std::min(first, size_[2])) * g_.pixel_bytes;
}

// Rows `rows` of plane `plane` (of all samples) and one block of channels.
void StaticDepthwise::run_strip(const DepthwisePiece& piece, const StaticOperands& operands,
                                const uint8_t* image, int64_t plane, Share rows, int64_t block,
                                const uint8_t** source, void* scratch) const {
  const int64_t outputs = packed_.spec().out_channels, channel = block * packed_.blocks().outputs;
  DepthwiseStaticArgs args = plan(piece, rows.end - rows.begin);
  args.shape.channels = std::min(outputs - channel, packed_.blocks().outputs);
  args.packed = packed_.weight(piece.index, block);
  args.first = channel % args.repeat;
  const int64_t sample = plane / piece.count[0], out_z = plane % piece.count[0];
  const int64_t z = out_z * g_.input_step[0] + piece.phase[0].first_offset;
  const int64_t y = rows.begin * g_.input_step[1] + piece.phase[1].first_offset;
  const int64_t count = piece.source_rows(args.rows);
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t* row = source_row(piece, image, sample, z + i % piece.planes * piece.phase[0].offset_step,
                                    y + i / piece.planes);
    source[i] = row == nullptr ? nullptr : row + channel / args.repeat;
  }
  args.source = source;
  const int64_t to_z = out_z * g_.output_step[0] + piece.residue[0];
  const int64_t to_y = rows.begin * g_.output_step[1] + piece.residue[1];
  const int64_t pixel =
      ((sample * g_.output[0] + to_z) * g_.output[1] + to_y) * g_.output[2] + piece.residue[2];
  const int64_t to = pixel * outputs + channel;
  args.requantize = requantize_to(operands);
  args.requantize.multiplier += channel;
  args.requantize.offset += channel;
  if (args.requantize.residual != nullptr) args.requantize.residual += to;
  args.y = operands.y + to;
  args.scratch = scratch;
  kernels_.depthwise_static(args);
}

// Strips that cache and threads like. Threads share rows if there are some for each: they find them where
// they made them, and write no cache lines of each other's. Otherwise they share blocks of channels.
int64_t StaticDepthwise::strip_rows(const DepthwisePiece& piece, int threads) const {
  const int64_t input = g_.input[2] * g_.pixel_bytes * g_.input_step[1];
  const int64_t planes = shape_.batch * piece.count[0];
  const int64_t most = std::max(kFewestStripRows, kStripBytes / std::max<int64_t>(input, 1));
  int64_t strips = (piece.rows() + most - 1) / most;
  if (planes % threads != 0) {
    if (piece.rows() >= kFewestRowShare * threads)
      strips = (strips + threads - 1) / threads * threads;
    else if (planes * packed_.blocks().count < 4 * threads)
      strips = std::max<int64_t>(strips, threads);
  }
  return (piece.rows() + strips - 1) / strips;
}

void StaticDepthwise::run_piece(const DepthwisePiece& piece, const StaticOperands& operands,
                                const uint8_t* image, uint8_t* memory, int threads) const {
  const int64_t blocks = packed_.blocks().count, most = strip_rows(piece, threads);
  const int64_t strips = (piece.rows() + most - 1) / most;
  const int64_t items = shape_.batch * piece.count[0] * strips * blocks;
  const int64_t table = table_bytes(piece, most), bytes = workspace_bytes(piece, most);
  run_parallel(threads, [&](int thread, int count) {
    uint8_t* mine = memory + bytes * thread;
    const Share share = share_of(items, 1, thread, count);
    for (int64_t i = share.begin; i < share.end; ++i) {
      const int64_t strip = i / blocks % strips;
      const Share rows{piece.rows() * strip / strips, piece.rows() * (strip + 1) / strips};
      run_strip(piece, operands, image, i / blocks / strips, rows, i % blocks,
                reinterpret_cast<const uint8_t**>(mine), mine + table);
    }
  });
}

int64_t StaticDepthwise::scratch_bytes(int threads) const {
  int64_t most = 0;
  for (const DepthwisePiece& piece : pieces_)
    most = std::max(most, workspace_bytes(piece, strip_rows(piece, threads)));
  return image_bytes() + most * threads;
}

void StaticDepthwise::run(const StaticOperands& operands, uint8_t* scratch, int threads) const {
  if (copies()) copy_bordered(operands, 0, shape_.batch, threads, scratch);
  const uint8_t* image = copies() ? scratch : operands.x;
  for (const DepthwisePiece& piece : pieces_)
    run_piece(piece, operands, image, scratch + image_bytes(), threads);
}

}  // namespace

std::unique_ptr<const StaticConvForm> make_static_depthwise(const StaticConvShape& shape) {
  return std::make_unique<StaticDepthwise>(shape);
}

}  // namespace intaglio
