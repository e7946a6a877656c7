// Threaded drivers of the embeddings: indices and bags are checked, then shared out.
#include "embedding.h"

#include <stdexcept>
#include <string>

#include "gemm.h"
#include "parallel.h"

namespace intaglio {
namespace {

// Below this many bytes read a second thread costs more than it brings.
constexpr int64_t kSmallestParallelBytes = 1 << 17;

int64_t index_at(const Indices& indices, int64_t i) {
  return indices.is_int64 ? static_cast<const int64_t*>(indices.data)[i]
                          : static_cast<const int32_t*>(indices.data)[i];
}

template <class T>
bool all_below(const T* indices, int64_t count, int64_t limit) {
  bool outside = false;
  for (int64_t i = 0; i < count; ++i) outside |= indices[i] < 0 || indices[i] >= limit;
  return !outside;
}

void check_indices(const Indices& indices, int64_t limit) {
  const bool right = indices.is_int64
                         ? all_below(static_cast<const int64_t*>(indices.data), indices.count, limit)
                         : all_below(static_cast<const int32_t*>(indices.data), indices.count, limit);
  if (right) return;
  int64_t i = 0;
  while (index_at(indices, i) >= 0 && index_at(indices, i) < limit) ++i;
  throw std::out_of_range("index " + std::to_string(index_at(indices, i)) + " at position " +
                          std::to_string(i) + " is not a row of the table, whose rows are 0 to " +
                          std::to_string(limit - 1));
}

EmbeddingTable kernel_table(const TableCall& table) {
  return {table.rows, 8 + (table.width * table.bits + 7) / 8, table.width, table.bits};
}

Indices part_of(const Indices& indices, const Share& part) {
  const int64_t size = indices.is_int64 ? 8 : 4;
  return {static_cast<const uint8_t*>(indices.data) + part.begin * size, part.end - part.begin,
          indices.is_int64};
}

// bounds[b] .. bounds[b + 1] - 1 are the indices of bag b.
void find_bounds(const BagsCall& call, int64_t* bounds) {
  const int64_t count = call.indices.count;
  if (call.offsets.data == nullptr) {
    for (int64_t b = 0; b <= call.bags; ++b) bounds[b] = call.bags == 0 ? 0 : count / call.bags * b;
    return;
  }
  for (int64_t b = 0; b < call.offsets.count; ++b) bounds[b] = index_at(call.offsets, b);
  if (!call.include_last) bounds[call.bags] = count;
  if (bounds[0] != 0)
    throw std::invalid_argument("offsets[0] is " + std::to_string(bounds[0]) +
                                ", but the first bag begins at 0");
  for (int64_t b = 0; b < call.bags; ++b)
    if (bounds[b] > bounds[b + 1])
      throw std::invalid_argument("offsets must not fall, nor pass the " + std::to_string(count) +
                                  " indices: after " + std::to_string(bounds[b]) + " comes " +
                                  std::to_string(bounds[b + 1]));
  if (call.include_last && bounds[call.bags] > count)
    throw std::invalid_argument("the last offset is " + std::to_string(bounds[call.bags]) +
                                ", but there are " + std::to_string(count) + " indices");
}

int threads_for(int64_t rows, int64_t row_bytes, int threads) {
  return rows * row_bytes < kSmallestParallelBytes ? 1 : threads;
}

}  // namespace

void look_up_rows(const TableCall& call, const Indices& indices, float* y, int threads) {
  check_indices(indices, call.count);
  const KernelTable& kernels = active_kernels();
  const EmbeddingTable table = kernel_table(call);
  run_parallel(threads_for(indices.count, call.width * 4, threads), [&](int thread, int count) {
    const Share part = share_of(indices.count, 1, thread, count);
    kernels.embedding_rows({table, part_of(indices, part), y + part.begin * call.width});
  });
}

void reduce_bags(const BagsCall& call) {
  check_indices(call.indices, call.table.count);
  Scratch scratch(aligned_size((call.bags + 1) * 8));
  int64_t* bounds = scratch.take<int64_t>(call.bags + 1);
  find_bounds(call, bounds);
  const KernelTable& kernels = active_kernels();
  const EmbeddingTable table = kernel_table(call.table);
  run_parallel(threads_for(call.indices.count, table.row_bytes, call.threads), [&](int thread, int count) {
    const Share bags = share_of(call.bags, 1, thread, count);
    kernels.embedding_bags({table, call.indices, call.weights, bounds, bags.begin, bags.end, call.mode,
                            call.padding_index, call.y});
  });
}

void look_up_packed_rows(const uint8_t* packed, const Indices& indices, float* y, int threads) {
  const PackedLayout layout = checked_layout(packed);
  check_indices(indices, layout.n);
  const KernelTable& kernels = active_kernels();
  run_parallel(threads_for(indices.count, layout.k * 4, threads), [&](int thread, int count) {
    const Share part = share_of(indices.count, 1, thread, count);
    kernels.packed_rows({packed, part_of(indices, part), y + part.begin * layout.k});
  });
}

}  // namespace intaglio
