// Threaded drivers between float32 tensors and u8 images: how pixels are shared out.
#include "layout.h"

#include "parallel.h"

namespace intaglio {
namespace {

// Below this many values a second thread costs more than it brings.
constexpr int64_t kSmallestParallelValues = 1 << 15;
// Pixels that a thread takes at once: whole vectors of every instruction set.
constexpr int64_t kPixelGrain = 64;

int threads_for(const ImageSize& size, int threads) {
  return size.batch * size.channels * size.pixels < kSmallestParallelValues ? 1 : threads;
}

// body(sample, pixels) for the parts of each sample that fall to a thread.
template <class Body>
void for_each_part(const ImageSize& size, int threads, const Body& body) {
  const int64_t pixels = aligned_size(size.pixels);  // samples begin at a multiple of the grain
  run_parallel(threads_for(size, threads), [&](int thread, int count) {
    const Share share = share_of(size.batch * pixels, kPixelGrain, thread, count);
    for (int64_t i = share.begin; i < share.end;) {
      const int64_t sample = i / pixels, first = i % pixels;
      const int64_t last = std::min(pixels, first + share.end - i);
      if (first < size.pixels) body(sample, Share{first, std::min(last, size.pixels)});
      i += last - first;
    }
  });
}

}  // namespace

void quantize_image(const float* x, const ImageSize& size, bool planes, float scale, const OutputRange& range,
                    uint8_t* q, int threads) {
  const KernelTable& kernels = active_kernels();
  const float inverse = 1.0f / scale;
  if (!planes) {
    const int64_t all = size.batch * size.channels * size.pixels;
    run_parallel(threads_for(size, threads), [&](int thread, int count) {
      const Share part = share_of(all, kPixelGrain, thread, count);
      kernels.quantize_plain({x + part.begin, part.end - part.begin, inverse, range, q + part.begin});
    });
    return;
  }
  for_each_part(size, threads, [&](int64_t sample, const Share& part) {
    kernels.quantize_planes({x + sample * size.channels * size.pixels + part.begin, size.pixels,
                             part.end - part.begin, size.channels, inverse, range,
                             q + (sample * size.pixels + part.begin) * size.channels});
  });
}

void dequantize_image(const uint8_t* q, const ImageSize& size, bool planes, float scale, int32_t zero_point,
                      float* x, int threads) {
  const KernelTable& kernels = active_kernels();
  if (!planes) {
    const int64_t all = size.batch * size.channels * size.pixels;
    run_parallel(threads_for(size, threads), [&](int thread, int count) {
      const Share part = share_of(all, kPixelGrain, thread, count);
      kernels.dequantize_plain({q + part.begin, part.end - part.begin, scale, zero_point, x + part.begin});
    });
    return;
  }
  for_each_part(size, threads, [&](int64_t sample, const Share& part) {
    kernels.dequantize_planes({q + (sample * size.pixels + part.begin) * size.channels, part.end - part.begin,
                               size.channels, scale, zero_point,
                               x + sample * size.channels * size.pixels + part.begin, size.pixels});
  });
}

}  // namespace intaglio
