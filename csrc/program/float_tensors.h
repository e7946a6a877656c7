// Threaded drivers of what stands around a Program's products in float32.
#pragma once

#include "rows.h"

namespace intaglio {

// One of the tables that embed_rows sums: float32 (table_rows, width).
struct FloatTable {
  const float* data = nullptr;
  int64_t rows = 0;
  Indices indices{};  // row r of the result has index r mod indices.count
};

// The sum of up to four gathered rows, and what follows as in RowsCall:
//   sum of rows -> sum;  [normalization] -> y;  [quantize] -> output
struct EmbedCall {
  FloatTable tables[GatherSumsArgs::kMostTables];
  int count = 0;
  int64_t m = 0, width = 0;
  FloatRows sum;
  Norm norm = Norm::kNone;
  const float* weight = nullptr;  // (width), or nullptr for ones
  const float* bias = nullptr;    // (width), or nullptr for zeros
  float epsilon = 0.0f;
  FloatRows y;
  QuantizedRows output;
  int threads = 1;
};

// Throws std::out_of_range for an index that its table does not have.
void embed_rows(const EmbedCall& call);

// y[i] = mask[i] ? a[i] : b[i], where a or b may be one value for all.
struct SelectCall {
  const uint8_t* mask;
  const float* a;
  bool a_is_one;
  const float* b;
  bool b_is_one;
  int64_t count;
  float* y;
};

void select_floats(const SelectCall& call, int threads);
void softmax_floats(const SoftmaxFloatsArgs& args, int threads);
void combine_floats(const CombineFloatsArgs& args, int threads);
void unit_rows(const UnitRowsArgs& args, int threads);
// (batch, rows, cols) to (batch, cols); batches are batch_stride floats apart.
void mean_rows(const MeanRowsArgs& args, int64_t batch, int64_t batch_stride, int threads);

}  // namespace intaglio
