// Threaded drivers of the int8 GEMM: how rows and panels are shared out, blocked and scratched.
#include "gemm.h"

#include <stdexcept>
#include <string>

#include "../kernels/row_params.h"
#include "parallel.h"

namespace intaglio {
namespace {

// Quantized rows that stay in L2 while every panel passes over them.
constexpr int64_t kBlockBytes = 384 * 1024;
// Below this many multiply-adds a second thread costs more than it brings.
constexpr int64_t kSmallestParallelWork = 1'500'000;
constexpr int64_t kSmallestParallelValues = 1 << 16;
// A thread's own rows must be enough to repay reading all of the weights.
constexpr int64_t kSmallestRowShare = 48;

int64_t block_rows(int64_t k_padded) { return std::max<int64_t>(48, kBlockBytes / k_padded / 48 * 48); }

// The panels that a call computes, and the columns that stand in them.
struct Columns {
  int64_t panel_begin, panel_end, first, count;
};

Columns columns_of(const LinearDynamicCall& call, const PackedLayout& layout) {
  const int64_t begin = call.panel_begin, end = call.panel_end < 0 ? panels_of(layout) : call.panel_end;
  if (begin < 0 || begin > end || end > panels_of(layout))
    throw std::invalid_argument("the packed weight has no such panels");
  return {begin, end, begin * layout.panel, std::min(layout.n, end * layout.panel) - begin * layout.panel};
}

GemmArgs plan(const LinearDynamicCall& call, int64_t param_stride) {
  GemmArgs args{};
  args.packed = call.packed;
  args.row_param_stride = param_stride;
  args.activation = call.activation;
  args.lower = call.lower;
  args.upper = call.upper;
  args.output = Output::kFloat;
  return args;
}

struct Workspace {
  uint8_t* q;
  float* scale;
  int32_t* zero_point;
  uint8_t* gemm;
};

Workspace take(Scratch& scratch, int64_t rows, int64_t k_padded, int64_t gemm_bytes) {
  return {scratch.take<uint8_t>(rows * k_padded), scratch.take<float>(rows), scratch.take<int32_t>(rows),
          scratch.take<uint8_t>(gemm_bytes)};
}

int64_t workspace_bytes(int64_t rows, int64_t k_padded, int64_t gemm_bytes) {
  return aligned_size(rows * k_padded) + 2 * aligned_size(rows * 4) + aligned_size(gemm_bytes);
}

// Rows are quantized and multiplied block by block, each thread its own rows: no waiting in between.
void linear_by_rows(const LinearDynamicCall& call, const PackedLayout& layout, const Columns& columns,
                    int threads) {
  const KernelTable& kernels = active_kernels();
  const int64_t most = std::min(call.m, block_rows(layout.k_padded));
  const int64_t gemm_bytes = kernels.gemm_scratch_bytes(most, layout.k_padded);
  const int64_t bytes = workspace_bytes(most, layout.k_padded, gemm_bytes);
  Scratch scratch(bytes * threads);
  uint8_t* const base = scratch.take<uint8_t>(bytes * threads);
  run_parallel(threads, [&](int thread, int count) {
    const Share rows = share_of(call.m, 24, thread, count);
    uint8_t* at = base + bytes * thread;
    uint8_t* q = at;
    auto* scale = reinterpret_cast<float*>(at += aligned_size(most * layout.k_padded));
    auto* zero_point = reinterpret_cast<int32_t*>(at += aligned_size(most * 4));
    uint8_t* gemm_scratch = at + aligned_size(most * 4);
    for (int64_t row = rows.begin; row < rows.end; row += most) {
      const int64_t m = std::min(most, rows.end - row);
      kernels.quantize_rows(
          {call.x + row * call.k, call.k, m, call.k, q, layout.k_padded, scale, zero_point});
      GemmArgs args = plan(call, 1);
      args.a = q;
      args.a_stride = layout.k_padded;
      args.m = m;
      args.panel_begin = columns.panel_begin;
      args.panel_end = columns.panel_end;
      args.row_scale = scale;
      args.row_zero_point = zero_point;
      args.c = call.y + row * columns.count - columns.first;
      args.c_stride = columns.count;
      args.scratch = gemm_scratch;
      kernels.gemm(args);
    }
  });
}

// All rows are quantized first, then each thread takes its own panels of columns.
void linear_by_panels(const LinearDynamicCall& call, const PackedLayout& layout, const Columns& columns,
                      int threads) {
  const KernelTable& kernels = active_kernels();
  const int64_t k_padded = layout.k_padded, most = std::min(call.m, block_rows(k_padded));
  const int64_t gemm_bytes = aligned_size(kernels.gemm_scratch_bytes(most, k_padded));
  Scratch scratch(workspace_bytes(call.m, k_padded, gemm_bytes * threads));
  const Workspace work = take(scratch, call.m, k_padded, gemm_bytes * threads);
  quantize_activations(call.x, call.m, call.k, call.granularity, work.q, k_padded, work.scale,
                       work.zero_point, threads);
  const int64_t stride = call.granularity == Granularity::kPerRow ? 1 : 0;
  run_parallel(threads, [&](int thread, int count) {
    const Share panels = share_of(columns.panel_end - columns.panel_begin, 1, thread, count);
    for (int64_t row = 0; row < call.m; row += most) {
      GemmArgs args = plan(call, stride);
      args.a = work.q + row * k_padded;
      args.a_stride = k_padded;
      args.m = std::min(most, call.m - row);
      args.panel_begin = columns.panel_begin + panels.begin;
      args.panel_end = columns.panel_begin + panels.end;
      args.row_scale = work.scale + row * stride;
      args.row_zero_point = work.zero_point + row * stride;
      args.c = call.y + row * columns.count - columns.first;
      args.c_stride = columns.count;
      args.scratch = work.gemm + gemm_bytes * thread;
      kernels.gemm(args);
    }
  });
}

}  // namespace

PackedLayout checked_layout(const uint8_t* packed) {
  PackedLayout layout;
  __builtin_memcpy(&layout, packed, sizeof layout);
  if (layout.magic != kPackedMagic) throw std::invalid_argument("not a packed weight");
  const Isa isa = active_kernels().isa;
  if (layout.isa != static_cast<int32_t>(isa))
    throw std::invalid_argument(std::string("a weight packed for ") + isa_name(static_cast<Isa>(layout.isa)) +
                                " cannot be used by the " + isa_name(isa) + " kernels: pack it again");
  return layout;
}

int64_t panels_of(const PackedLayout& layout) { return (layout.n + layout.panel - 1) / layout.panel; }

int64_t packed_weight_bytes(int64_t n, int64_t k, int panel_vectors) {
  PackedLayout layout;
  int64_t bytes = 0;
  active_kernels().pack_gemm({nullptr, nullptr, nullptr, n, k, panel_vectors, nullptr, &layout, &bytes});
  return bytes;
}

void pack_weight(const int8_t* weight, const float* scale, const float* bias, int64_t n, int64_t k,
                 int panel_vectors, uint8_t* packed) {
  PackedLayout layout;
  int64_t bytes = 0;
  active_kernels().pack_gemm({weight, scale, bias, n, k, panel_vectors, packed, &layout, &bytes});
}

void unpack_weight(const uint8_t* packed, int8_t* weight, float* scale, float* bias) {
  PackedLayout layout;
  __builtin_memcpy(&layout, packed, sizeof layout);
  if (layout.magic != kPackedMagic) throw std::invalid_argument("not a packed weight");
  active_kernels().unpack_gemm({packed, weight, scale, bias});
}

void quantize_activations(const float* x, int64_t rows, int64_t cols, Granularity granularity, uint8_t* q,
                          int64_t q_stride, float* scale, int32_t* zero_point, int threads) {
  const KernelTable& kernels = active_kernels();
  if (rows * cols < kSmallestParallelValues) threads = 1;
  if (granularity == Granularity::kPerRow) {
    run_parallel(threads, [&](int thread, int count) {
      const Share part = share_of(rows, 1, thread, count);
      kernels.quantize_rows({x + part.begin * cols, cols, part.end - part.begin, cols,
                             q + part.begin * q_stride, q_stride, scale + part.begin,
                             zero_point + part.begin});
    });
    return;
  }
  float lo = 0.0f, hi = 0.0f;
  kernels.find_range({x, rows * cols, &lo, &hi});
  const RowParams params = choose_row_params(lo, hi);
  *scale = params.scale;
  *zero_point = params.zero_point;
  run_parallel(threads, [&](int thread, int count) {
    const Share part = share_of(rows, 1, thread, count);
    for (int64_t r = part.begin; r < part.end; ++r) {
      kernels.quantize_values(
          {x + r * cols, cols, params.inverse_scale, params.zero_point, q + r * q_stride});
      for (int64_t i = cols; i < q_stride; ++i) q[r * q_stride + i] = 0;
    }
  });
}

void linear_dynamic(const LinearDynamicCall& call) {
  const PackedLayout layout = checked_layout(call.packed);
  if (layout.k != call.k)
    throw std::invalid_argument("the packed weight has another number of input features");
  const Columns columns = columns_of(call, layout);
  if (call.m <= 0 || columns.count <= 0) return;
  const int threads = call.m * columns.count * layout.k < kSmallestParallelWork ? 1 : call.threads;
  const bool by_rows =
      call.granularity == Granularity::kPerRow && (threads == 1 || call.m >= kSmallestRowShare * threads);
  by_rows ? linear_by_rows(call, layout, columns, threads) : linear_by_panels(call, layout, columns, threads);
}

}  // namespace intaglio
