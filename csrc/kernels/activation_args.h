// Contracts of the kernels whose operands are quantized activations: layouts, elementwise arithmetic,
// pooling and normalization (docs/numerics.md, "Static quantization"). What kernels.h says holds here.
//
// An image is u8 with the channels of a pixel side by side. A result is kept within `lower..upper`, which
// lie in 0..255; what is NaN before it is rounded becomes `lower`.
#pragma once

#include <cstddef>
#include <cstdint>

namespace intaglio {

// What rounded values become u8 with: clamp(rne(y) + zero_point, lower, upper).
struct OutputRange {
  int32_t zero_point, lower, upper;
};

// ---- Layouts --------------------------------------------------------------------------------------

// q[i] = clamp(rne(x[i] * inverse_scale) + zero_point, lower, upper).
struct QuantizePlainArgs {
  const float* x;
  int64_t count;
  float inverse_scale;
  OutputRange range;
  uint8_t* q;
};

// The same of `pixels` neighbouring pixels whose channels lie in planes: q[p][c] of x[c][p].
struct QuantizePlanesArgs {
  const float* x;        // channel 0 of the first pixel
  int64_t plane_stride;  // floats from one channel to the next
  int64_t pixels, channels;
  float inverse_scale;
  OutputRange range;
  uint8_t* q;  // (pixels, channels)
};

// x[i] = float(q[i] - zero_point) * scale.
struct DequantizePlainArgs {
  const uint8_t* q;
  int64_t count;
  float scale;
  int32_t zero_point;
  float* x;
};

// The same of `pixels` neighbouring pixels, to planes: x[c][p] of q[p][c].
struct DequantizePlanesArgs {
  const uint8_t* q;  // (pixels, channels)
  int64_t pixels, channels;
  float scale;
  int32_t zero_point;
  float* x;              // channel 0 of the first pixel
  int64_t plane_stride;  // floats from one channel to the next
};

// ---- Elementwise ----------------------------------------------------------------------------------

// y[r][i] = table[x[r][i]], or a copy where table == nullptr. Rows may lie apart.
struct LookUpArgs {
  const uint8_t* x;
  int64_t x_stride;
  int64_t rows, cols;
  const uint8_t* table;  // (256)
  uint8_t* y;
  int64_t y_stride;
  bool permutes_bytes;  // the CPU has AVX-512 VBMI: of use to one instruction set alone
};

enum class SingleRow : int32_t { kNone = 0, kA = 1, kB = 2 };

// Of every pair of integers a and b, with x = float(a - zero_point_a) and y = float(b - zero_point_b):
//   add: fma(x, factor_a, y * factor_b)        mul: float((a - zero_point_a) * (b - zero_point_b)) * factor_a
// as u8. One operand may be a single row of `cols` that meets each of the other's rows.
struct PairArgs {
  const uint8_t* a;
  const uint8_t* b;
  int64_t rows, cols;
  SingleRow single;  // which one is a single row
  int32_t zero_point_a, zero_point_b;
  float factor_a, factor_b;
  OutputRange range;
  uint8_t* y;  // (rows, cols)
};

// ---- Pooling --------------------------------------------------------------------------------------

// One row of outputs: of each column's taps that lie in the image, the largest, or the average
//   clamp(rne(float(sum - taps * zero_point) * inverse) + zero_point, lower, upper),  taps * 255 < 2^31.
// A column without taps gives 0, or the zero point.
struct PoolRowArgs {
  const uint8_t* x;                        // column 0 of the first row of taps
  const uint8_t* x_end;                    // the end of what may be read
  int64_t planes, rows;                    // of taps
  int64_t plane_step, row_step, tap_step;  // bytes from one to the next
  const int64_t* first;                    // (columns): bytes from `x` to the first tap of a row
  const int64_t* taps;                     // (columns): taps in a row
  int64_t columns, channels;
  const float* inverse;  // (columns), averages only: 1 / divisor
  OutputRange range;     // averages only: that of the input too
  uint8_t* y;            // (columns, channels)
};

// ---- Products of two activations -------------------------------------------------------------------

// Packs the right operand of a product, bytes b[k][n], as int8 b - 128: as pack_gemm does, but from any
// strides of which one is 1, with neither scales nor biases. With packed == nullptr it only writes `*bytes`.
struct PackMatmulArgs {
  const uint8_t* b;
  int64_t k_stride, n_stride;
  int64_t n, k;
  uint8_t* packed;  // *bytes long, 64-byte aligned
  int64_t* bytes;
};

// c[i][j] = clamp(rne(float(sum over k of (a[i][k] - zero_point_a) * (b[k][j] - zero_point_b)) * multiplier)
// + zero_point, lower, upper); the sum is exact: k is at most 33025.
struct MatmulStaticArgs {
  const uint8_t* a;  // (m, k), rows a_stride bytes apart; k is a multiple of 4
  int64_t a_stride;
  int64_t m;
  int32_t zero_point_a, zero_point_b;
  const uint8_t* packed;    // made by pack_matmul of the same instruction set
  const float* multiplier;  // (n), all the same
  const float* offset;      // (n), zeros
  OutputRange range;
  uint8_t* c;  // (m, n), rows c_stride bytes apart
  int64_t c_stride;
  int32_t* row_first;  // (m), room for where the sums of each row start
  void* scratch;       // gemm_scratch_bytes(m, k) of the table, 64-byte aligned
};

// ---- Normalization ---------------------------------------------------------------------------------

// y[c] = encode(fma(fma(float(a[c]), gain, shift), multiplier[c], offset[c])) of each row, with the row's own
// gain and shift (normalization.h).
struct NormalizeRowsArgs {
  const uint8_t* x;  // (rows, cols)
  int64_t rows, cols;
  double epsilon;
  const float* multiplier;  // (cols)
  const float* offset;      // (cols)
  OutputRange range;
  uint8_t* y;  // (rows, cols)
};

// sum[c] = the sum of x[r][c] over the rows, square[c] that of its square; rows is at most 32768.
struct ColumnMomentsArgs {
  const uint8_t* x;  // (rows, cols)
  int64_t rows, cols;
  int32_t* sum;     // (cols)
  int32_t* square;  // (cols)
};

// The same as NormalizeRowsArgs with a gain and a shift for each column.
struct NormalizeColumnsArgs {
  const uint8_t* x;  // (rows, cols)
  int64_t rows, cols;
  const float* gain;        // (cols)
  const float* shift;       // (cols)
  const float* multiplier;  // (cols)
  const float* offset;      // (cols)
  OutputRange range;
  uint8_t* y;  // (rows, cols)
};

// y[c] = encode(float(table[m - a[c]]) * inverse) of each row, m its largest integer and
// inverse = float(1 / (float64(sum of table[m - a[c]]) * scale)).
struct SoftmaxRowsArgs {
  const uint8_t* x;  // (rows, cols)
  int64_t rows, cols;
  const int32_t* table;   // (256), 0..2^23, the first 2^23
  const uint8_t* planes;  // (3, 256): the lowest byte of each entry, the middle one, the highest
  double scale;           // of the output
  OutputRange range;
  uint8_t* y;  // (rows, cols)
  bool permutes_bytes;
};

// ---- Interpolation ----------------------------------------------------------------------------------

// One row of outputs between the pixels of two rows, or of two rows of each of two planes. With
// blend(a, b, w) = fma(b - a, w, a), of each source column:
//   down(plane) = blend(upper row, lower row, weight_y)
//   through = down(front), or blend(down(front), down(back), weight_z)
// and of each output: y = clamp(rne(blend(through of left, through of right, weight_x)), lower, upper)
struct BlendRowArgs {
  const uint8_t* row[4];  // upper and lower row of the front plane, of the back plane or nullptr
  const uint8_t* x_end;   // the end of what may be read
  const int64_t* left;    // (columns): bytes from a row's beginning
  const int64_t* right;
  const float* weight_x;  // (columns)
  float weight_y, weight_z;
  int64_t columns, channels;  // at least one column
  OutputRange range;          // its zero point is not used
  uint8_t* y;                 // (columns, channels)
};

}  // namespace intaglio
