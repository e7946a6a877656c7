// Threaded drivers of elementwise arithmetic on u8 (docs/numerics.md, "Static quantization").
#pragma once

#include <vector>

#include "../kernels/kernels.h"

namespace intaglio {

// y[i] = table[x[i]]; `permutes_bytes` is cpu_permutes_bytes(), or false to try what other CPUs do.
void look_up_bytes(const uint8_t* x, int64_t count, const uint8_t* table, uint8_t* y, bool permutes_bytes,
                   int threads);

enum class PairOp : int { kAdd = 0, kMul = 1 };

// `groups` of (rows, cols) each. An operand that is a `single` row has one for each group, or one for all
// where `shared`. `scale` is the output's.
struct PairCall {
  PairOp op;
  const uint8_t* a;
  const uint8_t* b;
  int64_t groups, rows, cols;
  SingleRow single;
  bool shared;
  double scale_a, scale_b, scale;
  int32_t zero_point_a, zero_point_b;
  OutputRange range;
  uint8_t* y;
  int threads;
};

void combine_pairs(const PairCall& call);

// Rows of parts side by side: part j is (rows, cols[j]), and goes through tables[j] unless that is nullptr.
struct ConcatenateCall {
  std::vector<const uint8_t*> parts, tables;
  std::vector<int64_t> cols;
  int64_t rows;
  uint8_t* y;
  int threads;
};

void concatenate_rows(const ConcatenateCall& call);

}  // namespace intaglio
