// Threaded driver of interpolation: rows of outputs shared out.
#include "resize.h"

#include <cstring>
#include <vector>

#include "parallel.h"

namespace intaglio {
namespace {

// Below this many bytes written a second thread costs more than it brings.
constexpr int64_t kSmallestParallelBytes = 1 << 15;

class Resizing {
 public:
  explicit Resizing(const ResizeCall& call)
      : call_(call),
        row_(call.axes[2].size * call.channels),
        plane_(call.axes[1].size * row_),
        sample_(call.axes[0].size * plane_),
        taps_(static_cast<size_t>(call.axes[2].out), 1) {
    for (int64_t i = 0; i < call.axes[2].out; ++i) {
      left_.push_back(call.axes[2].first[i] * call.channels);
      right_.push_back(call.axes[2].second[i] * call.channels);
    }
  }

  int64_t rows() const { return call_.batch * call_.axes[0].out * call_.axes[1].out; }

  void run(int64_t begin, int64_t end) const {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t y = i % call_.axes[1].out, z = i / call_.axes[1].out % call_.axes[0].out;
      const uint8_t* sample = call_.x + i / call_.axes[1].out / call_.axes[0].out * sample_;
      const int64_t bytes = call_.axes[2].out * call_.channels;
      uint8_t* to = call_.y + i * bytes;
      if (call_.blend)
        blend(sample, z, y, to);
      else if (i > begin && y > 0 && call_.axes[1].first[y] == call_.axes[1].first[y - 1])
        std::memcpy(to, to - bytes, static_cast<size_t>(bytes));  // the row before, once more
      else
        copy(sample, z, y, to);
    }
  }

 private:
  // A window of one tap: its largest value is the pixel.
  void copy(const uint8_t* sample, int64_t z, int64_t y, uint8_t* to) const {
    PoolRowArgs args{};
    args.x = sample + call_.axes[0].first[z] * plane_ + call_.axes[1].first[y] * row_;
    args.x_end = call_.x + call_.batch * sample_;
    args.planes = args.rows = 1;
    args.first = left_.data();
    args.taps = taps_.data();
    args.columns = call_.axes[2].out;
    args.channels = call_.channels;
    args.y = to;
    active_kernels().max_pool_row(args);
  }

  void blend(const uint8_t* sample, int64_t z, int64_t y, uint8_t* to) const {
    const ResizeAxis &depth = call_.axes[0], &height = call_.axes[1];
    const uint8_t* front = sample + depth.first[z] * plane_;
    const uint8_t* back = sample + depth.second[z] * plane_;
    BlendRowArgs args{};
    args.row[0] = front + height.first[y] * row_;
    args.row[1] = front + height.second[y] * row_;
    if (depth.size > 1 || depth.out > 1) {
      args.row[2] = back + height.first[y] * row_;
      args.row[3] = back + height.second[y] * row_;
    }
    args.x_end = call_.x + call_.batch * sample_;
    args.left = left_.data();
    args.right = right_.data();
    args.weight_x = call_.axes[2].weight;
    args.weight_y = height.weight[y];
    args.weight_z = depth.weight[z];
    args.columns = call_.axes[2].out;
    args.channels = call_.channels;
    args.range = call_.range;
    args.y = to;
    active_kernels().blend_row(args);
  }

  const ResizeCall& call_;
  int64_t row_, plane_, sample_;
  std::vector<int64_t> taps_, left_, right_;
};

}  // namespace

void resize(const ResizeCall& call) {
  const Resizing resizing(call);
  const int64_t bytes = resizing.rows() * call.axes[2].out * call.channels;
  run_parallel(bytes < kSmallestParallelBytes ? 1 : call.threads, [&](int thread, int count) {
    const Share rows = share_of(resizing.rows(), 1, thread, count);
    resizing.run(rows.begin, rows.end);
  });
}

}  // namespace intaglio
