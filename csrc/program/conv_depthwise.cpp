// Depthwise convolutions: strips of output rows of one block of channels, whose taps are spread once.
#include "conv_depthwise.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "gemm.h"

namespace intaglio {
namespace {

// Spread rows stay in L1 while the output rows that need them pass.
constexpr int64_t kSpreadBytes = 24 * 1024;
// Results of a strip before they are written in planes, that stay in L2.
constexpr int64_t kResultBytes = 192 * 1024;
constexpr int64_t kResultRowSlack = 16;

// How one combination of phases reads its input, and the ring of spread rows for each depth tap: all rows
// of a strip if they are few, else as many as one output row needs.
struct Ring {
  int64_t chunks, chunk_step;  // in vectors, as all steps of conv_depthwise
  int64_t position_step;       // pixels between positions
  int64_t column_step;
  int64_t positions;  // vectors in a spread row
  int64_t span;       // input rows that one output row reaches over
  int64_t rows;       // spread rows held
  int64_t outputs;    // output rows made together
};

class DepthwiseConv {
 public:
  DepthwiseConv(const ConvDynamicCall& call, const PackedConv& packed, const ConvGeometry& geometry,
                int64_t first, int64_t samples, const uint8_t* image, const SampleParams* params)
      : call_(call),
        packed_(packed),
        g_(geometry),
        first_(first),
        samples_(samples),
        image_(image),
        params_(params),
        lanes_(packed.blocks().block_outputs) {
    pixels_ = g_.output[0] * g_.output[1] * g_.output[2];
    tap_group_ = checked_layout(packed.weight(0, 0)).k_group;
    const int64_t row_bytes = g_.output[2] * lanes_ * 4;
    strip_rows_ = std::clamp<int64_t>(kResultBytes / row_bytes, 1, g_.count(1, 0));
  }

  void run(int threads) {
    const int64_t result_floats =
        call_.y_channels_last ? 0 : (strip_rows_ * g_.output[2] + kResultRowSlack) * lanes_;
    const int64_t spread_floats = ring_vectors() * lanes_;
    Scratch scratch((aligned_size(result_floats * 4) + aligned_size(spread_floats * 4)) * threads);
    std::vector<Workspace> spaces;
    for (int t = 0; t < threads; ++t)
      spaces.push_back({scratch.take<int32_t>(spread_floats), scratch.take<float>(result_floats)});
    const int64_t blocks = packed_.blocks().count;
    const int64_t height = (g_.count(1, 0) + strip_rows_ - 1) / strip_rows_, depth = g_.count(0, 0);
    run_parallel(threads, [&](int thread, int count) {
      const Share items = share_of(samples_ * blocks * depth * height, 1, thread, count);
      for (int64_t i = items.begin; i < items.end; ++i) {
        const int64_t plane = i / height, block = plane / depth;
        run_strip(block / blocks, block % blocks, plane % depth, i % height * strip_rows_,
                  spaces[static_cast<size_t>(thread)]);
      }
    });
  }

 private:
  struct Workspace {
    int32_t* spread;
    float* result;
  };
  struct Strip {
    int64_t sample, block, z, y, rows;  // z and y count outputs of the phases
    int64_t z_phase, y_phase;
  };
  Ring ring_of(const Phase& y, const Phase& x, int64_t outputs, int64_t columns) const;
  int64_t ring_vectors() const;
  void run_strip(int64_t sample, int64_t block, int64_t z, int64_t y, const Workspace& work) const;
  ConvDepthwiseArgs plan(const Strip& strip, int64_t x_phase, const Workspace& work) const;
  void multiply(const Strip& strip, int64_t x_phase, const Workspace& work) const;
  void write(const Strip& strip, const Workspace& work) const;

  const ConvDynamicCall& call_;
  const PackedConv& packed_;
  const ConvGeometry& g_;
  int64_t first_, samples_;
  const uint8_t* image_;
  const SampleParams* params_;
  int64_t lanes_, pixels_, tap_group_, strip_rows_;
};

Ring DepthwiseConv::ring_of(const Phase& y, const Phase& x, int64_t outputs, int64_t columns) const {
  const int64_t group_pixels = tap_group_ * x.offset_step;
  Ring ring{};
  ring.chunks = (x.taps + tap_group_ - 1) / tap_group_;
  ring.position_step = std::gcd(g_.input_step[2], group_pixels);
  ring.chunk_step = group_pixels / ring.position_step;
  ring.column_step = g_.input_step[2] / ring.position_step;
  ring.outputs = outputs;
  if (y.taps == 0 || x.taps == 0) return ring;
  ring.positions = (columns - 1) * ring.column_step + (ring.chunks - 1) * ring.chunk_step + 1;
  ring.span = (y.taps - 1) * y.offset_step + 1;
  ring.rows = (outputs - 1) * g_.input_step[1] + ring.span;
  if (ring.rows * ring.positions * lanes_ * 4 > kSpreadBytes) {
    ring.outputs = 1;
    ring.rows = ring.span;
  }
  return ring;
}

// The most that a ring takes, for all depth taps: what is held together, or what one output row needs.
int64_t DepthwiseConv::ring_vectors() const {
  int64_t most = kSpreadBytes / (lanes_ * 4), depth = 0;
  for (const Phase& z : g_.phases[0]) depth = std::max(depth, z.taps);
  for (const Phase& y : g_.phases[1])
    for (const Phase& x : g_.phases[2]) {
      const Ring ring = ring_of(y, x, 1, g_.count(2, 0));
      most = std::max(most, ring.rows * ring.positions);
    }
  return depth * most;
}

void DepthwiseConv::run_strip(int64_t sample, int64_t block, int64_t z, int64_t y,
                              const Workspace& work) const {
  for (int64_t z_phase = 0; z_phase < g_.output_step[0]; ++z_phase)
    for (int64_t y_phase = 0; y_phase < g_.output_step[1]; ++y_phase) {
      const int64_t rows = std::min(strip_rows_, g_.count(1, y_phase) - y);
      if (z >= g_.count(0, z_phase) || rows <= 0) continue;
      const Strip strip{sample, block, z, y, rows, z_phase, y_phase};
      for (int64_t x_phase = 0; x_phase < g_.output_step[2]; ++x_phase) multiply(strip, x_phase, work);
      if (!call_.y_channels_last) write(strip, work);
    }
}

void DepthwiseConv::multiply(const Strip& strip, int64_t x_phase, const Workspace& work) const {
  const KernelTable& kernels = active_kernels();
  const Phase& z = g_.phases[0][static_cast<size_t>(strip.z_phase)];
  const Phase& y = g_.phases[1][static_cast<size_t>(strip.y_phase)];
  const Phase& x = g_.phases[2][static_cast<size_t>(x_phase)];
  const int64_t columns = g_.count(2, x_phase), step = g_.input_step[1];
  if (columns == 0) return;  // an output narrower than the stride
  const Ring ring = ring_of(y, x, strip.rows, columns);
  const uint8_t* image = image_ + strip.sample * g_.sample_bytes + strip.block * g_.block_bytes;
  std::vector<int64_t> offsets(static_cast<size_t>(x.taps > 0 ? z.taps * y.taps : 0));
  ConvDepthwiseArgs args = plan(strip, x_phase, work);
  args.offset = offsets.data();
  args.tap_rows = static_cast<int64_t>(offsets.size());
  args.chunks = ring.chunks;
  args.chunk_step = ring.chunk_step;
  args.row_step = step * ring.positions;
  args.columns = columns;
  args.column_step = ring.column_step;
  int64_t spread = 0;  // input rows of the strip that were spread
  for (int64_t row = 0; row < strip.rows; row += ring.outputs) {
    const int64_t first = row * step, end = first + (ring.outputs - 1) * step + ring.span;
    for (spread = std::max(spread, first); spread < end && args.tap_rows > 0;) {
      const int64_t slot = spread % ring.rows, together = std::min(end - spread, ring.rows - slot);
      for (int64_t i = 0; i < z.taps; ++i)
        kernels.spread_taps(
            {image + g_.offset(strip.z * g_.input_step[0] + z.first_offset + i * z.offset_step,
                               strip.y * step + y.first_offset + spread, x.first_offset),
             together, g_.row_bytes, ring.positions, ring.position_step * g_.pixel_bytes,
             x.offset_step * g_.pixel_bytes, work.spread + (i * ring.rows + slot) * ring.positions * lanes_,
             ring.positions});
      spread += together;
    }
    for (int64_t i = 0; i < args.tap_rows; ++i) {
      const int64_t slot = (first + i % y.taps * y.offset_step) % ring.rows;
      offsets[static_cast<size_t>(i)] = (i / y.taps * ring.rows + slot) * ring.positions;
    }
    args.rows = ring.outputs;
    kernels.conv_depthwise(args);
    args.y += ring.outputs * args.y_row_stride;
  }
}

// What does not change from row to row. Results lie as pixels of one block, to be transposed, or of all
// outputs, in y itself.
ConvDepthwiseArgs DepthwiseConv::plan(const Strip& strip, int64_t x_phase, const Workspace& work) const {
  ConvDepthwiseArgs args{};
  const int64_t piece = (strip.z_phase * g_.output_step[1] + strip.y_phase) * g_.output_step[2] + x_phase;
  args.spread = work.spread;
  args.packed = packed_.weight(piece, 0);
  args.panel = strip.block;
  args.scale = params_[strip.sample].scale;
  args.zero_point = params_[strip.sample].zero_point;
  const bool direct = call_.y_channels_last;
  const int64_t pixel = direct ? packed_.spec().out_channels : lanes_;
  const int64_t row = strip.y * g_.output_step[1] + strip.y_phase;
  const int64_t plane = (first_ + strip.sample) * g_.output[0] + strip.z * g_.output_step[0] + strip.z_phase;
  float* y = work.result;
  if (direct) y = call_.y + (plane * g_.output[1] + row) * g_.output[2] * pixel + strip.block * lanes_;
  args.y = y + x_phase * pixel;
  args.y_row_stride = g_.output[2] * pixel * (direct ? g_.output_step[1] : 1);
  args.y_stride = g_.output_step[2] * pixel;
  return args;
}

void DepthwiseConv::write(const Strip& strip, const Workspace& work) const {
  const int64_t channel = strip.block * lanes_, outputs = packed_.spec().out_channels;
  const int64_t channels = std::min(lanes_, outputs - channel), width = g_.output[2];
  const int64_t z = strip.z * g_.output_step[0] + strip.z_phase;
  const int64_t together = g_.output_step[1] == 1 ? strip.rows : 1;  // rows that are neighbours in y
  for (int64_t r = 0; r < strip.rows; r += together) {
    const int64_t row = (strip.y + r) * g_.output_step[1] + strip.y_phase;
    active_kernels().transpose_rows(
        {work.result + r * width * lanes_, lanes_, together * width, channels,
         call_.y + ((first_ + strip.sample) * outputs + channel) * pixels_ + (z * g_.output[1] + row) * width,
         pixels_});
  }
}

}  // namespace

void run_depthwise_conv(const ConvDynamicCall& call, const PackedConv& packed, const ConvGeometry& geometry,
                        int64_t first, int64_t samples, const uint8_t* image, const SampleParams* params,
                        int threads) {
  DepthwiseConv(call, packed, geometry, first, samples, image, params).run(threads);
}

}  // namespace intaglio
