// Threaded driver of pooling: windows of each axis, and rows of outputs shared out.
#include "pooling.h"

#include <limits>
#include <stdexcept>

#include "parallel.h"

namespace intaglio {
namespace {

// Below this many bytes read a second thread costs more than it brings.
constexpr int64_t kSmallestParallelBytes = 1 << 16;

}  // namespace

PoolPlan::Window PoolPlan::window_of(const PoolAxis& axis, int64_t i, bool count_padding) {
  if (axis.adaptive) {
    const int64_t begin = i * axis.size / axis.out, end = ((i + 1) * axis.size + axis.out - 1) / axis.out;
    return {begin, end - begin, end - begin};
  }
  const int64_t begin = i * axis.stride - axis.padding;
  const int64_t skipped = begin < 0 ? (-begin + axis.dilation - 1) / axis.dilation : 0;
  const int64_t first = begin + skipped * axis.dilation;
  const int64_t fitting = first < axis.size ? (axis.size - 1 - first) / axis.dilation + 1 : 0;
  const int64_t taps = std::max<int64_t>(0, std::min(axis.kernel - skipped, fitting));
  // Dilated windows are only ever those of the largest value, which count nothing.
  const int64_t bordered = std::min(begin + axis.kernel, axis.size + axis.padding) - begin;
  return {taps == 0 ? 0 : first, taps, count_padding ? bordered : taps};
}

PoolPlan::PoolPlan(const PoolShape& shape) : shape_(shape) {
  for (size_t a = 0; a < 3; ++a)
    for (int64_t i = 0; i < shape.axes[a].out; ++i)
      windows_[a].push_back(window_of(shape.axes[a], i, shape.count_padding));
  pixel_ = shape.channels;
  row_ = shape.axes[2].size * pixel_;
  plane_ = shape.axes[1].size * row_;
  sample_ = shape.axes[0].size * plane_;
  for (const Window& window : windows_[2]) {
    first_.push_back(window.first * pixel_);
    taps_.push_back(window.taps);
  }
  check_sums();
}

int64_t PoolPlan::scratch_bytes(int threads) const { return aligned_size(shape_.axes[2].out * 4) * threads; }

void PoolPlan::run(const uint8_t* x, uint8_t* y, uint8_t* scratch, int threads) const {
  const int64_t rows = shape_.batch * shape_.axes[0].out * shape_.axes[1].out;
  const int64_t each = scratch_bytes(1);
  run_parallel(shape_.batch * sample_ < kSmallestParallelBytes ? 1 : threads, [&](int thread, int count) {
    const Share share = share_of(rows, 1, thread, count);
    run_rows(x, y, share.begin, share.end, reinterpret_cast<float*>(scratch + each * thread));
  });
}

// Rows of outputs begin..end-1; `inverse` has room for a row's.
void PoolPlan::run_rows(const uint8_t* x, uint8_t* y, int64_t begin, int64_t end, float* inverse) const {
  const KernelTable& kernels = active_kernels();
  int64_t counted = -1;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t line = i % shape_.axes[1].out, z = i / shape_.axes[1].out % shape_.axes[0].out;
    const Window& planes = windows_[0][static_cast<size_t>(z)];
    const Window& lines = windows_[1][static_cast<size_t>(line)];
    const uint8_t* sample = x + i / shape_.axes[1].out / shape_.axes[0].out * sample_;
    PoolRowArgs args{};
    args.x = sample + planes.first * plane_ + lines.first * row_;
    args.x_end = x + shape_.batch * sample_;
    args.planes = planes.taps;
    args.rows = lines.taps;
    args.plane_step = shape_.axes[0].dilation * plane_;
    args.row_step = shape_.axes[1].dilation * row_;
    args.tap_step = shape_.axes[2].dilation * pixel_;
    args.first = first_.data();
    args.taps = taps_.data();
    args.columns = shape_.axes[2].out;
    args.channels = shape_.channels;
    args.range = shape_.range;
    args.y = y + i * args.columns * args.channels;
    if (!shape_.average) {
      kernels.max_pool_row(args);
      continue;
    }
    if (counted != planes.positions * lines.positions) {
      counted = planes.positions * lines.positions;
      find_inverses(counted, inverse);
    }
    args.inverse = inverse;
    kernels.average_pool_row(args);
  }
}

void PoolPlan::find_inverses(int64_t positions, float* inverse) const {
  for (size_t i = 0; i < windows_[2].size(); ++i) {
    const int64_t all = positions * windows_[2][i].positions;
    const int64_t divisor =
        shape_.divisor_override != 0 ? shape_.divisor_override : std::max<int64_t>(1, all);
    inverse[i] = 1.0f / static_cast<float>(divisor);
  }
}

void PoolPlan::check_sums() const {
  if (!shape_.average) return;
  int64_t most = 255;
  for (const std::vector<Window>& windows : windows_) {
    int64_t taps = 0;
    for (const Window& window : windows) taps = std::max(taps, window.taps);
    if (taps > 0 && most > std::numeric_limits<int32_t>::max() / taps)
      throw std::invalid_argument("a window has more than 8421504 values, whose sum may not fit 32 bits");
    most *= std::max<int64_t>(1, taps);
  }
}

void pool(const PoolShape& shape, const uint8_t* x, uint8_t* y, int threads) {
  const PoolPlan plan(shape);
  const int64_t bytes = plan.scratch_bytes(threads);
  Scratch scratch(bytes);
  plan.run(x, y, scratch.take<uint8_t>(bytes), threads);
}

}  // namespace intaglio
