// Copies of the images of a static convolution with a border around them.
#include <cstring>

#include "conv_static_form.h"

namespace intaglio {
namespace {

constexpr int64_t kSmallestParallelBytes = 1 << 17;

// Copies of the samples with their borders.
class BorderedImage {
 public:
  BorderedImage(const StaticConvShape& shape, const StaticOperands& operands, PaddingMode mode,
                const ConvGeometry& geometry)
      : shape_(shape), operands_(operands), mode_(mode), g_(geometry) {}

  void copy(int64_t first, int64_t samples, int threads, uint8_t* image) const {
    const int64_t rows = g_.bordered[0] * g_.bordered[1];
    if (samples * g_.sample_bytes < kSmallestParallelBytes) threads = 1;
    run_parallel(threads, [&](int thread, int count) {
      const Share share = share_of(samples * rows, 1, thread, count);
      for (int64_t i = share.begin; i < share.end; ++i)
        copy_row(first + i / rows, i / g_.bordered[1] % g_.bordered[0], i % g_.bordered[1],
                 image + i * g_.row_bytes);
    });
  }

 private:
  void copy_row(int64_t sample, int64_t z, int64_t y, uint8_t* row) const {
    const int64_t width = g_.input[2], low = g_.low[2], pixel = g_.pixel_bytes;
    const int64_t source_z = source_of(z - g_.low[0], g_.input[0], mode_);
    const int64_t source_y = source_of(y - g_.low[1], g_.input[1], mode_);
    if (source_z < 0 || source_y < 0) {
      std::memset(row, shape_.zero_point, static_cast<size_t>(g_.row_bytes));
      return;
    }
    copy_pixels(sample, (source_z * g_.input[1] + source_y) * width, row + low * pixel);
    fill_border(row, 0, low);
    fill_border(row, low + width, g_.bordered[2]);
  }

  // A row of pixels, from pixel `first` of the sample on.
  void copy_pixels(int64_t sample, int64_t first, uint8_t* row) const {
    const int64_t width = g_.input[2], pixel = g_.pixel_bytes, pixels = volume(g_.input);
    if (operands_.values == nullptr) {
      std::memcpy(row, operands_.x + (sample * pixels + first) * pixel, static_cast<size_t>(width * pixel));
      return;
    }
    const FloatInput& input = *shape_.floats;
    const OutputRange range{shape_.zero_point, input.lower, input.upper};
    const float* values = operands_.values + sample * pixels * pixel;
    if (input.planes)
      active_kernels().quantize_planes(
          {values + first, pixels, width, pixel, 1.0f / input.scale, range, row});
    else
      active_kernels().quantize_plain(
          {values + first * pixel, width * pixel, 1.0f / input.scale, range, row});
  }

  void fill_border(uint8_t* row, int64_t begin, int64_t end) const {
    const int64_t pixel = g_.pixel_bytes, low = g_.low[2];
    if (mode_ == PaddingMode::kZeros) {
      std::memset(row + begin * pixel, shape_.zero_point, static_cast<size_t>((end - begin) * pixel));
      return;
    }
    for (int64_t x = begin; x < end; ++x) {
      const int64_t source = low + source_of(x - low, g_.input[2], mode_);
      std::memcpy(row + x * pixel, row + source * pixel, static_cast<size_t>(pixel));
    }
  }

  const StaticConvShape& shape_;
  const StaticOperands& operands_;
  PaddingMode mode_;
  const ConvGeometry& g_;
};

}  // namespace

void StaticConvForm::copy_bordered(const StaticOperands& operands, int64_t first, int64_t samples,
                                   int threads, uint8_t* image) const {
  const BorderedImage copies(shape_, operands, packed_.spec().padding_mode, g_);
  copies.copy(first, samples, threads, image);
}

}  // namespace intaglio
