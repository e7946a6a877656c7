// Ranges and quantized, bordered images of the samples of a batch.
#include "conv_image.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "../kernels/row_params.h"

namespace intaglio {
namespace {

constexpr int64_t kSmallestParallelValues = 1 << 16;
// gather_runs copies whole vectors.
constexpr int64_t kGatherSlack = 64;
constexpr int64_t kLargestTapGroup = 4;

struct Range {
  float lo, hi;
};

Range join(Range a, Range b) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  if (a.lo != a.lo || b.lo != b.lo) return {kNan, kNan};
  return {std::min(a.lo, b.lo), std::max(a.hi, b.hi)};
}

void choose_params(const ConvDynamicCall& call, int64_t values, int64_t first, int64_t samples, int threads,
                   SampleParams* params) {
  const KernelTable& kernels = active_kernels();
  const int64_t parts = samples >= threads ? 1 : threads;
  std::vector<Range> ranges(static_cast<size_t>(samples * parts));
  run_parallel(threads, [&](int thread, int count) {
    const Share items = share_of(samples * parts, 1, thread, count);
    for (int64_t i = items.begin; i < items.end; ++i) {
      const Share span = share_of(values, 16, static_cast<int>(i % parts), static_cast<int>(parts));
      Range& range = ranges[static_cast<size_t>(i)];
      kernels.find_range(
          {call.x + (first + i / parts) * values + span.begin, span.end - span.begin, &range.lo, &range.hi});
    }
  });
  for (int64_t s = 0; s < samples; ++s) {
    Range range{0.0f, 0.0f};
    for (int64_t p = 0; p < parts; ++p) range = join(range, ranges[static_cast<size_t>(s * parts + p)]);
    const RowParams chosen = choose_row_params(range.lo, range.hi);
    params[s] = {chosen.scale, chosen.inverse_scale, chosen.zero_point};
  }
}

// One row of one block of a bordered image, borders and all.
class RowQuantizer {
 public:
  RowQuantizer(const ConvDynamicCall& call, const PackedConv& packed, const ConvGeometry& geometry)
      : call_(call), spec_(packed.spec()), blocks_(packed.blocks()), geometry_(geometry) {
    const int64_t plane = call.input[0] * call.input[1] * call.input[2];
    channel_stride_ = call.x_channels_last ? 1 : plane;
    pixel_stride_ = call.x_channels_last ? spec_.in_channels : 1;
  }

  void run(const float* sample, const SampleParams& params, int64_t block, int64_t z, int64_t y,
           uint8_t* row) const {
    const PaddingMode mode = spec_.padding_mode;
    const int64_t source_z = source_of(z - geometry_.low[0], geometry_.input[0], mode);
    const int64_t source_y = source_of(y - geometry_.low[1], geometry_.input[1], mode);
    const int64_t width = geometry_.input[2], low = geometry_.low[2], pixel = geometry_.pixel_bytes;
    if (source_z < 0 || source_y < 0) {
      std::memset(row, params.zero_point, static_cast<size_t>(geometry_.row_bytes));
      return;
    }
    const int64_t at = (source_z * geometry_.input[1] + source_y) * width;
    const int64_t begin = block * blocks_.block_inputs;
    const int64_t all = blocks_.depthwise ? spec_.out_channels : spec_.in_channels;
    const int64_t channels = std::min(blocks_.block_inputs, all - begin);
    active_kernels().quantize_pixels({sample + at * pixel_stride_, pixel_stride_, channel_stride_, width,
                                      begin, channels, blocks_.repeat, params.inverse_scale,
                                      params.zero_point, row + low * pixel, pixel});
    fill_border(row, 0, low, params.zero_point);
    fill_border(row, low + width, geometry_.bordered[2], params.zero_point);
  }

 private:
  void fill_border(uint8_t* row, int64_t begin, int64_t end, int32_t zero_point) const {
    const int64_t pixel = geometry_.pixel_bytes, low = geometry_.low[2];
    if (spec_.padding_mode == PaddingMode::kZeros) {
      std::memset(row + begin * pixel, zero_point, static_cast<size_t>((end - begin) * pixel));
      return;
    }
    for (int64_t x = begin; x < end; ++x) {
      const int64_t source = low + source_of(x - low, geometry_.input[2], spec_.padding_mode);
      std::memcpy(row + x * pixel, row + source * pixel, static_cast<size_t>(pixel));
    }
  }

  const ConvDynamicCall& call_;
  const ConvSpec& spec_;
  const ConvBlocks& blocks_;
  const ConvGeometry& geometry_;
  int64_t channel_stride_, pixel_stride_;
};

}  // namespace

int64_t source_of(int64_t i, int64_t size, PaddingMode mode) {
  if (i >= 0 && i < size) return i;
  switch (mode) {
    case PaddingMode::kReflect:
      return i < 0 ? -i : 2 * (size - 1) - i;
    case PaddingMode::kReplicate:
      return i < 0 ? 0 : size - 1;
    case PaddingMode::kCircular:
      return i < 0 ? i + size : i - size;
    default:
      return -1;
  }
}

ConvGeometry::ConvGeometry(const ConvSpec& spec, const Extent& in, const Extent& out, int64_t pixel,
                           int64_t blocks)
    : input(in), output(out) {
  input_step = output_step = {1, 1, 1};
  (spec.transposed ? output_step : input_step) = spec.stride;
  int64_t tap_step = 1;
  for (int axis = 0; axis < kAxes; ++axis) {
    const auto a = static_cast<size_t>(axis);
    phases[a] = phases_of(spec, axis);
    // A row of outputs is computed for as many positions in every phase: the last may be one too many.
    const int64_t positions = count(axis, 0);
    int64_t first = 0, last = input[a] - 1;
    for (const Phase& phase : phases[a]) {
      if (phase.taps == 0) continue;
      first = std::min(first, phase.first_offset);
      if (axis == 2) tap_step = phase.offset_step;
      last = std::max(
          last, (positions - 1) * input_step[a] + phase.first_offset + (phase.taps - 1) * phase.offset_step);
    }
    low[a] = -first;
    bordered[a] = last + 1 - first;
  }
  pixel_bytes = pixel;
  row_bytes = bordered[2] * pixel_bytes;
  plane_bytes = bordered[1] * row_bytes;
  block_bytes = bordered[0] * plane_bytes;
  sample_bytes = blocks * block_bytes;
  // A depthwise row of taps is read in whole groups, and each of their pixels in whole vectors.
  slack_bytes = kGatherSlack + kLargestTapGroup * (tap_step + 1) * pixel_bytes;
}

int64_t ConvGeometry::count(int axis, int64_t phase) const {
  const auto a = static_cast<size_t>(axis);
  return std::max<int64_t>(0, (output[a] - phase + output_step[a] - 1) / output_step[a]);
}

void check_geometry(const ConvSpec& spec, const ConvGeometry& geometry) {
  for (size_t a = 0; a < kAxes; ++a) {
    if (geometry.input[a] < 1 || geometry.output[a] < 1)
      throw std::invalid_argument("a convolution needs at least one pixel of input and of output");
    const int64_t reach = geometry.input[a] - (spec.padding_mode == PaddingMode::kReflect ? 1 : 0);
    const int64_t border =
        std::max(geometry.low[a], geometry.bordered[a] - geometry.low[a] - geometry.input[a]);
    if (spec.padding_mode != PaddingMode::kZeros && spec.padding_mode != PaddingMode::kReplicate &&
        border > reach)
      throw std::invalid_argument("the padding reaches beyond the pixels that it copies");
  }
}

void quantize_samples(const ConvDynamicCall& call, const PackedConv& packed, const ConvGeometry& geometry,
                      int64_t first, int64_t samples, int threads, uint8_t* image, SampleParams* params) {
  const int64_t values = packed.spec().in_channels * call.input[0] * call.input[1] * call.input[2];
  if (samples * values < kSmallestParallelValues) threads = 1;
  choose_params(call, values, first, samples, threads, params);
  const RowQuantizer rows(call, packed, geometry);
  const int64_t height = geometry.bordered[1], depth = geometry.bordered[0];
  const int64_t blocks = packed.blocks().count;
  run_parallel(threads, [&](int thread, int count) {
    const Share share = share_of(samples * blocks * depth * height, 1, thread, count);
    for (int64_t i = share.begin; i < share.end; ++i) {
      // In the order in which the input lies: planes block by block, or all blocks of a row together.
      const bool last = call.x_channels_last;
      const int64_t row =
          last ? i / blocks : i / (blocks * depth * height) * (depth * height) + i % (depth * height);
      const int64_t block = last ? i % blocks : i / (depth * height) % blocks;
      const int64_t y = row % height, z = row / height % depth, sample = row / height / depth;
      rows.run(call.x + (first + sample) * values, params[sample], block, z, y,
               image + sample * geometry.sample_bytes + block * geometry.block_bytes +
                   z * geometry.plane_bytes + y * geometry.row_bytes);
    }
  });
}

}  // namespace intaglio
