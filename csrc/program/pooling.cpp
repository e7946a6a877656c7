// Threaded driver of pooling: windows of each axis, and rows of outputs shared out.
#include "pooling.h"

#include <limits>
#include <stdexcept>
#include <vector>

#include "parallel.h"

namespace intaglio {
namespace {

// Below this many bytes read a second thread costs more than it brings.
constexpr int64_t kSmallestParallelBytes = 1 << 16;

// The taps of a window that lie in the image, and how many positions it counts.
struct Window {
  int64_t first, taps, positions;
};

Window window_of(const PoolAxis& axis, int64_t i, bool count_padding) {
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

std::vector<Window> windows_of(const PoolAxis& axis, bool count_padding) {
  std::vector<Window> windows;
  windows.reserve(static_cast<size_t>(axis.out));
  for (int64_t i = 0; i < axis.out; ++i) windows.push_back(window_of(axis, i, count_padding));
  return windows;
}

class Pooling {
 public:
  explicit Pooling(const PoolCall& call) : call_(call) {
    for (size_t a = 0; a < 3; ++a) windows_[a] = windows_of(call.axes[a], call.count_padding);
    pixel_ = call.channels;
    row_ = call.axes[2].size * pixel_;
    plane_ = call.axes[1].size * row_;
    sample_ = call.axes[0].size * plane_;
    for (const Window& window : windows_[2]) {
      first_.push_back(window.first * pixel_);
      taps_.push_back(window.taps);
    }
    check_sums();
  }

  int64_t rows() const { return call_.batch * call_.axes[0].out * call_.axes[1].out; }
  int64_t bytes() const { return call_.batch * sample_; }

  // Rows of outputs begin..end-1; `inverse` has room for a row's.
  void run(int64_t begin, int64_t end, float* inverse) const {
    const KernelTable& kernels = active_kernels();
    int64_t counted = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t y = i % call_.axes[1].out, z = i / call_.axes[1].out % call_.axes[0].out;
      const Window& planes = windows_[0][static_cast<size_t>(z)];
      const Window& lines = windows_[1][static_cast<size_t>(y)];
      const uint8_t* sample = call_.x + i / call_.axes[1].out / call_.axes[0].out * sample_;
      PoolRowArgs args{};
      args.x = sample + planes.first * plane_ + lines.first * row_;
      args.x_end = call_.x + call_.batch * sample_;
      args.planes = planes.taps;
      args.rows = lines.taps;
      args.plane_step = call_.axes[0].dilation * plane_;
      args.row_step = call_.axes[1].dilation * row_;
      args.tap_step = call_.axes[2].dilation * pixel_;
      args.first = first_.data();
      args.taps = taps_.data();
      args.columns = call_.axes[2].out;
      args.channels = call_.channels;
      args.range = call_.range;
      args.y = call_.y + i * args.columns * args.channels;
      if (!call_.average) {
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

 private:
  void find_inverses(int64_t positions, float* inverse) const {
    for (size_t i = 0; i < windows_[2].size(); ++i) {
      const int64_t all = positions * windows_[2][i].positions;
      const int64_t divisor =
          call_.divisor_override != 0 ? call_.divisor_override : std::max<int64_t>(1, all);
      inverse[i] = 1.0f / static_cast<float>(divisor);
    }
  }

  void check_sums() const {
    if (!call_.average) return;
    int64_t most = 255;
    for (const std::vector<Window>& windows : windows_) {
      int64_t taps = 0;
      for (const Window& window : windows) taps = std::max(taps, window.taps);
      if (taps > 0 && most > std::numeric_limits<int32_t>::max() / taps)
        throw std::invalid_argument("a window has more than 8421504 values, whose sum may not fit 32 bits");
      most *= std::max<int64_t>(1, taps);
    }
  }

  const PoolCall& call_;
  std::array<std::vector<Window>, 3> windows_;
  std::vector<int64_t> first_, taps_;
  int64_t pixel_, row_, plane_, sample_;
};

}  // namespace

void pool(const PoolCall& call) {
  const Pooling pooling(call);
  const int64_t columns = call.axes[2].out;
  Scratch scratch(aligned_size(columns * 4) * call.threads);
  float* inverses = scratch.take<float>(columns * call.threads);
  run_parallel(pooling.bytes() < kSmallestParallelBytes ? 1 : call.threads, [&](int thread, int count) {
    const Share rows = share_of(pooling.rows(), 1, thread, count);
    pooling.run(rows.begin, rows.end, inverses + columns * thread);
  });
}

}  // namespace intaglio
