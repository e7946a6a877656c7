// Threaded drivers of elementwise arithmetic on u8: how values, rows and groups are shared out.
#include "elementwise.h"

#include "parallel.h"

namespace intaglio {
namespace {

// Below this many bytes a second thread costs more than it brings: arithmetic, tables and copies.
constexpr int64_t kSmallestParallelPairs = 1 << 15;
constexpr int64_t kSmallestParallelBytes = 1 << 17;
constexpr int64_t kGrain = 64;

}  // namespace

void look_up_bytes(const uint8_t* x, int64_t count, const uint8_t* table, uint8_t* y, bool permutes_bytes,
                   int threads) {
  const KernelTable& kernels = active_kernels();
  run_parallel(count < kSmallestParallelBytes ? 1 : threads, [&](int thread, int threads_running) {
    const Share part = share_of(count, kGrain, thread, threads_running);
    kernels.look_up_bytes(
        {x + part.begin, 0, 1, part.end - part.begin, table, y + part.begin, 0, permutes_bytes});
  });
}

void combine_pairs(const PairCall& call) {
  const KernelTable& kernels = active_kernels();
  PairArgs args{};
  args.single = call.single;
  args.zero_point_a = call.zero_point_a;
  args.zero_point_b = call.zero_point_b;
  args.range = call.range;
  const bool add = call.op == PairOp::kAdd;
  args.factor_a =
      static_cast<float>(add ? call.scale_a / call.scale : call.scale_a * call.scale_b / call.scale);
  args.factor_b = static_cast<float>(call.scale_b / call.scale);
  const int64_t all = call.groups * call.rows * call.cols;
  const bool flat = call.single == SingleRow::kNone;
  // Where no row repeats, groups and rows are one run.
  const int64_t rows = flat ? all : call.rows, cols = flat ? 1 : call.cols;
  const int64_t items = flat ? all : call.groups * call.rows;
  run_parallel(all < kSmallestParallelPairs ? 1 : call.threads, [&](int thread, int count) {
    const Share share = share_of(items, flat ? kGrain : 1, thread, count);
    PairArgs part = args;
    for (int64_t i = share.begin; i < share.end; i += part.rows) {
      const int64_t group = rows == 0 ? 0 : i / rows;
      part.rows = std::min(share.end, (group + 1) * rows) - i;
      part.cols = cols;
      const int64_t row = call.shared ? 0 : group * cols;
      part.a = call.a + (call.single == SingleRow::kA ? row : i * cols);
      part.b = call.b + (call.single == SingleRow::kB ? row : i * cols);
      part.y = call.y + i * cols;
      add ? kernels.add_pairs(part) : kernels.mul_pairs(part);
    }
  });
}

void concatenate_rows(const ConcatenateCall& call) {
  const KernelTable& kernels = active_kernels();
  const bool permutes = cpu_permutes_bytes();
  int64_t width = 0;
  for (const int64_t cols : call.cols) width += cols;
  run_parallel(call.rows * width < kSmallestParallelBytes ? 1 : call.threads, [&](int thread, int count) {
    const Share rows = share_of(call.rows, 1, thread, count);
    uint8_t* y = call.y + rows.begin * width;
    for (size_t j = 0; j < call.parts.size(); ++j) {
      const int64_t cols = call.cols[j];
      kernels.look_up_bytes({call.parts[j] + rows.begin * cols, cols, rows.end - rows.begin, cols,
                             call.tables[j], y, width, permutes});
      y += cols;
    }
  });
}

}  // namespace intaglio
