// Contracts of the kernels that a Program runs on float32 between its integer products: activations, residual
// sums, normalization and quantization of rows, attention, gathering (docs/numerics.md, "Float operations of
// a Program"). What kernels.h says holds here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace intaglio {

// ---- Rows -----------------------------------------------------------------------------------------

// Functions of one value. `lower` and `upper` are the limits of kClamp; `lower` is the slope of kLeakyRelu.
enum class Function : int32_t {
  kNone = 0,
  kRelu = 1,
  kClamp = 2,
  kGelu = 3,       // x Phi(x)
  kGeluTanh = 4,   // its approximation by tanh
  kQuickGelu = 5,  // x sigmoid(1.702 x)
  kSilu = 6,
  kSigmoid = 7,
  kTanh = 8,
  kHardswish = 9,
  kHardsigmoid = 10,
  kLeakyRelu = 11,
};

enum class Norm : int32_t { kNone = 0, kLayer = 1, kRms = 2 };

// Of each row, in this order, where the pointers say so:
//   v = function(x) + residual -> sum;  v = normalized v -> y;  v -> q, quantized as quantize_rows does
// Each of x, residual, sum and y may be the same rows as another; none may overlap otherwise.
struct FinishRowsArgs {
  const float* x;  // (rows, cols), rows `x_stride` floats apart
  int64_t x_stride;
  int64_t rows, cols;
  Function function;
  float lower, upper;
  const float* residual;  // (rows, cols), or nullptr
  int64_t residual_stride;
  float* sum;  // (rows, cols), or nullptr
  int64_t sum_stride;
  Norm norm;
  const float* weight;  // (cols), or nullptr for ones
  const float* bias;    // (cols), or nullptr for zeros
  float epsilon;
  float* y;  // (rows, cols), or nullptr
  int64_t y_stride;
  uint8_t* q;  // (rows, q_stride), or nullptr; columns cols..q_stride-1 are set to 0
  int64_t q_stride;
  float* scale;         // (rows), with q
  int32_t* zero_point;  // (rows), with q
  float* scratch;       // (cols): a row, where neither sum nor y is stored
};

// ---- Attention ------------------------------------------------------------------------------------

// Words of a head's packed keys and values: whole panels, of any instruction set, and pairs of words.
constexpr int64_t kHeadPanel = 32;
inline int64_t whole_panels(int64_t columns) { return (columns + kHeadPanel - 1) / kHeadPanel * kHeadPanel; }
inline int64_t words_of_depth(int64_t depth) { return (depth + 1) / 2 * 2; }
inline int64_t packed_keys_words(int64_t keys, int64_t depth) {
  return whole_panels(keys) * words_of_depth(depth);
}
inline int64_t packed_values_words(int64_t keys, int64_t width) {
  return whole_panels(width) * words_of_depth(keys);
}

// One head's keys and values, rounded to words, in the order in which attend_rows reads them.
struct PackHeadArgs {
  const float* k;  // (keys, depth), rows k_stride floats apart
  int64_t k_stride;
  const float* v;  // (keys, width), rows v_stride floats apart
  int64_t v_stride;
  int64_t keys, depth, width;
  int16_t* packed_keys;    // packed_keys_words(keys, depth), 64-byte aligned
  float* key_scales;       // whole_panels(keys), 64-byte aligned
  int16_t* packed_values;  // packed_values_words(keys, width), 64-byte aligned
  float* value_scales;     // whole_panels(width), 64-byte aligned
};

// Queries that share how many keys are read: the group's last query decides (AttendRowsArgs::is_causal).
constexpr int64_t kQueryGroup = 48;
// Query rows whose scores are held at once, at most.
constexpr int64_t kMostQueryRows = 16;
// Of scores, scales, weights and rounded queries.
inline int64_t attend_scratch_bytes(int64_t keys, int64_t depth) {
  return kMostQueryRows * (whole_panels(keys) * 6 + 4 + whole_panels(depth) * 2);
}

// Rows query_begin..query_end-1 of one head:
//   s[i][j] = (sum over d of q[i][d] * k[j][d]) * factor + mask[i][j] * log2 e
//   y[i]    = (sum over j of e[i][j] * v[j]) / (sum over j of e[i][j]),   e[i][j] = 2^(s[i][j] - max s[i])
// where q, k, v and e are rounded to words and both sums are exact. A key that is not allowed has e = 0. A
// row without a key that is allowed, or whose scores are all -infinity, gives zeros.
struct AttendRowsArgs {
  const float* q;  // (queries, depth) from query 0 on, rows q_stride floats apart
  int64_t q_stride;
  int64_t query_begin, query_end;  // query_begin is a multiple of kQueryGroup
  const int16_t* packed_keys;      // these four made by pack_head of the same instruction set
  const float* key_scales;
  const int16_t* packed_values;
  const float* value_scales;
  int64_t keys, depth, width;
  float factor;  // the scale times log2 e
  const float*
      mask;  // (queries, keys) floats that are added, or nullptr; rows mask_stride apart, which may be 0
  int64_t mask_stride;
  const uint8_t* allowed;  // (queries, keys), 0 where a key is not allowed, or nullptr
  int64_t allowed_stride;
  bool is_causal;  // query i may see keys 0..i; of the keys beyond those of its group of queries none is read
  float* y;        // (queries, width) from query 0 on, rows y_stride floats apart
  int64_t y_stride;
  uint8_t* scratch;  // attend_scratch_bytes(keys, depth), 64-byte aligned
};

// ---- Tensors --------------------------------------------------------------------------------------

// y[r] = the row of index r of the first table + that of the second + ..., in this order.
struct GatherSumsArgs {
  struct Table {
    const float* rows;  // (any, cols)
    const void* indices;
    int64_t period;  // indices that there are: row r has index r mod period
    bool is_int64;
  };
  static constexpr int kMostTables = 4;
  Table tables[kMostTables];
  int count;
  int64_t row_begin, row_end, cols;
  float* y;  // (row_end - row_begin, cols)
  int64_t y_stride;
};

// y[r][c] = 2^(t - max t) / their sum, t = x[r][c] * log2 e. A row of -infinity alone gives NaN. y may be x.
struct SoftmaxFloatsArgs {
  const float* x;  // (rows, cols), rows x_stride floats apart
  int64_t x_stride;
  int64_t rows, cols;
  float* y;
  int64_t y_stride;
};

enum class FloatOp : int32_t { kAdd = 0, kSub = 1, kMul = 2, kDiv = 3 };

// y[r][c] = a[r][c] op b[r][c]. A row stride of 0 repeats a row; a scalar is one value for a row. y may be a
// or b.
struct CombineFloatsArgs {
  struct Operand {
    const float* data;
    int64_t row_stride;
    bool is_scalar;
  };
  FloatOp op;
  Operand a, b;
  int64_t rows, cols;
  float* y;
  int64_t y_stride;
};

// y[c] = (((x[0][c] + x[1][c]) + x[2][c]) + ...) / divisor.
struct MeanRowsArgs {
  const float* x;  // (rows, cols), rows x_stride floats apart
  int64_t x_stride;
  int64_t rows, cols;
  float* y;
  float divisor;  // float(rows) of a mean, 1 of a sum
};

// y[r] = x[r] / max(sqrt(sum of squares of x[r]), epsilon). y may be x.
struct UnitRowsArgs {
  const float* x;  // (rows, cols), rows x_stride floats apart
  int64_t x_stride;
  int64_t rows, cols;
  float epsilon;
  float* y;
  int64_t y_stride;
};

}  // namespace intaglio
