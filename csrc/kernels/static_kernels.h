// Contracts of the kernels from u8 to u8 with fixed parameters; see also the top of kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace intaglio {

// ---- u8 to u8 with fixed parameters -------------------------------------------------------------
// The requantization of docs/numerics.md, "Static quantization", of int32 sums to u8:
//   y = fma(float(acc), multiplier[j], offset[j])
//   y = fma(float(r - residual_zero_point), residual_multiplier, y)         with a residual r
//   q = clamp(rne(min(2^20, max(-2^20, y))) + zero_point, lower, upper)     0 <= lower <= upper <= 255
// All of it is finite; a residual lies as the output does and may not be it.
struct Requantize {
  const float* multiplier;  // a value for each output channel of the call
  const float* offset;
  int32_t zero_point, lower, upper;
  const uint8_t* residual;  // or nullptr
  int32_t residual_zero_point;
  float residual_multiplier;
};

// c[i][j] = requantize(sum_k (a[i][k] - zero_point) * weight[j][k]) for the panels panel_begin..panel_end-1.
// Row i of `a` is never gathered: it is the runs of `run_bytes` bytes at image + start[i] + run[0],
// image + start[i] + run[1] ..., each rounded up to 4 bytes, of which those beyond the run are read and meet
// weights of zero. K of the packed weight is the bytes of all runs so rounded.
struct GemmStaticArgs {
  const uint8_t* image;
  const int64_t* start;  // (m), or nullptr: i * row_bytes
  int64_t row_bytes;
  int64_t m;
  const int64_t* run;  // (run_count)
  int64_t run_count, run_bytes;
  int32_t zero_point;
  const uint8_t* packed;  // made by pack_gemm of the same instruction set
  int64_t panel_begin, panel_end;
  Requantize requantize;
  uint8_t* c;            // row i at c + place[i], and of the residual at residual + place[i]
  const int64_t* place;  // (m), or nullptr: i * c_stride
  int64_t c_stride;
  void* scratch;  // gemm_scratch_bytes(m, k_padded) of the table, 64-byte aligned
};

// ---- Depthwise convolution from u8 to u8 -----------------------------------------------------------
// A block is 4 * lanes neighbouring output channels: the whole of a kernel call. Neighbouring taps of a row
// are interleaved, so that one dot product sums several of them, and an interleaving serves several outputs.

// The taps of one block: `tap_rows` rows of `taps` taps, `dilation` pixels apart, outputs `stride` pixels
// apart.
struct DepthwiseShape {
  int64_t channels;  // of this block, at most 4 * lanes
  int64_t tap_rows, taps;
  int64_t stride, dilation;
};

// With packed == nullptr it only writes `*bytes`.
struct PackDepthwiseArgs {
  DepthwiseShape shape;
  const int8_t* weight;  // (channels, tap_rows, taps)
  uint8_t* packed;       // *bytes long, 64-byte aligned
  int64_t* bytes;
};

// Rows of outputs of one block and one sample. Output row r reads, for tap row t, row r * row_step +
// row_offset[t] of `source`. Pixel x of a bordered row is pixel x - low of the source, or the zero point
// beyond it; output column c reads bordered pixels c * stride + tap * dilation.
struct DepthwiseStaticArgs {
  DepthwiseShape shape;
  const uint8_t* packed;         // made by pack_depthwise of the same instruction set and shape
  const uint8_t* const* source;  // rows at the block's first input channel, nullptr: zero points
  const int64_t* row_offset;     // (tap_rows), ascending from 0 on
  int64_t row_step;
  int64_t pixel_bytes;  // of the source
  int64_t repeat;       // output channels that share an input channel
  int64_t first;        // of the block's first output channel: which of the `repeat` it is
  int64_t low, width;
  int32_t zero_point;
  int64_t rows, columns;  // outputs
  Requantize requantize;  // of the block's first channel; the residual lies as y
  uint8_t* y;
  int64_t y_row_bytes, y_pixel_bytes;
  void* scratch;  // depthwise_scratch_bytes of the table, 64-byte aligned
};

// ---- 3 x 3 convolution by Winograd's F(4x4, 3x3), in integers ---------------------------------------
// A tile is 6 x 6 input pixels, from which 4 x 4 outputs follow. Everything is exact while the true sums of
// an output channel stay below 2^25 (255 times the sum of its positive, or of its negative, weights); the
// caller makes sure of that. Channels, of input and output, are multiples of 2 * lanes.

constexpr int64_t kWinogradPlanes = 36;

// With packed == nullptr it only writes `*bytes`.
struct PackWinogradArgs {
  const int8_t* weight;  // (outputs, inputs, 3, 3)
  int64_t outputs, inputs;
  uint8_t* packed;  // *bytes long, 64-byte aligned
  int64_t* bytes;
};

// v[plane][tile][channel] = the transformed pixels of the tiles at image + start[tile].
struct WinogradInputArgs {
  const uint8_t* image;
  const int64_t* start;  // (tiles): the first pixel of each
  int64_t tiles;
  int64_t row_bytes, channels;  // pixels are `channels` bytes
  int16_t* v;                   // 64-byte aligned; planes plane_step values apart, a multiple of 32
  int64_t plane_step;
};

// Where the outputs of a tile go: those of the first `rows` rows and `columns` columns that exist.
struct WinogradPlace {
  int64_t offset;  // of the first one behind y and behind the residual
  int64_t rows, columns;
};

// The outputs of some tiles and the panels panel_begin..panel_end-1 of 2 * lanes channels.
struct WinogradMultiplyArgs {
  const int16_t* v;  // made by winograd_input
  int64_t plane_step, tiles;
  const uint8_t* packed;  // made by pack_winograd of the same instruction set
  int64_t outputs, inputs;
  int64_t panel_begin, panel_end;
  int32_t zero_point;
  Requantize requantize;
  uint8_t* y;
  const WinogradPlace* place;  // (tiles)
  int64_t y_row_bytes, y_pixel_bytes;
  void* scratch;  // winograd_scratch_bytes of the table, 64-byte aligned
};

}  // namespace intaglio
