// Bordered copies: see conv_static_image.h.
#include "conv_static_image.h"

#include <cstring>

namespace intaglio {
namespace {

constexpr int64_t kSmallestParallelBytes = 1 << 17;

// Copies of the samples with their borders.
class BorderedImage {
 public:
  BorderedImage(const ConvStaticCall& call, const ConvSpec& spec, const ConvGeometry& geometry)
      : call_(call), mode_(spec.padding_mode), g_(geometry) {}

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
      std::memset(row, call_.zero_point, static_cast<size_t>(g_.row_bytes));
      return;
    }
    const int64_t source = ((sample * g_.input[0] + source_z) * g_.input[1] + source_y) * width;
    std::memcpy(row + low * pixel, call_.x + source * pixel, static_cast<size_t>(width * pixel));
    fill_border(row, 0, low);
    fill_border(row, low + width, g_.bordered[2]);
  }

  void fill_border(uint8_t* row, int64_t begin, int64_t end) const {
    const int64_t pixel = g_.pixel_bytes, low = g_.low[2];
    if (mode_ == PaddingMode::kZeros) {
      std::memset(row + begin * pixel, call_.zero_point, static_cast<size_t>((end - begin) * pixel));
      return;
    }
    for (int64_t x = begin; x < end; ++x) {
      const int64_t source = low + source_of(x - low, g_.input[2], mode_);
      std::memcpy(row + x * pixel, row + source * pixel, static_cast<size_t>(pixel));
    }
  }

  const ConvStaticCall& call_;
  PaddingMode mode_;
  const ConvGeometry& g_;
};

}  // namespace

void copy_bordered(const ConvStaticCall& call, const ConvSpec& spec, const ConvGeometry& geometry,
                   int64_t first, int64_t samples, int threads, uint8_t* image) {
  BorderedImage(call, spec, geometry).copy(first, samples, threads, image);
}

}  // namespace intaglio
