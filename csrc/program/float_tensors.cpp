// Rows of float tensors shared out over threads.
#include "float_tensors.h"

#include <stdexcept>
#include <string>

#include "parallel.h"

namespace intaglio {
namespace {

// Below this many values a second thread costs more than it brings.
constexpr int64_t kSmallestParallelValues = 1 << 15;
// Gathered rows that stay in L1 or L2 until they are normalized.
constexpr int64_t kGatheredRows = 16;

int useful_threads(int64_t values, int threads) { return values < kSmallestParallelValues ? 1 : threads; }

int64_t index_at(const Indices& indices, int64_t i) {
  return indices.is_int64 ? static_cast<const int64_t*>(indices.data)[i]
                          : static_cast<const int32_t*>(indices.data)[i];
}

void check_indices(const FloatTable& table) {
  for (int64_t i = 0; i < table.indices.count; ++i) {
    const int64_t index = index_at(table.indices, i);
    if (index < 0 || index >= table.rows)
      throw std::out_of_range("index " + std::to_string(index) + " is not in 0.." +
                              std::to_string(table.rows - 1) + ", the rows of the embedding's table");
  }
}

}  // namespace

void embed_rows(const EmbedCall& call) {
  if (call.count < 1 || call.count > GatherSumsArgs::kMostTables)
    throw std::invalid_argument("one to four tables can be summed");
  if (call.m <= 0) return;
  GatherSumsArgs gather{};
  gather.count = call.count;
  gather.cols = call.width;
  for (int t = 0; t < call.count; ++t) {
    const FloatTable& table = call.tables[t];
    if (table.indices.count <= 0) throw std::invalid_argument("a table without indices");
    check_indices(table);
    gather.tables[t] = {table.data, table.indices.data, table.indices.count, table.indices.is_int64};
  }
  const KernelTable& kernels = active_kernels();
  const int threads = useful_threads(call.m * call.width, call.threads);
  const int64_t bytes = aligned_size((kGatheredRows + 1) * call.width * 4);
  Scratch scratch(bytes * threads);
  uint8_t* const base = scratch.take<uint8_t>(bytes * threads);
  RowsCall tail;
  tail.sum = call.sum;
  tail.norm = call.norm;
  tail.weight = call.weight;
  tail.bias = call.bias;
  tail.epsilon = call.epsilon;
  tail.y = call.y;
  tail.output = call.output;
  run_parallel(threads, [&](int thread, int count) {
    float* const floats = reinterpret_cast<float*>(base + bytes * thread);
    const Share rows = share_of(call.m, 1, thread, count);
    for (int64_t row = rows.begin; row < rows.end; row += kGatheredRows) {
      GatherSumsArgs part = gather;
      part.row_begin = row;
      part.row_end = std::min(rows.end, row + kGatheredRows);
      part.y = floats;
      part.y_stride = call.width;
      kernels.gather_sums(part);
      finish_block(tail, row, part.row_end - row, call.width, {floats, call.width},
                   floats + kGatheredRows * call.width);
    }
  });
}

void softmax_floats(const SoftmaxFloatsArgs& args, int threads) {
  run_parallel(useful_threads(args.rows * args.cols, threads), [&](int thread, int count) {
    const Share rows = share_of(args.rows, 1, thread, count);
    SoftmaxFloatsArgs part = args;
    part.x += rows.begin * args.x_stride;
    part.y += rows.begin * args.y_stride;
    part.rows = rows.end - rows.begin;
    active_kernels().softmax_floats(part);
  });
}

void combine_floats(const CombineFloatsArgs& args, int threads) {
  run_parallel(useful_threads(args.rows * args.cols, threads), [&](int thread, int count) {
    const Share rows = share_of(args.rows, 1, thread, count);
    CombineFloatsArgs part = args;
    part.a.data += rows.begin * args.a.row_stride;
    part.b.data += rows.begin * args.b.row_stride;
    part.y += rows.begin * args.y_stride;
    part.rows = rows.end - rows.begin;
    active_kernels().combine_floats(part);
  });
}

void unit_rows(const UnitRowsArgs& args, int threads) {
  run_parallel(useful_threads(args.rows * args.cols, threads), [&](int thread, int count) {
    const Share rows = share_of(args.rows, 1, thread, count);
    UnitRowsArgs part = args;
    part.x += rows.begin * args.x_stride;
    part.y += rows.begin * args.y_stride;
    part.rows = rows.end - rows.begin;
    active_kernels().unit_rows(part);
  });
}

void mean_rows(const MeanRowsArgs& args, int64_t batch, int64_t batch_stride, int threads) {
  run_parallel(useful_threads(batch * args.rows * args.cols, threads), [&](int thread, int count) {
    const Share items = share_of(batch, 1, thread, count);
    for (int64_t b = items.begin; b < items.end; ++b) {
      MeanRowsArgs part = args;
      part.x += b * batch_stride;
      part.y += b * args.cols;
      active_kernels().mean_rows(part);
    }
  });
}

void select_floats(const SelectCall& call, int threads) {
  run_parallel(useful_threads(call.count, threads), [&](int thread, int count) {
    const Share items = share_of(call.count, 64, thread, count);
    const int64_t a_step = call.a_is_one ? 0 : 1, b_step = call.b_is_one ? 0 : 1;
    for (int64_t i = items.begin; i < items.end; ++i)
      call.y[i] = call.mask[i] != 0 ? call.a[i * a_step] : call.b[i * b_step];
  });
}

}  // namespace intaglio
