// How the rows of a product are blocked, shared out over threads and finished.
#include "rows.h"

#include <stdexcept>

#include "../kernels/row_params.h"
#include "parallel.h"

namespace intaglio {
namespace {

// Floats, or quantized rows, of a block: what of it is read again comes from L2, most of it, and each block
// reads all of the weights, which is dearer where they come from memory.
constexpr int64_t kBlockBytes = 640 * 1024;
// Rows of a block come in multiples of the first, and where rows are parted, of the second.
constexpr int64_t kBlockGrain = 24, kRowGrain = 8;
// Below this many multiply-adds, or floats, a second thread costs more than it brings.
constexpr int64_t kSmallestParallelWork = 1'500'000;
constexpr int64_t kSmallestParallelValues = 1 << 15;
// A thread's own rows must be enough to repay reading all of the weights.
constexpr int64_t kSmallestRowShare = 24;

int64_t block_rows(int64_t m, int64_t n, int64_t k) {
  const int64_t row_bytes = std::max<int64_t>(n * 4, k);
  return std::min(m, std::max(kBlockGrain, kBlockBytes / row_bytes / kBlockGrain * kBlockGrain));
}

// What a block needs beside its operands.
struct Workspace {
  struct Sizes {
    int64_t q_rows, k_padded;  // rows that are quantized here
    int64_t floats;            // of products that do not end where they are computed
    int64_t row;               // floats of a row, for each thread
    int64_t gemm_bytes;

    int64_t bytes() const {
      return aligned_size(q_rows * k_padded) + 2 * aligned_size(q_rows * 4) + aligned_size(floats * 4) +
             aligned_size(row * 4) + aligned_size(gemm_bytes);
    }
  };
  uint8_t* q;
  float* scale;
  int32_t* zero_point;
  float* floats;
  float* row;
  uint8_t* gemm;

  Workspace(uint8_t* at, const Sizes& sizes) {
    const auto take = [&at](int64_t bytes) {
      uint8_t* part = at;
      at += aligned_size(bytes);
      return part;
    };
    q = take(sizes.q_rows * sizes.k_padded);
    scale = reinterpret_cast<float*>(take(sizes.q_rows * 4));
    zero_point = reinterpret_cast<int32_t*>(take(sizes.q_rows * 4));
    floats = reinterpret_cast<float*>(take(sizes.floats * 4));
    row = reinterpret_cast<float*>(take(sizes.row * 4));
    gemm = take(sizes.gemm_bytes);
  }
};

template <class T>
T* row_of(T* data, int64_t row, int64_t stride) {
  return data == nullptr ? nullptr : data + row * stride;
}

// Whether nothing follows the product, which then goes straight to where it ends.
bool ends_with_product(const RowsCall& call) {
  return call.function == Function::kNone && call.residual == nullptr && call.norm == Norm::kNone &&
         call.output.q == nullptr && (call.sum.data == nullptr) != (call.y.data == nullptr);
}

FloatRows end_of_product(const RowsCall& call, int64_t row) {
  const FloatRows& to = call.y.data != nullptr ? call.y : call.sum;
  return {row_of(to.data, row, to.stride), to.stride};
}

void multiply(const RowsCall& call, const QuantizedRows& a, int64_t rows, const Share& panels,
              const FloatRows& to, uint8_t* scratch) {
  GemmArgs args{};
  args.a = a.q;
  args.a_stride = a.stride;
  args.m = rows;
  args.packed = call.packed;
  args.panel_begin = panels.begin;
  args.panel_end = panels.end;
  args.row_scale = a.scale;
  args.row_zero_point = a.zero_point;
  args.row_param_stride = a.param_stride;
  args.c = to.data;
  args.c_stride = to.stride;
  args.scratch = scratch;
  active_kernels().gemm(args);
}

QuantizedRows from_row(const QuantizedRows& rows, int64_t row) {
  return {rows.q + row * rows.stride, rows.stride, rows.scale + row * rows.param_stride,
          rows.zero_point + row * rows.param_stride, rows.param_stride};
}

// Rows row..row + rows - 1 of x, quantized per row.
void quantize(const RowsCall& call, int64_t row, int64_t rows, const QuantizedRows& to) {
  active_kernels().quantize_rows(
      {call.x + row * call.x_stride, call.x_stride, rows, call.k, to.q, to.stride, to.scale, to.zero_point});
}

// All of x with the parameters of its whole range.
void quantize_tensor(const RowsCall& call, const QuantizedRows& to) {
  const KernelTable& kernels = active_kernels();
  float lo = 0.0f, hi = 0.0f;
  for (int64_t r = 0; r < call.m; ++r) {
    float row_lo, row_hi;
    kernels.find_range({call.x + r * call.x_stride, call.k, &row_lo, &row_hi});
    lo = row_lo < lo || row_lo != row_lo ? row_lo : lo;
    hi = row_hi > hi || row_hi != row_hi ? row_hi : hi;
  }
  const RowParams params = choose_row_params(lo, hi);
  *to.scale = params.scale;
  *to.zero_point = params.zero_point;
  for (int64_t r = 0; r < call.m; ++r) {
    uint8_t* q = to.q + r * to.stride;
    kernels.quantize_values({call.x + r * call.x_stride, call.k, params.inverse_scale, params.zero_point, q});
    for (int64_t i = call.k; i < to.stride; ++i) q[i] = 0;
  }
}

// Each thread takes its own rows through the whole chain, block by block.
void run_by_rows(const RowsCall& call, const PackedLayout& layout, int threads) {
  const bool is_plain = ends_with_product(call);
  const int64_t n = layout.n, k_padded = layout.k_padded;
  const int64_t most =
      block_rows(call.m, is_plain ? 1 : n, k_padded);  // what goes elsewhere need not stay near
  const Workspace::Sizes sizes{call.x == nullptr ? 0 : most, k_padded, is_plain ? 0 : most * n, n,
                               active_kernels().gemm_scratch_bytes(most, k_padded)};
  const int64_t bytes = sizes.bytes();
  Scratch scratch(bytes * threads);
  uint8_t* const base = scratch.take<uint8_t>(bytes * threads);
  run_parallel(threads, [&](int thread, int count) {
    const Workspace work(base + bytes * thread, sizes);
    const Share rows = share_of(call.m, kRowGrain, thread, count);
    const int64_t blocks = (rows.end - rows.begin + most - 1) / most;
    for (int64_t block = 0; block < blocks; ++block) {  // of even height
      const Share part =
          share_of(rows.end - rows.begin, kRowGrain, static_cast<int>(block), static_cast<int>(blocks));
      const int64_t row = rows.begin + part.begin, m = part.end - part.begin;
      QuantizedRows a{work.q, k_padded, work.scale, work.zero_point, 1};
      if (call.x == nullptr)
        a = from_row(call.input, row);
      else
        quantize(call, row, m, a);
      const FloatRows to = is_plain ? end_of_product(call, row) : FloatRows{work.floats, n};
      multiply(call, a, m, {0, panels_of(layout)}, to, work.gemm);
      if (!is_plain) finish_block(call, row, m, n, to, work.row);
    }
  });
}

// Few rows: each thread multiplies its own panels of columns, and when all have, finishes its own rows.
void run_by_panels(const RowsCall& call, const PackedLayout& layout, int threads) {
  const int64_t n = layout.n, k_padded = layout.k_padded, most = block_rows(call.m, 1, k_padded);
  const bool is_plain = ends_with_product(call), per_row = call.granularity == Granularity::kPerRow;
  const int64_t gemm_bytes = aligned_size(active_kernels().gemm_scratch_bytes(most, k_padded));
  const Workspace::Sizes sizes{call.x == nullptr ? 0 : call.m, k_padded, is_plain ? 0 : call.m * n,
                               n * threads, gemm_bytes * threads};
  Scratch scratch(sizes.bytes());
  const Workspace work(scratch.take<uint8_t>(sizes.bytes()), sizes);
  QuantizedRows a{work.q, k_padded, work.scale, work.zero_point, per_row ? 1 : 0};
  if (call.x == nullptr)
    a = call.input;
  else
    per_row ? quantize(call, 0, call.m, a) : quantize_tensor(call, a);
  run_parallel(threads, [&](int thread, int count) {
    const Share panels = share_of(panels_of(layout), 1, thread, count);
    for (int64_t row = 0; row < call.m; row += most)
      multiply(call, from_row(a, row), std::min(most, call.m - row), panels,
               is_plain ? end_of_product(call, row) : FloatRows{work.floats + row * n, n},
               work.gemm + gemm_bytes * thread);
  });
  if (is_plain) return;
  run_parallel(call.m * n < kSmallestParallelValues ? 1 : threads, [&](int thread, int count) {
    const Share rows = share_of(call.m, 1, thread, count);
    finish_block(call, rows.begin, rows.end - rows.begin, n, {work.floats + rows.begin * n, n},
                 work.row + n * thread);
  });
}

void run_without_product(const RowsCall& call) {
  const int threads = call.m * call.k < kSmallestParallelValues ? 1 : call.threads;
  const int64_t bytes = aligned_size(call.k * 4);
  Scratch scratch(bytes * threads);
  uint8_t* const base = scratch.take<uint8_t>(bytes * threads);
  run_parallel(threads, [&](int thread, int count) {
    const Share rows = share_of(call.m, 1, thread, count);
    const FloatRows x{const_cast<float*>(call.x + rows.begin * call.x_stride), call.x_stride};
    finish_block(call, rows.begin, rows.end - rows.begin, call.k, x,
                 reinterpret_cast<float*>(base + bytes * thread));
  });
}

}  // namespace

void finish_block(const RowsCall& call, int64_t row, int64_t rows, int64_t n, const FloatRows& x,
                  float* scratch) {
  FinishRowsArgs args{};
  args.x = x.data;
  args.x_stride = x.stride;
  args.rows = rows;
  args.cols = n;
  args.function = call.function;
  args.lower = call.lower;
  args.upper = call.upper;
  args.residual = row_of(call.residual, row, call.residual_stride);
  args.residual_stride = call.residual_stride;
  args.sum = row_of(call.sum.data, row, call.sum.stride);
  args.sum_stride = call.sum.stride;
  args.norm = call.norm;
  args.weight = call.weight;
  args.bias = call.bias;
  args.epsilon = call.epsilon;
  args.y = row_of(call.y.data, row, call.y.stride);
  args.y_stride = call.y.stride;
  args.q = row_of(call.output.q, row, call.output.stride);
  args.q_stride = call.output.stride;
  args.scale = row_of(call.output.scale, row, 1);
  args.zero_point = row_of(call.output.zero_point, row, 1);
  args.scratch = scratch;
  active_kernels().finish_rows(args);
}

void run_rows(const RowsCall& call) {
  if (call.x == nullptr && (call.packed == nullptr || call.input.q == nullptr) && call.m > 0)
    throw std::invalid_argument("rows must be float32, or quantized and multiplied");
  if (call.packed == nullptr) {
    if (call.m > 0) run_without_product(call);
    return;
  }
  const PackedLayout layout = checked_layout(call.packed);
  if (layout.k != call.k)
    throw std::invalid_argument("the packed weight has another number of input features");
  if (call.m <= 0 || layout.n <= 0) return;
  const int threads = call.m * layout.n * layout.k < kSmallestParallelWork ? 1 : call.threads;
  const bool needs_whole_range = call.x != nullptr && call.granularity == Granularity::kPerTensor;
  if (!needs_whole_range && (threads == 1 || call.m >= kSmallestRowShare * threads))
    run_by_rows(call, layout, threads);
  else
    run_by_panels(call, layout, threads);
}

}  // namespace intaglio
