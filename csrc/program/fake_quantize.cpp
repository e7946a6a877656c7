// Threaded drivers of fake quantization in training: see fake_quantize.h.
#include "fake_quantize.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "../kernels/row_params.h"
#include "parallel.h"

namespace intaglio {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Below this many values a second thread costs more than it brings.
constexpr int64_t kSmallestParallelValues = 1 << 15;
// Values that a thread takes at once: whole vectors, and whole bytes of a mask.
constexpr int64_t kGrain = 64;
// Values that stay in L2 between the two passes of an observer.
constexpr int64_t kBlock = 1 << 14;
// Values whose gradients are summed by one call of the kernel, a multiple of kSumBlock: the order of sums
// must not depend on threads.
constexpr int64_t kSumChunk = 1 << 14;
static_assert(kSumChunk % kSumBlock == 0 && kSumChunk % kGrain == 0, "whole blocks");

int threads_for(int64_t values, int threads) { return values < kSmallestParallelValues ? 1 : threads; }

FakeQuantizeValuesArgs part_of(const FakeQuantizeValuesArgs& call, int64_t begin, int64_t end) {
  return {call.x + begin, end - begin, call.quantization, call.y + begin, call.mask + begin / 8};
}

// ---- Ranges -----------------------------------------------------------------------------------------

struct Limits {
  float least, largest;
};

float clamp(float v, float low, float high) { return std::min(std::max(v, low), high); }

// Of no values inf and -inf; NaN where any value is.
Limits find_limits(const float* x, int64_t count, int threads) {
  const KernelTable& kernels = active_kernels();
  Limits all{kInfinity, -kInfinity};
  if (threads <= 1) {
    kernels.find_extremes({x, count, &all.least, &all.largest});
    return all;
  }
  Scratch scratch(aligned_size(sizeof(Limits)) * threads);
  Limits* parts = scratch.take<Limits>(threads);
  std::fill_n(parts, threads, all);
  run_parallel(threads, [&](int thread, int running) {
    const Share part = share_of(count, kGrain, thread, running);
    kernels.find_extremes(
        {x + part.begin, part.end - part.begin, &parts[thread].least, &parts[thread].largest});
  });
  for (int i = 0; i < threads; ++i) {
    if (std::isnan(parts[i].least)) return parts[i];
    all = {std::min(all.least, parts[i].least), std::max(all.largest, parts[i].largest)};
  }
  return all;
}

// What `choose_qparams` of intaglio/qparams.py computes, in float32; and the integers' limits.
struct Grid {
  int32_t quant_min, quant_max;
  int32_t reach, middle;  // of a symmetric one

  explicit Grid(const ObservedCall& call) : quant_min(call.quant_min), quant_max(call.quant_max) {
    if (!call.symmetric) return;
    const bool has_sign = quant_min < 0;
    reach = has_sign ? std::min(-quant_min, quant_max) : (quant_max - quant_min) / 2;
    middle = has_sign ? 0 : quant_max - reach;
    quant_min = middle - reach;
    quant_max = middle + reach;
  }
  void choose(const ObservedCall& call) const {
    const float low = std::min(*call.min_val, 0.0f), high = std::max(*call.max_val, 0.0f);
    const int32_t steps = call.symmetric ? reach : quant_max - quant_min;
    const auto smallest = static_cast<float>(std::max<double>(kSmallestRange, call.eps * steps));
    const float span = std::max(call.symmetric ? std::max(-low, high) : high - low, smallest);
    const auto count = static_cast<float>(steps);
    *call.scale = span / count;
    *call.zero_point =
        call.symmetric ? middle : quant_min + static_cast<int32_t>(std::nearbyint(-low * (count / span)));
  }
};

// Whether what was found is finite and moved the range.
bool move_range(const ObservedCall& call, const Limits& found) {
  if (call.count == 0) return true;
  const float least = clamp(found.least, call.low, call.high);
  const float largest = clamp(found.largest, call.low, call.high);
  if (std::isnan(found.least) || !std::isfinite(largest - least)) return false;
  const bool unseen = *call.min_val > *call.max_val;
  const auto move = [&](float* held, float value) {
    *held = unseen ? value : *held + call.averaging_constant * (value - *held);
  };
  move(call.min_val, least);
  move(call.max_val, largest);
  return true;
}

}  // namespace

// ---- Forward ------------------------------------------------------------------------------------------

void fake_quantize_values(const FakeQuantizeValuesArgs& call, int threads) {
  const KernelTable& kernels = active_kernels();
  run_parallel(threads_for(call.count, threads), [&](int thread, int running) {
    const Share share = share_of(call.count, kGrain, thread, running);
    kernels.fake_quantize_values(part_of(call, share.begin, share.end));
  });
}

bool fake_quantize_observed(const ObservedCall& call, int threads) {
  const KernelTable& kernels = active_kernels();
  threads = threads_for(call.count, threads);
  const bool is_finite = move_range(call, find_limits(call.x, call.count, threads));
  const Grid grid(call);
  if (!(*call.min_val > *call.max_val)) grid.choose(call);
  if (call.y == nullptr) return is_finite;
  const FakeQuantizeValuesArgs all{
      call.x,
      call.count,
      {*call.scale, static_cast<float>(*call.zero_point), static_cast<float>(grid.quant_min),
       static_cast<float>(grid.quant_max), call.low, call.high},
      call.y,
      call.mask};
  run_parallel(threads, [&](int thread, int running) {
    const Share share = share_of(call.count, kGrain, thread, running);
    // From the end on: what the first pass read last is still in the cache.
    for (int64_t end = share.end; end > share.begin;) {
      const int64_t begin = std::max(share.begin, (end - 1) / kBlock * kBlock);
      kernels.fake_quantize_values(part_of(all, begin, end));
      end = begin;
    }
  });
  return is_finite;
}

int64_t fake_quantize_weight(const FakeQuantizeWeightArgs& call, int threads) {
  const KernelTable& kernels = active_kernels();
  threads = threads_for(call.rows * call.cols, threads);
  Scratch scratch(aligned_size(8 * int64_t{threads}));
  int64_t* bad = scratch.take<int64_t>(threads);
  std::fill_n(bad, threads, int64_t{-1});
  run_parallel(threads, [&](int thread, int running) {
    const Share rows = share_of(call.rows, 1, thread, running);
    FakeQuantizeWeightArgs part = call;
    part.w += rows.begin * call.cols;
    part.y += rows.begin * call.cols;
    part.rows = rows.end - rows.begin;
    part.min_val += rows.begin;
    part.max_val += rows.begin;
    part.scale += rows.begin;
    part.bad_row = bad + thread;
    kernels.fake_quantize_weight(part);
    if (bad[thread] >= 0) bad[thread] += rows.begin;
  });
  for (int i = 0; i < threads; ++i)
    if (bad[i] >= 0) return bad[i];
  return -1;
}

void fake_quantize_rows(const FakeQuantizeRowsArgs& call, int threads) {
  const KernelTable& kernels = active_kernels();
  // Rows whose bits are whole bytes together.
  const int64_t grain = 8 / std::gcd<int64_t>(call.cols, 8);
  run_parallel(threads_for(call.rows * call.cols, threads), [&](int thread, int running) {
    const Share rows = share_of(call.rows, grain, thread, running);
    const int64_t first = rows.begin * call.cols;
    FakeQuantizeRowsArgs part = call;
    part.w += first;
    part.y += first;
    part.mask += (first + 7) / 8;  // rounded for the empty share at the end of the tensor
    part.rows = rows.end - rows.begin;
    part.scale += rows.begin;
    part.zero_point += rows.begin;
    kernels.fake_quantize_rows(part);
  });
}

// ---- Backward -----------------------------------------------------------------------------------------

void apply_mask(const ApplyMaskArgs& call, int threads) {
  const KernelTable& kernels = active_kernels();
  run_parallel(threads_for(call.count, threads), [&](int thread, int running) {
    const Share part = share_of(call.count, kGrain, thread, running);
    kernels.apply_mask({call.grad + part.begin, call.mask + part.begin / 8, part.end - part.begin,
                        call.grad_x + part.begin});
  });
}

void learned_gradients(const LearnedGradientsCall& call, int threads) {
  const KernelTable& kernels = active_kernels();
  const int64_t chunks = (call.cols + kSumChunk - 1) / kSumChunk, all = call.rows * chunks;
  Scratch scratch(aligned_size(16 * all));
  double* sums = scratch.take<double>(2 * all);
  run_parallel(threads_for(call.rows * call.cols, threads), [&](int thread, int running) {
    const Share share = share_of(all, 1, thread, running);
    for (int64_t i = share.begin; i < share.end; ++i) {
      const int64_t row = i / chunks, first = i % chunks * kSumChunk, at = row * call.cols + first;
      kernels.learned_gradients(
          {call.grad + at,
           call.x + at,
           std::min(kSumChunk, call.cols - first),
           {call.scale[row], call.zero_point[row], call.quant_min, call.quant_max, call.low, call.high},
           call.grad_x + at,
           sums + 2 * i});
    }
  });
  for (int64_t row = 0; row < call.rows; ++row) {
    double scale = 0.0, zero_point = 0.0;
    for (int64_t i = row * chunks; i < (row + 1) * chunks; ++i) {
      scale += sums[2 * i];
      zero_point += sums[2 * i + 1];
    }
    call.grad_scale[row] = static_cast<float>(scale);
    call.grad_zero_point[row] = static_cast<float>(zero_point);
  }
}

}  // namespace intaglio
