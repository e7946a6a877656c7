// Threaded driver of pooling over u8 images of up to three axes (docs/numerics.md, "Static quantization").
#pragma once

#include <array>
#include <vector>

#include "../kernels/kernels.h"

namespace intaglio {

// The windows along one axis: `kernel` taps `dilation` apart, `stride` from one window to the next, the first
// beginning at -padding; or, where `adaptive`, window i from floor(i * size / out) to ceil((i + 1) * size /
// out).
struct PoolAxis {
  int64_t size, out, kernel, stride, padding, dilation;
  bool adaptive;
};

struct PoolShape {
  int64_t batch, channels;
  std::array<PoolAxis, 3> axes;
  bool average;
  bool count_padding;        // averages: what a window counts includes the padding
  int64_t divisor_override;  // averages: what each sum is divided by, or 0
  OutputRange range;         // averages
};

// What follows from the shape alone is worked out once. A plan may run in several threads at once, each with
// scratch of its own. std::invalid_argument where a sum could exceed int32.
class PoolPlan {
 public:
  explicit PoolPlan(const PoolShape& shape);
  // What `run` needs, 64-byte aligned, with up to so many threads.
  int64_t scratch_bytes(int threads) const;
  // x is (batch, *size, channels), y is (batch, *out, channels).
  void run(const uint8_t* x, uint8_t* y, uint8_t* scratch, int threads) const;

 private:
  // The taps of a window that lie in the image, and how many positions it counts.
  struct Window {
    int64_t first, taps, positions;
  };
  static Window window_of(const PoolAxis& axis, int64_t i, bool count_padding);
  void run_rows(const uint8_t* x, uint8_t* y, int64_t begin, int64_t end, float* inverse) const;
  void find_inverses(int64_t positions, float* inverse) const;
  void check_sums() const;

  PoolShape shape_;
  std::array<std::vector<Window>, 3> windows_;
  std::vector<int64_t> first_, taps_;
  int64_t pixel_, row_, plane_, sample_;  // bytes
};

// A plan for one call.
void pool(const PoolShape& shape, const uint8_t* x, uint8_t* y, int threads);

}  // namespace intaglio
