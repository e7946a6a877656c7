// Threaded drivers of normalization and softmax: rows, samples and pixels shared out.
#include "normalize.h"

#include <stdexcept>
#include <string>
#include <vector>

#include "../kernels/normalization.h"
#include "parallel.h"

namespace intaglio {
namespace {

constexpr int64_t kMostValues = int64_t{1} << 23;
// Below this many values a second thread costs more than it brings.
constexpr int64_t kSmallestParallelValues = 1 << 15;
constexpr int64_t kMostRows = 32768;  // of one call of column_moments

void check_count(int64_t count) {
  if (count > kMostValues)
    throw std::invalid_argument(std::to_string(count) +
                                " values are too many to normalize together: at most " +
                                std::to_string(kMostValues));
}

int threads_for(int64_t values, int threads) { return values < kSmallestParallelValues ? 1 : threads; }

// The moments of each channel of one sample, over the pixels of a share.
void add_moments(const NormalizeGroupsCall& call, const uint8_t* x, const Share& pixels, int64_t* sums) {
  const KernelTable& kernels = active_kernels();
  const int64_t channels = call.channels;
  Scratch scratch(2 * aligned_size(channels * 4));
  auto* sum = scratch.take<int32_t>(channels);
  auto* square = scratch.take<int32_t>(channels);
  for (int64_t p = pixels.begin; p < pixels.end; p += kMostRows) {
    kernels.column_moments({x + p * channels, std::min(kMostRows, pixels.end - p), channels, sum, square});
    for (int64_t c = 0; c < channels; ++c) {
      sums[c] += sum[c];
      sums[channels + c] += square[c];
    }
  }
}

}  // namespace

void normalize_rows(const NormalizeRowsArgs& call, int threads) {
  check_count(call.cols);
  const KernelTable& kernels = active_kernels();
  run_parallel(threads_for(call.rows * call.cols, threads), [&](int thread, int count) {
    const Share rows = share_of(call.rows, 1, thread, count);
    NormalizeRowsArgs part = call;
    part.x += rows.begin * call.cols;
    part.y += rows.begin * call.cols;
    part.rows = rows.end - rows.begin;
    kernels.normalize_rows(part);
  });
}

void normalize_groups(const NormalizeGroupsCall& call) {
  const int64_t channels = call.channels, width = channels / call.groups, pixels = call.pixels;
  check_count(width * pixels);
  const int threads = threads_for(pixels * channels, call.threads);
  std::vector<int64_t> sums(static_cast<size_t>(2 * channels * threads));
  std::vector<float> gains(static_cast<size_t>(2 * channels));
  for (int64_t s = 0; s < call.batch; ++s) {
    const uint8_t* x = call.x + s * pixels * channels;
    std::fill(sums.begin(), sums.end(), 0);
    run_parallel(threads, [&](int thread, int count) {
      add_moments(call, x, share_of(pixels, 1, thread, count), sums.data() + 2 * channels * thread);
    });
    for (int64_t g = 0; g < channels; g += width) {
      int64_t sum = 0, square = 0;
      for (int thread = 0; thread < threads; ++thread)
        for (int64_t c = g; c < g + width; ++c) {
          sum += sums[static_cast<size_t>(2 * channels * thread + c)];
          square += sums[static_cast<size_t>(2 * channels * thread + channels + c)];
        }
      const Normalization group = choose_normalization(width * pixels, sum, square, call.epsilon);
      std::fill_n(gains.begin() + g, width, group.gain);
      std::fill_n(gains.begin() + channels + g, width, group.shift);
    }
    run_parallel(threads, [&](int thread, int count) {
      const Share rows = share_of(pixels, 1, thread, count);
      active_kernels().normalize_columns({x + rows.begin * channels, rows.end - rows.begin, channels,
                                          gains.data(), gains.data() + channels, call.multiplier, call.offset,
                                          call.range, call.y + (s * pixels + rows.begin) * channels});
    });
  }
}

void softmax_rows(const SoftmaxRowsArgs& call, int threads) {
  const KernelTable& kernels = active_kernels();
  run_parallel(threads_for(call.rows * call.cols, threads), [&](int thread, int count) {
    const Share rows = share_of(call.rows, 1, thread, count);
    SoftmaxRowsArgs part = call;
    part.x += rows.begin * call.cols;
    part.y += rows.begin * call.cols;
    part.rows = rows.end - rows.begin;
    part.permutes_bytes = cpu_permutes_bytes();
    kernels.softmax_rows(part);
  });
}

}  // namespace intaglio
