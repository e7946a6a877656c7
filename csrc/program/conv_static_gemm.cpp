// The static convolution with GEMM tiles: its image, and which pixels and channels each thread computes.
#include <algorithm>

#include "conv_static_form.h"
#include "gemm.h"
#include "tile_shares.h"

namespace intaglio {
namespace {

// Images of the samples that are worked on together.
constexpr int64_t kGroupBytes = 1 << 20;
// Input that stays in L2 while all panels pass over it.
constexpr int64_t kBlockBytes = 384 * 1024;
// One piece of the convolution: its outputs, its runs, and how its rows lie.
struct StaticPiece {
  int64_t index;
  Extent residue, count;
  std::vector<int64_t> runs;  // byte offsets from an output's own position
  int64_t run_bytes;
  bool is_even;    // rows are evenly spaced in the image
  bool is_packed;  // and in the output
  int64_t sample_rows() const { return volume(count); }
};

StaticPiece piece_of(int64_t index, const ConvGeometry& g, const PackedStaticConv& packed) {
  const Phases phases(packed.spec());
  const std::array<Phase, kAxes> phase = phases.of(index);
  const TapRuns taps(packed.blocks(), phase);
  StaticPiece piece{index, phases.residues(index), {}, {}, taps.bytes, false, false};
  for (size_t a = 0; a < kAxes; ++a) piece.count[a] = g.count(static_cast<int>(a), piece.residue[a]);
  for (int64_t z = 0; z < taps.depth; ++z)
    for (int64_t y = 0; y < taps.height; ++y)
      for (int64_t x = 0; x < taps.width; ++x)
        piece.runs.push_back((phase[0].first_offset + z * phase[0].offset_step) * g.plane_bytes +
                             (phase[1].first_offset + y * phase[1].offset_step) * g.row_bytes +
                             (phase[2].first_offset + x * phase[2].offset_step) * g.pixel_bytes);
  piece.is_packed = g.output_step == Extent{1, 1, 1};
  piece.is_even = g.input_step == Extent{1, 1, 1} && piece.count == g.bordered;
  return piece;
}

struct Workspace {
  int64_t* start;
  int64_t* place;
  uint8_t* gemm;
};

class StaticGemm : public StaticConvForm {
 public:
  explicit StaticGemm(const StaticConvShape& shape) : StaticConvForm(shape), blocks_(packed_.blocks()) {
    const Phases phases(packed_.spec());
    int64_t widest = 4;
    for (int64_t p = 0; p < phases.pieces(); ++p) {
      StaticPiece piece = piece_of(p, g_, packed_);
      if (piece.sample_rows() == 0) continue;
      widest = std::max(widest, checked_layout(packed_.weight(p, 0)).k_padded);
      pieces_.push_back(std::move(piece));
    }
    const PackedLayout layout = checked_layout(packed_.weight(0, 0));
    panels_ = panels_of(layout);
    widths_ = {blocks_.count * panels_, layout.panel, layout.n_padded - (panels_ - 1) * layout.panel};
    // What a block of rows reads: the image below it, or its own widened rows.
    const bool widens = kernels_.gemm_scratch_bytes(64, 64) > kernels_.gemm_scratch_bytes(0, 64);
    const int64_t row_bytes = widens ? 2 * widest : g_.pixel_bytes * volume(g_.input_step);
    most_ = std::max<int64_t>(4, kBlockBytes / row_bytes / kRowGrain) * kRowGrain;
    gemm_bytes_ = kernels_.gemm_scratch_bytes(most_, widest);
    // Runs that end within 4 bytes are read beyond the last pixel of x.
    in_place_ = g_.bordered == g_.input && blocks_.inputs % 4 == 0;
    together_ = in_place_ ? shape.batch : std::clamp<int64_t>(kGroupBytes / g_.sample_bytes, 1, shape.batch);
  }

  bool takes_floats() const override { return !in_place_; }
  int64_t scratch_bytes(int threads) const override { return image_bytes() + workspace_bytes() * threads; }

  void run(const StaticOperands& operands, uint8_t* scratch, int threads) const override {
    for (int64_t first = 0; first < shape_.batch; first += together_) {
      const int64_t samples = std::min(together_, shape_.batch - first);
      if (!in_place_) copy_bordered(operands, first, samples, threads, scratch);
      for (const StaticPiece& piece : pieces_)
        run_piece(piece, operands, first, samples, in_place_ ? operands.x : scratch, scratch + image_bytes(),
                  threads);
    }
  }

 private:
  int64_t image_bytes() const {
    return in_place_ ? 0 : aligned_size(together_ * g_.sample_bytes + g_.slack_bytes);
  }
  int64_t workspace_bytes() const { return 2 * aligned_size(most_ * 8) + aligned_size(gemm_bytes_); }
  void run_piece(const StaticPiece& piece, const StaticOperands& operands, int64_t first, int64_t samples,
                 const uint8_t* image, uint8_t* workspaces, int threads) const;
  void run_block(const StaticPiece& piece, const StaticOperands& operands, int64_t first, Share rows,
                 Share panels, const uint8_t* image, const Workspace& work) const;
  void place_rows(const StaticPiece& piece, int64_t first, Share rows, const Workspace& work) const;

  const StaticBlocks& blocks_;
  std::vector<StaticPiece> pieces_;
  PanelWidths widths_;  // of all blocks
  int64_t panels_, most_, gemm_bytes_;
  bool in_place_;     // x is read where it lies
  int64_t together_;  // samples that are worked on together
};

void StaticGemm::run_piece(const StaticPiece& piece, const StaticOperands& operands, int64_t first,
                           int64_t samples, const uint8_t* image, uint8_t* workspaces, int threads) const {
  const int64_t total = samples * piece.sample_rows();
  run_parallel(threads, [&](int thread, int count) {
    uint8_t* at = workspaces + thread * workspace_bytes();
    auto* start = reinterpret_cast<int64_t*>(at);
    auto* place = reinterpret_cast<int64_t*>(at += aligned_size(most_ * 8));
    const Workspace work{start, place, at + aligned_size(most_ * 8)};
    for_each_tile_share(total, widths_, thread, count, [&](Share rows, Share panels) {
      const int64_t blocks = (rows.end - rows.begin + most_ - 1) / most_;
      for (int64_t b = 0; b < blocks; ++b) {
        const Share block =
            share_of(rows.end - rows.begin, kRowGrain, static_cast<int>(b), static_cast<int>(blocks));
        run_block(piece, operands, first, {rows.begin + block.begin, rows.begin + block.end}, panels, image,
                  work);
      }
    });
  });
}

void StaticGemm::run_block(const StaticPiece& piece, const StaticOperands& operands, int64_t first,
                           Share rows, Share panels, const uint8_t* image, const Workspace& work) const {
  if (rows.begin >= rows.end || panels.begin >= panels.end) return;
  const int64_t outputs = packed_.spec().out_channels;
  const int64_t position = first * volume(g_.output) + rows.begin;
  if (!piece.is_even || !piece.is_packed) place_rows(piece, first, rows, work);
  for (int64_t block = panels.begin / panels_; block * panels_ < panels.end; ++block) {
    const int64_t channel = block * blocks_.outputs;
    const int64_t begin = piece.is_packed ? position * outputs : 0;
    GemmStaticArgs args{};
    args.image = image + block * blocks_.inputs +
                 (piece.is_even ? g_.offset(0, 0, 0) + rows.begin * g_.pixel_bytes : 0);
    args.start = piece.is_even ? nullptr : work.start;
    args.row_bytes = g_.pixel_bytes;
    args.m = rows.end - rows.begin;
    args.run = piece.runs.data();
    args.run_count = static_cast<int64_t>(piece.runs.size());
    args.run_bytes = piece.run_bytes;
    args.zero_point = shape_.zero_point;
    args.packed = packed_.weight(piece.index, block);
    args.panel_begin = std::max<int64_t>(panels.begin - block * panels_, 0);
    args.panel_end = std::min(panels.end - block * panels_, panels_);
    args.requantize = requantize_to(operands);
    args.requantize.multiplier += channel;
    args.requantize.offset += channel;
    if (args.requantize.residual != nullptr) args.requantize.residual += begin + channel;
    args.c = operands.y + begin + channel;
    args.place = piece.is_packed ? nullptr : work.place;
    args.c_stride = outputs;
    args.scratch = work.gemm;
    kernels_.gemm_static(args);
  }
}

// Where the rows begin in the image, and where their outputs stand in y.
void StaticGemm::place_rows(const StaticPiece& piece, int64_t first, Share rows,
                            const Workspace& work) const {
  const Extent& count = piece.count;
  const int64_t outputs = packed_.spec().out_channels;
  int64_t rest = rows.begin;
  int64_t x = rest % count[2], y = (rest /= count[2]) % count[1];
  int64_t z = (rest /= count[1]) % count[0], sample = rest / count[0];
  const int64_t step = g_.input_step[2] * g_.pixel_bytes, place_step = g_.output_step[2] * outputs;
  for (int64_t i = 0, end = rows.end - rows.begin; i < end;) {
    const int64_t stop = std::min(end, i + count[2] - x);
    int64_t start = sample * g_.sample_bytes +
                    g_.offset(z * g_.input_step[0], y * g_.input_step[1], x * g_.input_step[2]);
    const int64_t out_z = z * g_.output_step[0] + piece.residue[0];
    const int64_t out_y = y * g_.output_step[1] + piece.residue[1];
    const int64_t out_x = x * g_.output_step[2] + piece.residue[2];
    int64_t place =
        ((((first + sample) * g_.output[0] + out_z) * g_.output[1] + out_y) * g_.output[2] + out_x) * outputs;
    for (; i < stop; ++i, start += step, place += place_step) {
      work.start[i] = start;
      work.place[i] = place;
    }
    x = 0;
    if (++y < count[1]) continue;
    y = 0;
    if (++z < count[0]) continue;
    z = 0;
    ++sample;
  }
}

}  // namespace

std::unique_ptr<const StaticConvForm> make_static_gemm(const StaticConvShape& shape) {
  return std::make_unique<StaticGemm>(shape);
}

}  // namespace intaglio
