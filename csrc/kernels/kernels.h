// Contracts of the kernels, and the table through which they are called.
//
// A kernel is single-threaded, stateless and noexcept: it never allocates, and what it needs beside
// its operands comes in as `scratch`. Unless a field says otherwise, pointers need no alignment,
// buffers do not overlap, and sizes may be zero. Every instruction set computes the same bits; the
// arithmetic is fixed by docs/numerics.md. Only <cstddef> and <cstdint> are included, because this
// header is compiled with every instruction set's flags.
#pragma once

#include <cstddef>
#include <cstdint>

#include "activation_args.h"
#include "float_kernels.h"
#include "isa.h"
#include "static_kernels.h"
#include "training_kernels.h"

namespace intaglio {

// ---- Activation quantization --------------------------------------------------------------------

// Per-row affine quantization to u8: for each row its range, its parameters, then its integers.
// A row with a NaN or an infinity gets scale = NaN, zero_point = 0 and zeros: its outputs are NaN.
struct QuantizeRowsArgs {
  const float* x;  // (rows, cols), rows `x_stride` floats apart
  int64_t x_stride;
  int64_t rows, cols;
  uint8_t* q;           // (rows, q_stride): columns cols..q_stride-1 are set to 0
  int64_t q_stride;     // >= cols
  float* scale;         // (rows)
  int32_t* zero_point;  // (rows), each in [0, 255]
};

// Range of `count` values, zero included. `*lo` = NaN and `*hi` = NaN if any value is not finite.
struct FindRangeArgs {
  const float* x;
  int64_t count;
  float* lo;
  float* hi;
};

// Quantization to u8 with parameters that are already chosen; `inverse_scale` = 0 writes zeros.
struct QuantizeValuesArgs {
  const float* x;
  int64_t count;
  float inverse_scale;
  int32_t zero_point;
  uint8_t* q;
};

// ---- int8 GEMM ------------------------------------------------------------------------------------

// How the columns of a packed matrix are grouped, and where the parts of its buffer begin (bytes from
// the buffer's start, each a multiple of 64). Panels hold `panel` columns, the last one what is left,
// rounded up to whole vectors; inside a panel, `k_group` consecutive k's of one column are neighbours.
struct PackedLayout {
  int32_t magic;     // kPackedMagic
  int32_t isa;       // Isa whose kernels read it
  int64_t n, k;      // logical shape (N, K)
  int64_t n_padded;  // N rounded up to whole vectors
  int64_t k_padded;  // K rounded up to a multiple of 4, at least 4
  int32_t panel;     // columns in a panel
  int32_t k_group;
  int32_t column_sum_offset, scale_offset, bias_offset, weight_offset;
};
static_assert(sizeof(PackedLayout) == 64, "the header of a packed matrix is one cache line");
constexpr int32_t kPackedMagic = 0x676c6e69;

// Packs `weight` with its column sums, scales and biases into `packed`.
// With packed == nullptr it only writes `*layout` and `*bytes`.
struct PackGemmArgs {
  const int8_t* weight;  // (n, k) row-major: one row an output channel
  const float* scale;    // (n), or nullptr for zeros
  const float* bias;     // (n), or nullptr for zeros
  int64_t n, k;
  int32_t panel_vectors;  // vectors in a panel, or 0 to let the kernel choose
  uint8_t* packed;        // *bytes long, 64-byte aligned
  PackedLayout* layout;
  int64_t* bytes;
};

struct UnpackGemmArgs {
  const uint8_t* packed;  // of any instruction set
  int8_t* weight;         // (n, k)
  float* scale;           // (n)
  float* bias;            // (n)
};

enum class Activation : int32_t { kNone = 0, kClamp = 1 };
enum class Output : int32_t { kFloat = 0, kUint8 = 1 };

// c[i][j] = epilogue(sum_k (a[i][k] - zero_point[i]) * weight[j][k]), for the panels
// panel_begin..panel_end-1. The epilogue, in this order (docs/numerics.md):
//   y = fma(float(acc), scale_a[i] * scale_w[j], addend ? addend[i][j] : bias[j])
//   kClamp: y = min(max(y, lower), upper), NaN stays NaN
//   kFloat: store y;  kUint8: clamp(rne(y * inverse_scale_out) + zero_point_out, 0, 255), NaN gives 0
struct GemmArgs {
  const uint8_t* a;  // (m, k_padded), rows `a_stride` bytes apart; bytes k..k_padded-1 are any value
  int64_t a_stride;
  int64_t m;
  const uint8_t* packed;  // made by pack_gemm of the same instruction set
  int64_t panel_begin, panel_end;
  const float* row_scale;  // (m), or one value if row_param_stride == 0
  const int32_t* row_zero_point;
  int64_t row_param_stride;  // 0 or 1
  const float* addend;       // (m, n) that takes the bias's place, rows addend_stride apart, or nullptr
  int64_t addend_stride;
  Activation activation;
  float lower, upper;
  Output output;
  float output_inverse_scale;
  int32_t output_zero_point;
  void* c;  // (m, n) of float or uint8_t, rows c_stride elements apart
  int64_t c_stride;
  void* scratch;  // gemm_scratch_bytes(m, k_padded) of the table, 64-byte aligned
};

// ---- float16 weights ------------------------------------------------------------------------------

// The same layout for weights stored as IEEE halves: `k_group` is 1, `k_padded` is k, and there are
// neither column sums nor scales (their offsets are 0).
constexpr int32_t kPackedHalfMagic = 0x676c6e68;

// With packed == nullptr it only writes `*layout` and `*bytes`.
struct PackHalfArgs {
  const uint16_t* weight;  // (n, k) row-major IEEE halves: one row an output channel
  const float* bias;       // (n), or nullptr for zeros
  int64_t n, k;
  uint8_t* packed;  // *bytes long, 64-byte aligned
  PackedLayout* layout;
  int64_t* bytes;
};

struct UnpackHalfArgs {
  const uint8_t* packed;  // of any instruction set
  uint16_t* weight;       // (n, k)
  float* bias;            // (n)
};

// c[i][j] = a chain of fma over k = 0, 1, ... K-1 of a[i][k] * float(weight[j][k]), which starts from
// addend[i][j], or from bias[j] where addend == nullptr; for the panels panel_begin..panel_end-1.
struct GemmHalfArgs {
  const float* a;  // (m, k), rows `a_stride` floats apart
  int64_t a_stride;
  int64_t m;
  const uint8_t* packed;  // made by pack_half of the same instruction set
  int64_t panel_begin, panel_end;
  const float* addend;  // (m, n), rows addend_stride apart, or nullptr; may be c itself
  int64_t addend_stride;
  float* c;  // (m, n), rows c_stride apart
  int64_t c_stride;
};

// ---- Recurrent cells -----------------------------------------------------------------------------

// One time step of `m` rows of an LSTM, GRU or RNN layer, in place (docs/numerics.md, "Gates").
//   gate = fma(float(acc), row_scale * scale_w, pre), acc of the quantized hidden state and `packed`.
// `packed` has gates * round_up(units, lanes) columns in panels of as many vectors as there are gates
// (4 for the RNN): the gates of `lanes` units side by side, LSTM i f g o, GRU r z n; the columns of units
// that do not exist are zero. `pre` has the same columns. Where a GRU's n adds pre to r * gate, the gate
// is on the packed bias instead.
struct RecurrentStepArgs {
  const uint8_t* q;  // (m, k_padded), rows q_stride apart: the hidden state, quantized
  int64_t q_stride;
  int64_t m;
  const float* row_scale;  // (m)
  const int32_t* row_zero_point;
  const uint8_t* packed;
  const float* pre;  // (m, n_padded), rows pre_stride apart
  int64_t pre_stride;
  int64_t units;
  float* c;  // (m, units), LSTM only: the cell state, updated
  float* h;  // (m, units): the hidden state, read by the GRU, written by all
  float* y;  // a second place for the new hidden state, rows y_stride apart, or nullptr
  int64_t y_stride;
  bool relu;      // RNN: relu instead of tanh
  bool backward;  // from the last panel to the first: of a stream longer than L1, the end is still there
  void* scratch;  // gemm_scratch_bytes(m, k_padded) of the table, 64-byte aligned
};

// ---- Convolution ----------------------------------------------------------------------------------
// Images are u8 with the channels of a pixel side by side, and a border that holds the zero point.

// Quantizes `count` neighbouring pixels of a float image: q[p][c] is made of channel
// (channel_begin + c) / repeat of pixel p. The parameters are those of a range that holds every value;
// `inverse_scale` = 0 writes zeros.
struct QuantizePixelsArgs {
  const float* x;  // channel 0 of the first pixel
  int64_t pixel_stride, channel_stride;
  int64_t count;
  int64_t channel_begin, channels, repeat;
  float inverse_scale;
  int32_t zero_point;
  uint8_t* q;        // pixels q_stride bytes apart
  int64_t q_stride;  // >= channels; bytes of a pixel beyond `channels` are left as they are or take any value
};

// a[i] = the runs of image + start[i] + run[0], image + start[i] + run[1] ..., one after the other.
// Reads and writes up to 63 bytes beyond the last byte it needs.
struct GatherRunsArgs {
  const uint8_t* image;
  const int64_t* start;  // (rows)
  int64_t rows;
  const int64_t* run;  // (run_count)
  int64_t run_count, run_bytes;
  uint8_t* a;  // rows a_stride bytes apart
  int64_t a_stride;
};

// y[c][r] = x[r][c]. Reads x up to `cols` rounded up to 4 and `rows` rounded up to 16.
struct TransposeRowsArgs {
  const float* x;
  int64_t x_stride;
  int64_t rows, cols;
  float* y;
  int64_t y_stride;
};

// The operand of a depthwise row of taps: for each position, one vector whose lane l holds `k_group`
// values (PackedLayout), value t being channel l of the pixel t taps to the right. Lanes are 32 bits.
struct SpreadTapsArgs {
  const uint8_t* image;  // pixels of `lanes` channels; reads k_group - 1 taps beyond the last position
  int64_t rows, row_bytes;
  int64_t positions, position_bytes, tap_bytes;
  void* spread;         // `lanes` int32 a vector
  int64_t row_vectors;  // vectors from one row of `spread` to the next
};

// Depthwise convolution of `rows` x `columns` pixels and one panel of channels:
//   y[r][c][l] = fma(float(acc - zero_point * column_sum[l]), scale * scale_w[l], bias[l])
// with acc summed over tap rows t and chunks j of k_group taps. All steps and offsets count vectors.
struct ConvDepthwiseArgs {
  const void* spread;     // made by spread_taps
  const int64_t* offset;  // (tap_rows): where each tap row's vectors begin for the first output
  int64_t tap_rows, chunks, chunk_step;
  int64_t rows, row_step, columns, column_step;
  const uint8_t* packed;  // pack_gemm with panels of one vector, K = tap_rows x (chunks padded to 4 taps)
  int64_t panel;
  float scale;
  int32_t zero_point;
  float* y;  // only the panel's logical channels are written
  int64_t y_row_stride, y_stride;
};

// The gates alone, from pre-activations that are whole: those of the GRU's n but for its input's part,
// which `pre` has. Both have the columns of a packed cell.
struct ApplyGatesArgs {
  const float* gates;  // (m, n_padded), rows gates_stride apart
  int64_t gates_stride;
  const float* pre;  // GRU only: (m, n_padded), rows pre_stride apart
  int64_t pre_stride;
  int64_t m, units;
  float* c;  // these four and `relu` as in RecurrentStepArgs
  float* h;
  float* y;
  int64_t y_stride;
  bool relu;
};

// ---- Embeddings -----------------------------------------------------------------------------------

// A table of quantized rows, the same bytes on every instruction set. Each row is a float32 scale, a
// float32 offset, then `width` codes: bytes, or nibbles of which the first of two is the low one. A code
// stands for fma(float(code), scale, offset).
struct EmbeddingTable {
  const uint8_t* rows;
  int64_t row_bytes;  // 8 + (width * bits + 7) / 8
  int64_t width;
  int32_t bits;  // 8 or 4
};

// int32 or int64 positions of rows; the caller has checked that each is one.
struct Indices {
  const void* data;
  int64_t count;
  bool is_int64;
};

// y[i] = the row of index i.
struct EmbeddingRowsArgs {
  EmbeddingTable table;
  Indices indices;
  float* y;  // (count, width)
};

enum class BagMode : int32_t { kSum = 0, kMean = 1, kMax = 2 };

// y[b] = the rows of bag b reduced in the order of its indices, column by column in float32:
//   kSum: acc = 0, then acc = acc + row, or fma(weight, row, acc) with weights
//   kMean: the sum / float(rows)      kMax: the first row, then max(acc, row)
// Indices equal to padding_index count for nothing; a bag of no rows gives zeros.
struct EmbeddingBagsArgs {
  EmbeddingTable table;
  Indices indices;
  const float* weights;   // (count), kSum only, or nullptr
  const int64_t* bounds;  // bag b holds the indices bounds[b] .. bounds[b + 1] - 1
  int64_t bag_begin, bag_end;
  BagMode mode;
  int64_t padding_index;  // or a negative number
  float* y;               // (bags, width)
};

// y[i] = float(weight[j]) * scale[j], j = index i, of a weight packed by this instruction set.
struct PackedRowsArgs {
  const uint8_t* packed;
  Indices indices;
  float* y;  // (count, k)
};

// ---- The table ------------------------------------------------------------------------------------

struct KernelTable {
  Isa isa;
  const char* name;
  int32_t lanes;  // floats in a vector
#define INTAGLIO_KERNEL(name, Args) void (*name)(const Args&) noexcept;
#include "kernels.inc"
#undef INTAGLIO_KERNEL
  int64_t (*gemm_scratch_bytes)(int64_t m, int64_t k_padded) noexcept;
  int64_t (*depthwise_scratch_bytes)(const DepthwiseStaticArgs& args) noexcept;
  int64_t (*winograd_scratch_bytes)() noexcept;
  // Loops of nothing but the instruction in question, for the roofline: return operations done.
  int64_t (*peak_int8)(int64_t iterations) noexcept;
  int64_t (*peak_float)(int64_t iterations) noexcept;
  int64_t (*read_bytes)(const uint8_t* p, int64_t bytes) noexcept;  // returns a checksum
};

// The table in use: the best of this CPU, or the one that INTAGLIO_ISA names.
const KernelTable& active_kernels();
// Makes `name` the table in use; throws std::invalid_argument if it is unknown or the CPU lacks it.
void force_isa(const char* name);
// The table of one instruction set, or nullptr where it was not compiled or the CPU lacks it.
const KernelTable* kernels_of(Isa isa);
const KernelTable* kernels_of(const char* name);
const char* isa_name(Isa isa);
// Whether this CPU has AVX-512 VBMI, which avx512_vnni does not ask for (LookUpArgs).
bool cpu_permutes_bytes();

}  // namespace intaglio
