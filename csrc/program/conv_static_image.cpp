// Copies of the images of a static convolution with a border around them.
#include <cstring>

#include "conv_static_form.h"

namespace intaglio {
namespace {

constexpr int64_t kSmallestParallelBytes = 1 << 17;

// Copies of the samples with their borders.
class BorderedImage {
 public:
  BorderedImage(const uint8_t* x, int32_t zero_point, PaddingMode mode, const ConvGeometry& geometry)
      : x_(x), zero_point_(zero_point), mode_(mode), g_(geometry) {}

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
      std::memset(row, zero_point_, static_cast<size_t>(g_.row_bytes));
      return;
    }
    const int64_t source = ((sample * g_.input[0] + source_z) * g_.input[1] + source_y) * width;
    std::memcpy(row + low * pixel, x_ + source * pixel, static_cast<size_t>(width * pixel));
    fill_border(row, 0, low);
    fill_border(row, low + width, g_.bordered[2]);
  }

  void fill_border(uint8_t* row, int64_t begin, int64_t end) const {
    const int64_t pixel = g_.pixel_bytes, low = g_.low[2];
    if (mode_ == PaddingMode::kZeros) {
      std::memset(row + begin * pixel, zero_point_, static_cast<size_t>((end - begin) * pixel));
      return;
    }
    for (int64_t x = begin; x < end; ++x) {
      const int64_t source = low + source_of(x - low, g_.input[2], mode_);
      std::memcpy(row + x * pixel, row + source * pixel, static_cast<size_t>(pixel));
    }
  }

  const uint8_t* x_;
  int32_t zero_point_;
  PaddingMode mode_;
  const ConvGeometry& g_;
};

}  // namespace

void StaticConvForm::copy_bordered(const uint8_t* x, int64_t first, int64_t samples, int threads,
                                   uint8_t* image) const {
  BorderedImage(x, shape_.zero_point, packed_.spec().padding_mode, g_).copy(first, samples, threads, image);
}

}  // namespace intaglio
