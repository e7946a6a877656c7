// Threaded drivers of the embeddings: lookups, bags, and rows of a packed matrix.
//
// Every index is checked before a row is read: std::out_of_range names the first one that is no row,
// std::invalid_argument what is wrong with the bags. Nothing has been written then.
#pragma once

#include "../kernels/kernels.h"

namespace intaglio {

// `count` rows of a table (kernels.h, EmbeddingTable).
struct TableCall {
  const uint8_t* rows;
  int64_t count, width;
  int bits;
};

void look_up_rows(const TableCall& table, const Indices& indices, float* y, int threads);

struct BagsCall {
  TableCall table;
  Indices indices;
  // Where bags begin: `offsets.count` of them, and with `include_last` one less, the last being the end.
  // With offsets.data == nullptr there are `bags` bags of equal size.
  Indices offsets;
  bool include_last;
  int64_t bags;
  const float* weights;  // one for each index, or nullptr
  BagMode mode;
  int64_t padding_index;
  float* y;  // (bags, width)
  int threads;
};

void reduce_bags(const BagsCall& call);

// y[i] = row of index i of the (n, k) matrix that was packed.
void look_up_packed_rows(const uint8_t* packed, const Indices& indices, float* y, int threads);

}  // namespace intaglio
