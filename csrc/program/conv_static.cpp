// The static convolution: its image, and which pixels and channels each thread computes.
#include "conv_static.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "conv_static_depthwise.h"
#include "conv_static_image.h"
#include "conv_static_winograd.h"
#include "gemm.h"

namespace intaglio {
namespace {

// Images of the samples that are worked on together.
constexpr int64_t kGroupBytes = 1 << 20;
// Input that stays in L2 while all panels pass over it.
constexpr int64_t kBlockBytes = 384 * 1024;
// Below this many multiply-adds a second thread costs more than it brings.
constexpr int64_t kSmallestParallelWork = 1'500'000;
// A thread's own pixels must be enough to repay reading all of the weights.
constexpr int64_t kSmallestRowShare = 48;
constexpr int64_t kRowGrain = 24;  // a multiple of the tiles' heights

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

// All pieces of some samples.
class StaticConv {
 public:
  StaticConv(const ConvStaticCall& call, const PackedStaticConv& packed, const ConvGeometry& geometry)
      : call_(call), packed_(packed), blocks_(packed.blocks()), g_(geometry) {
    const Phases phases(packed.spec());
    int64_t widest = 4;
    for (int64_t p = 0; p < phases.pieces(); ++p) {
      StaticPiece piece = piece_of(p, g_, packed_);
      if (piece.sample_rows() == 0) continue;
      widest = std::max(widest, checked_layout(packed.weight(p, 0)).k_padded);
      pieces_.push_back(std::move(piece));
    }
    panel_ = checked_layout(packed.weight(0, 0)).panel;
    panels_ = (blocks_.outputs + panel_ - 1) / panel_;
    // What a block of rows reads: the image below it, or its own widened rows.
    const KernelTable& kernels = active_kernels();
    const bool widens = kernels.gemm_scratch_bytes(64, 64) > kernels.gemm_scratch_bytes(0, 64);
    const int64_t row_bytes = widens ? 2 * widest : g_.pixel_bytes * volume(g_.input_step);
    most_ = std::max<int64_t>(4, kBlockBytes / row_bytes / kRowGrain) * kRowGrain;
    gemm_bytes_ = kernels.gemm_scratch_bytes(most_, widest);
  }

  int64_t workspace_bytes() const { return 2 * aligned_size(most_ * 8) + aligned_size(gemm_bytes_); }

  void run(int64_t first, int64_t samples, const uint8_t* image, uint8_t* workspaces, int threads) const {
    for (const StaticPiece& piece : pieces_) {
      const int64_t total = samples * piece.sample_rows();
      const bool by_rows = threads == 1 || total >= kSmallestRowShare * threads;
      const int64_t items = blocks_.count * panels_;
      run_parallel(threads, [&](int thread, int count) {
        uint8_t* at = workspaces + thread * workspace_bytes();
        auto* start = reinterpret_cast<int64_t*>(at);
        auto* place = reinterpret_cast<int64_t*>(at += aligned_size(most_ * 8));
        const Workspace work{start, place, at + aligned_size(most_ * 8)};
        const Share rows = by_rows ? share_of(total, kRowGrain, thread, count) : Share{0, total};
        const Share panels = by_rows ? Share{0, items} : share_of(items, 1, thread, count);
        const int64_t blocks = (rows.end - rows.begin + most_ - 1) / most_;
        for (int64_t b = 0; b < blocks; ++b) {
          const Share block =
              share_of(rows.end - rows.begin, kRowGrain, static_cast<int>(b), static_cast<int>(blocks));
          run_block(piece, first, {rows.begin + block.begin, rows.begin + block.end}, panels, image, work);
        }
      });
    }
  }

 private:
  void run_block(const StaticPiece& piece, int64_t first, Share rows, Share panels, const uint8_t* image,
                 const Workspace& work) const;
  void place_rows(const StaticPiece& piece, int64_t first, Share rows, const Workspace& work) const;

  const ConvStaticCall& call_;
  const PackedStaticConv& packed_;
  const StaticBlocks& blocks_;
  const ConvGeometry& g_;
  std::vector<StaticPiece> pieces_;
  int64_t panel_, panels_, most_, gemm_bytes_;
};

void StaticConv::run_block(const StaticPiece& piece, int64_t first, Share rows, Share panels,
                           const uint8_t* image, const Workspace& work) const {
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
    args.zero_point = call_.zero_point;
    args.packed = packed_.weight(piece.index, block);
    args.panel_begin = std::max<int64_t>(panels.begin - block * panels_, 0);
    args.panel_end = std::min(panels.end - block * panels_, panels_);
    args.requantize = call_.requantize;
    args.requantize.multiplier += channel;
    args.requantize.offset += channel;
    if (args.requantize.residual != nullptr) args.requantize.residual += begin + channel;
    args.c = call_.y + begin + channel;
    args.place = piece.is_packed ? nullptr : work.place;
    args.c_stride = outputs;
    args.scratch = work.gemm;
    active_kernels().gemm_static(args);
  }
}

// Where the rows begin in the image, and where their outputs stand in y.
void StaticConv::place_rows(const StaticPiece& piece, int64_t first, Share rows,
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

void conv_static(const ConvStaticCall& call) {
  const PackedStaticConv packed(call.packed);
  if (call.batch <= 0) return;
  const ConvSpec& spec = packed.spec();
  if (call.channels != spec.in_channels)
    throw std::invalid_argument("the packed convolution has another number of input channels");
  if (call.outputs != spec.out_channels)
    throw std::invalid_argument("the requantization has another number of output channels");
  const ConvGeometry geometry(spec, call.input, call.output, spec.in_channels, 1);
  check_geometry(spec, geometry);
  const int64_t work = call.batch * volume(spec.transposed ? call.input : call.output) * spec.out_channels *
                       (spec.in_channels / spec.groups) * volume(spec.kernel);
  const int threads = work < kSmallestParallelWork ? 1 : call.threads;
  if (packed.blocks().depthwise) {
    run_static_depthwise(call, packed, geometry, threads);
    return;
  }
  if (prefers_winograd(call, packed)) {
    run_static_winograd(call, packed, geometry, threads);
    return;
  }
  // Runs that end within 4 bytes are read beyond the last pixel of x.
  const bool in_place = geometry.bordered == geometry.input && packed.blocks().inputs % 4 == 0;
  const int64_t together =
      in_place ? call.batch : std::clamp<int64_t>(kGroupBytes / geometry.sample_bytes, 1, call.batch);
  const StaticConv conv(call, packed, geometry);
  const int64_t image_bytes = in_place ? 0 : together * geometry.sample_bytes + geometry.slack_bytes;
  Scratch scratch(aligned_size(image_bytes) + conv.workspace_bytes() * threads);
  auto* image = scratch.take<uint8_t>(image_bytes);
  auto* workspaces = scratch.take<uint8_t>(conv.workspace_bytes() * threads);
  for (int64_t first = 0; first < call.batch; first += together) {
    const int64_t samples = std::min(together, call.batch - first);
    if (!in_place) copy_bordered(call, spec, geometry, first, samples, threads, image);
    conv.run(first, samples, in_place ? call.x : image, workspaces, threads);
  }
}

void linear_static(const LinearStaticCall& call) {
  const PackedLayout layout = checked_layout(call.packed);
  if (layout.k != call.k)
    throw std::invalid_argument("the packed weight has another number of input features");
  if (call.n != layout.n)
    throw std::invalid_argument("the requantization has another number of output features");
  if (call.m <= 0 || layout.n <= 0) return;
  const KernelTable& kernels = active_kernels();
  const int64_t panels = panels_of(layout);
  const int threads = call.m * layout.n * layout.k < kSmallestParallelWork ? 1 : call.threads;
  const bool by_rows = threads == 1 || call.m >= kSmallestRowShare * threads;
  const int64_t most =
      std::min(call.m, std::max<int64_t>(4, kBlockBytes / (2 * layout.k_padded) / kRowGrain) * kRowGrain);
  const int64_t gemm_bytes = aligned_size(kernels.gemm_scratch_bytes(most, layout.k_padded));
  // Rows that end within 4 bytes are read beyond the end of x.
  const int64_t copied = call.k % 4 == 0 ? 0 : call.m * call.k;
  Scratch scratch(aligned_size(copied + 4) + gemm_bytes * threads);
  auto* copy = scratch.take<uint8_t>(copied + 4);
  auto* workspaces = scratch.take<uint8_t>(gemm_bytes * threads);
  std::memcpy(copy, call.x, static_cast<size_t>(copied));
  const int64_t run = 0;
  run_parallel(threads, [&](int thread, int count) {
    const Share rows = by_rows ? share_of(call.m, kRowGrain, thread, count) : Share{0, call.m};
    const Share columns = by_rows ? Share{0, panels} : share_of(panels, 1, thread, count);
    for (int64_t row = rows.begin; row < rows.end; row += most) {
      GemmStaticArgs args{};
      args.image = (copied > 0 ? copy : call.x) + row * call.k;
      args.row_bytes = call.k;
      args.m = std::min(most, rows.end - row);
      args.run = &run;
      args.run_count = 1;
      args.run_bytes = call.k;
      args.zero_point = call.zero_point;
      args.packed = call.packed;
      args.panel_begin = columns.begin;
      args.panel_end = columns.end;
      args.requantize = call.requantize;
      if (args.requantize.residual != nullptr) args.requantize.residual += row * layout.n;
      args.c = call.y + row * layout.n;
      args.c_stride = layout.n;
      args.scratch = workspaces + gemm_bytes * thread;
      kernels.gemm_static(args);
    }
  });
}

}  // namespace intaglio
