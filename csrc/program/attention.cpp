// How heads and groups of queries are shared out over threads.
#include "attention.h"

#include <stdexcept>

#include "parallel.h"

namespace intaglio {
namespace {

constexpr double kLog2E = 1.4426950408889634;
// Below this many multiply-adds a second thread costs more than it brings.
constexpr int64_t kSmallestParallelWork = 400'000;

template <class T>
T* rows_of(const HeadRows<T>& rows, int64_t batch, int64_t head) {
  return rows.data == nullptr ? nullptr : rows.data + batch * rows.batch + head * rows.head;
}

// Work is counted in items: a part of the queries of one batch and one head of keys, for all heads that share
// it.
struct Split {
  int64_t parts;  // of the queries
  int64_t items;
};

// Queries are parted only where there are too few heads for the threads: each part packs its keys anew.
Split split_work(const AttentionCall& call, int threads) {
  const int64_t heads = call.batch * call.kv_heads;
  const int64_t groups = (call.queries + kQueryGroup - 1) / kQueryGroup;
  const int64_t parts = heads % threads == 0 || heads >= 4 * threads ? 1 : std::min<int64_t>(groups, threads);
  return {parts, heads * parts};
}

// What a thread packs and scores into.
struct Workspace {
  int16_t* keys;
  float* key_scales;
  int16_t* values;
  float* value_scales;
  uint8_t* scratch;

  // Takes its parts one after the other; of nothing, only to see how much they are.
  Workspace(const AttentionCall& call, Arena& arena) {
    keys = arena.take<int16_t>(packed_keys_words(call.keys, call.depth));
    key_scales = arena.take<float>(whole_panels(call.keys));
    values = arena.take<int16_t>(packed_values_words(call.keys, call.width));
    value_scales = arena.take<float>(whole_panels(call.width));
    scratch = arena.take<uint8_t>(attend_scratch_bytes(call.keys, call.depth));
  }
};

void attend(const AttentionCall& call, int64_t item, const Split& split, const Workspace& work) {
  const KernelTable& kernels = active_kernels();
  const int64_t head = item / split.parts, b = head / call.kv_heads, kv = head % call.kv_heads;
  const Share queries = share_of(call.queries, kQueryGroup, static_cast<int>(item % split.parts),
                                 static_cast<int>(split.parts));
  if (queries.begin == queries.end) return;
  kernels.pack_head({rows_of(call.k, b, kv), call.k.row, rows_of(call.v, b, kv), call.v.row, call.keys,
                     call.depth, call.width, work.keys, work.key_scales, work.values, work.value_scales});
  const int64_t shared = call.heads / call.kv_heads;
  for (int64_t h = kv * shared; h < (kv + 1) * shared; ++h) {
    AttendRowsArgs args{};
    args.q = rows_of(call.q, b, h);
    args.q_stride = call.q.row;
    args.query_begin = queries.begin;
    args.query_end = queries.end;
    args.packed_keys = work.keys;
    args.key_scales = work.key_scales;
    args.packed_values = work.values;
    args.value_scales = work.value_scales;
    args.keys = call.keys;
    args.depth = call.depth;
    args.width = call.width;
    args.factor = static_cast<float>(static_cast<double>(call.scale) * kLog2E);
    args.mask = rows_of(call.mask, b, h);
    args.mask_stride = call.mask.row;
    args.allowed = rows_of(call.allowed, b, h);
    args.allowed_stride = call.allowed.row;
    args.is_causal = call.is_causal;
    args.y = rows_of(call.y, b, h);
    args.y_stride = call.y.row;
    args.scratch = work.scratch;
    kernels.attend_rows(args);
  }
}

}  // namespace

void run_attention(const AttentionCall& call) {
  if (call.kv_heads <= 0 || call.heads % call.kv_heads != 0)
    throw std::invalid_argument("the heads of keys must divide the heads of queries");
  const int64_t scores = call.batch * call.heads * call.queries * call.keys;
  const int threads = scores * (call.depth + call.width) < kSmallestParallelWork ? 1 : call.threads;
  const Split split = split_work(call, threads);
  Arena sizes;
  Workspace(call, sizes);
  const int64_t bytes = sizes.most();
  Scratch scratch(bytes * threads);
  uint8_t* const base = scratch.take<uint8_t>(bytes * threads);
  run_parallel(threads, [&](int thread, int count) {
    Arena arena(base + bytes * thread);
    const Workspace work(call, arena);
    const Share items = share_of(split.items, 1, thread, count);
    for (int64_t item = items.begin; item < items.end; ++item) attend(call, item, split, work);
  });
}

}  // namespace intaglio
