// Convolutions as blocks of GEMM: which rows and columns a thread takes, and where results go.
//
// The rows of the GEMM are output pixels. The taps of a row of a bordered image with its channels side by
// side are one run of bytes, so a row of the GEMM is gathered in kernel height x depth copies; where it is
// a single run and the rows are evenly spaced (1x1 and one-dimensional kernels) the image itself is read.
#include "conv_gemm.h"

#include <algorithm>
#include <cstring>

#include "gemm.h"

namespace intaglio {
namespace {

// Gathered rows, and results before they are written in planes, that stay in L2.
constexpr int64_t kGatherBytes = 384 * 1024;
constexpr int64_t kResultBytes = 256 * 1024;
constexpr int64_t kRowGrain = 24;  // a multiple of the tiles' heights
// With fewer rows than this for each thread, threads take columns instead.
constexpr int64_t kSmallestRowShare = 48;
// What a kernel may touch beyond gathered rows and beyond results.
constexpr int64_t kGatherSlack = 64;
constexpr int64_t kResultRowSlack = 16;

struct Block {
  int64_t row, rows;
};

// One depth and one height phase. A row is an output position: (sample, z, y, x), x innermost, which
// stands for one output in each width phase.
struct Piece {
  int64_t z_phase, y_phase;
  Extent count;
  int64_t sample_rows() const { return count[0] * count[1] * count[2]; }
};

// One width phase of a piece.
struct Taps {
  int64_t table;  // of the packed weight
  std::vector<int64_t> runs;
  int64_t run_bytes;
};

struct Workspace {
  uint8_t* gathered;
  int64_t* start;  // byte of the image at which each row's own position lies
  float* scale;
  int32_t* zero_point;
  float* result;
  uint8_t* gemm;
};

class GemmConv {
 public:
  GemmConv(const ConvDynamicCall& call, const PackedConv& packed, const ConvGeometry& geometry, int64_t first,
           int64_t samples, const uint8_t* image, const SampleParams* params)
      : call_(call),
        packed_(packed),
        blocks_(packed.blocks()),
        g_(geometry),
        first_(first),
        samples_(samples),
        image_(image),
        params_(params) {
    widths_ = g_.output_step[2];
    is_strided_ = g_.output_step != Extent{1, 1, 1};
    is_direct_ = call.y_channels_last && !is_strided_;
    // One cache line more than the columns: a power of two would send a column's rows to a few sets of L1.
    result_stride_ = (blocks_.block_outputs + 15) / 16 * 16 + 16;
    pixels_ = g_.output[0] * g_.output[1] * g_.output[2];
    panel_ = checked_layout(packed.weight(0, 0)).panel;
    panels_ = (blocks_.block_outputs + panel_ - 1) / panel_;
  }

  void run(int threads) {
    for (int64_t z = 0; z < g_.output_step[0]; ++z)
      for (int64_t y = 0; y < g_.output_step[1]; ++y) {
        piece_ = {z, y, {g_.count(0, z), g_.count(1, y), g_.count(2, 0)}};
        taps_.clear();
        for (int64_t x = 0; x < widths_; ++x) taps_.push_back(taps_of(x));
        if (piece_.sample_rows() > 0) run_piece(threads);
      }
  }

 private:
  Taps taps_of(int64_t x_phase) const;
  void run_piece(int threads);
  std::vector<Block> cut_rows(int64_t most, int shares) const;
  bool place_rows(Block block, const Workspace& work) const;
  void multiply(int64_t x_phase, int64_t group, Share panels, Block block, bool is_even,
                const Workspace& work) const;
  void write(int64_t group, Share panels, Block block, const Workspace& work) const;
  void write_span(const float* result, int64_t sample, int64_t pixel, int64_t count, int64_t channel,
                  int64_t channels) const;

  const ConvDynamicCall& call_;
  const PackedConv& packed_;
  const ConvBlocks& blocks_;
  const ConvGeometry& g_;
  int64_t first_, samples_;
  const uint8_t* image_;
  const SampleParams* params_;
  int64_t widths_, result_stride_, pixels_, panel_, panels_;
  bool is_strided_;  // outputs of a piece lie apart
  bool is_direct_;   // the GEMM writes to y itself
  Piece piece_;
  std::vector<Taps> taps_;
};

Taps GemmConv::taps_of(int64_t x_phase) const {
  const Phase& z = g_.phases[0][static_cast<size_t>(piece_.z_phase)];
  const Phase& y = g_.phases[1][static_cast<size_t>(piece_.y_phase)];
  const Phase& x = g_.phases[2][static_cast<size_t>(x_phase)];
  const bool is_run = x.offset_step == 1;
  const int64_t row_runs = is_run ? std::min<int64_t>(x.taps, 1) : x.taps;
  Taps taps{(piece_.z_phase * g_.output_step[1] + piece_.y_phase) * widths_ + x_phase,
            {},
            (is_run ? x.taps : 1) * g_.pixel_bytes};
  for (int64_t i = 0; i < z.taps; ++i)
    for (int64_t j = 0; j < y.taps; ++j)
      for (int64_t k = 0; k < row_runs; ++k)
        taps.runs.push_back((z.first_offset + i * z.offset_step) * g_.plane_bytes +
                            (y.first_offset + j * y.offset_step) * g_.row_bytes +
                            (x.first_offset + k * x.offset_step) * g_.pixel_bytes);
  return taps;
}

// Blocks of even size that do not cross samples, unless whole samples fit in one.
std::vector<Block> GemmConv::cut_rows(int64_t most, int shares) const {
  const int64_t sample_rows = piece_.sample_rows(), total = samples_ * sample_rows;
  const bool within = sample_rows >= most || samples_ == 1;
  const int64_t span = within ? sample_rows : total, spans = within ? samples_ : 1;
  int64_t parts = (span + most - 1) / most;
  if (spans % shares != 0) parts = (parts + shares - 1) / shares * shares;
  const int64_t rows = ((span + parts - 1) / parts + kRowGrain - 1) / kRowGrain * kRowGrain;
  std::vector<Block> cut;
  for (int64_t begin = 0; begin < total; begin += span)
    for (int64_t row = 0; row < span; row += rows) cut.push_back({begin + row, std::min(rows, span - row)});
  return cut;
}

void GemmConv::run_piece(int threads) {
  const KernelTable& kernels = active_kernels();
  int64_t k_padded = 0;
  for (const Taps& taps : taps_)
    k_padded = std::max(k_padded, checked_layout(packed_.weight(taps.table, 0)).k_padded);
  const int64_t total = samples_ * piece_.sample_rows(), row_floats = widths_ * result_stride_;
  const bool by_rows = threads == 1 || total >= kSmallestRowShare * threads;
  int64_t most = kGatherBytes / k_padded;
  if (!is_direct_) most = std::min(most, kResultBytes / (4 * row_floats));
  most = std::min(total, std::max<int64_t>(2, most / kRowGrain) * kRowGrain);
  const std::vector<Block> cut = cut_rows(most, by_rows ? threads : 1);
  most = 0;
  for (const Block& block : cut) most = std::max(most, block.rows);

  const int64_t gathered_bytes = aligned_size(most * k_padded + kGatherSlack);
  const int64_t result_floats = is_direct_ ? 0 : (most + kResultRowSlack) * row_floats;
  const int64_t gemm_bytes = kernels.gemm_scratch_bytes(most, k_padded);
  const int64_t bytes = gathered_bytes + aligned_size(most * 8) + 2 * aligned_size(most * 4) +
                        aligned_size(result_floats * 4) + aligned_size(gemm_bytes);
  Scratch scratch(bytes * threads);
  std::vector<Workspace> spaces;
  for (int t = 0; t < threads; ++t)
    spaces.push_back({scratch.take<uint8_t>(gathered_bytes), scratch.take<int64_t>(most),
                      scratch.take<float>(most), scratch.take<int32_t>(most),
                      scratch.take<float>(result_floats), scratch.take<uint8_t>(gemm_bytes)});

  run_parallel(threads, [&](int thread, int count) {
    const Workspace& work = spaces[static_cast<size_t>(thread)];
    const auto all_rows = static_cast<int64_t>(cut.size());
    const int64_t all_panels = blocks_.count * panels_;
    const Share rows = by_rows ? share_of(all_rows, 1, thread, count) : Share{0, all_rows};
    const Share columns = by_rows ? Share{0, all_panels} : share_of(all_panels, 1, thread, count);
    if (columns.begin == columns.end) return;
    for (int64_t b = rows.begin; b < rows.end; ++b) {
      const Block block = cut[static_cast<size_t>(b)];
      const bool is_even = place_rows(block, work);
      for (int64_t group = columns.begin / panels_; group * panels_ < columns.end; ++group) {
        const Share panels{std::max(columns.begin - group * panels_, int64_t{0}),
                           std::min(columns.end - group * panels_, panels_)};
        for (int64_t x = 0; x < widths_; ++x) multiply(x, group, panels, block, is_even, work);
        if (!is_direct_) write(group, panels, block, work);
      }
    }
  });
}

// Fills in where the rows lie and how they are scaled; says whether they are evenly spaced.
bool GemmConv::place_rows(Block block, const Workspace& work) const {
  const Extent& count = piece_.count;
  int64_t rest = block.row;
  int64_t x = rest % count[2], y = (rest /= count[2]) % count[1];
  int64_t z = (rest /= count[1]) % count[0], sample = rest / count[0];
  bool is_even = true;
  for (int64_t i = 0; i < block.rows; ++i) {
    work.start[i] = sample * g_.sample_bytes +
                    g_.offset(z * g_.input_step[0], y * g_.input_step[1], x * g_.input_step[2]);
    work.scale[i] = params_[sample].scale;
    work.zero_point[i] = params_[sample].zero_point;
    is_even = is_even && (i < 2 || work.start[i] - work.start[i - 1] == work.start[1] - work.start[0]);
    if (++x < count[2]) continue;
    x = 0;
    if (++y < count[1]) continue;
    y = 0;
    if (++z < count[0]) continue;
    z = 0;
    ++sample;
  }
  return is_even;
}

void GemmConv::multiply(int64_t x_phase, int64_t group, Share panels, Block block, bool is_even,
                        const Workspace& work) const {
  const Taps& taps = taps_[static_cast<size_t>(x_phase)];
  const uint8_t* image = image_ + group * g_.block_bytes;
  GemmArgs args{};
  args.packed = packed_.weight(taps.table, group);
  args.m = block.rows;
  if (is_even && taps.runs.size() == 1) {
    args.a = image + work.start[0] + taps.runs[0];
    args.a_stride = block.rows > 1 ? work.start[1] - work.start[0] : 0;
  } else {
    args.a = work.gathered;
    args.a_stride = checked_layout(args.packed).k_padded;
    active_kernels().gather_runs({image, work.start, block.rows, taps.runs.data(),
                                  static_cast<int64_t>(taps.runs.size()), taps.run_bytes, work.gathered,
                                  args.a_stride});
  }
  args.panel_begin = panels.begin;
  args.panel_end = panels.end;
  args.row_scale = work.scale;
  args.row_zero_point = work.zero_point;
  args.row_param_stride = 1;
  args.activation = Activation::kNone;
  args.output = Output::kFloat;
  const int64_t outputs = packed_.spec().out_channels;
  args.c = is_direct_ ? call_.y + (first_ * pixels_ + block.row) * outputs + group * blocks_.block_outputs
                      : work.result + x_phase * result_stride_;
  args.c_stride = is_direct_ ? outputs : widths_ * result_stride_;
  args.scratch = work.gemm;
  active_kernels().gemm(args);
}

// Results of a block to y: where outputs are neighbours, in spans of a sample; else of an output row.
void GemmConv::write(int64_t group, Share panels, Block block, const Workspace& work) const {
  const int64_t column = panels.begin * panel_;
  const int64_t columns = std::min(panels.end * panel_, blocks_.block_outputs) - column;
  const int64_t channel = group * blocks_.block_outputs + column;
  const Extent& count = piece_.count;
  const int64_t span = is_strided_ ? count[2] : piece_.sample_rows();
  for (int64_t row = block.row, end = block.row + block.rows; row < end;) {
    const int64_t rows = std::min(end, (row / span + 1) * span) - row;
    const float* result = work.result + (row - block.row) * widths_ * result_stride_ + column;
    const int64_t sample = row / piece_.sample_rows();
    if (is_strided_) {
      const int64_t y = row / count[2] % count[1] * g_.output_step[1] + piece_.y_phase;
      const int64_t z = row / count[2] / count[1] % count[0] * g_.output_step[0] + piece_.z_phase;
      const int64_t x = row % count[2] * widths_;
      write_span(result, sample, (z * g_.output[1] + y) * g_.output[2] + x,
                 std::min(rows * widths_, g_.output[2] - x), channel, columns);
    } else {
      write_span(result, sample, row % span, rows, channel, columns);
    }
    row += rows;
  }
}

void GemmConv::write_span(const float* result, int64_t sample, int64_t pixel, int64_t count, int64_t channel,
                          int64_t channels) const {
  const int64_t outputs = packed_.spec().out_channels;
  float* y = call_.y + (first_ + sample) * outputs * pixels_;
  if (!call_.y_channels_last) {
    active_kernels().transpose_rows(
        {result, result_stride_, count, channels, y + channel * pixels_ + pixel, pixels_});
    return;
  }
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(y + (pixel + i) * outputs + channel, result + i * result_stride_,
                static_cast<size_t>(channels) * sizeof(float));
}

}  // namespace

void run_gemm_conv(const ConvDynamicCall& call, const PackedConv& packed, const ConvGeometry& geometry,
                   int64_t first, int64_t samples, const uint8_t* image, const SampleParams* params,
                   int threads) {
  GemmConv(call, packed, geometry, first, samples, image, params).run(threads);
}

}  // namespace intaglio
