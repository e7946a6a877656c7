// 3 x 3 convolution by Winograd's F(4x4, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural
// Networks", 2016), exactly, in integers: a quarter of the products, of 16-bit words.
//
// The transforms are those of the points 0, 1, -1, 2, -2 and infinity, each row scaled to integers. Pixels
// become words of at most 100 * 255, weights words of at most 49 * 128. Sums and the transform of the outputs
// are taken modulo 2^32; their rows carry factors of 24, 12, 6 and 6, so that output (r, c) comes out as the
// true sum times 9 * 2^(s[r] + s[c]), s = 3, 2, 1, 1. Multiplying by the inverse of 9 modulo 2^32 leaves the
// power of two, and while the true sum is below 2^25 the product fits an int32 and shifts back exactly.
#pragma once

#include "requantize-inl.h"
#include "words-inl.h"

namespace intaglio {
namespace {

constexpr int kPanelVectors = 2;
constexpr int64_t kWinogradPanel = kPanelVectors * kLanes;
constexpr int64_t kWords = 2 * kLanes;
constexpr int kPoints = 6, kOutputs = 4;  // of a tile, along each axis
// The products of a plane: tiles by a panel, and a cache line between planes against aliasing.
constexpr int64_t kProductStep = kWinogradTiles * kWinogradPanel + 16;

// ---- Weights --------------------------------------------------------------------------------------

// A packed weight: sums of the weights by output, then for each panel and plane, for each pair of inputs,
// kPanelVectors vectors of pairs of words.
inline const int16_t* winograd_weight(const uint8_t* packed, int64_t outputs) {
  return reinterpret_cast<const int16_t*>(packed + round_up(outputs * 4, 64));
}

void pack_winograd(const PackWinogradArgs& args) noexcept {
  constexpr int kFactor[kPoints][3] = {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {1, 2, 4}, {1, -2, 4}, {0, 0, 1}};
  const int64_t outputs = args.outputs, inputs = args.inputs;
  *args.bytes = round_up(outputs * 4, 64) + kWinogradPlanes * outputs * inputs * 2;
  if (args.packed == nullptr) return;
  auto* sums = reinterpret_cast<int32_t*>(args.packed);
  auto* to = const_cast<int16_t*>(winograd_weight(args.packed, outputs));
  for (int64_t n = 0; n < outputs; ++n) {
    sums[n] = 0;
    for (int64_t c = 0; c < inputs; ++c) {
      const int8_t* w = args.weight + (n * inputs + c) * 9;
      for (int i = 0; i < 9; ++i) sums[n] += w[i];
      for (int a = 0; a < kPoints; ++a) {
        int row[3];
        for (int j = 0; j < 3; ++j)
          row[j] = kFactor[a][0] * w[j] + kFactor[a][1] * w[3 + j] + kFactor[a][2] * w[6 + j];
        for (int b = 0; b < kPoints; ++b) {
          const int value = kFactor[b][0] * row[0] + kFactor[b][1] * row[1] + kFactor[b][2] * row[2];
          const int64_t plane = n / kWinogradPanel * kWinogradPlanes + a * kPoints + b;
          to[(plane * inputs / 2 + c / 2) * kWinogradPanel * 2 + n % kWinogradPanel * 2 + c % 2] =
              static_cast<int16_t>(value);
        }
      }
    }
  }
}

// ---- Input ----------------------------------------------------------------------------------------

// One dimension of the transform of the input.
inline void transform_input(const I (&x)[kPoints], I (&v)[kPoints]) {
  const auto four = [](I a) { return shift_words_left<2>(a); };
  const auto five = [four](I a) { return add_words(four(a), a); };
  v[0] = add_words(sub_words(four(x[0]), five(x[2])), x[4]);
  v[1] = sub_words(add_words(x[3], x[4]), four(add_words(x[1], x[2])));
  v[2] = add_words(sub_words(x[4], x[3]), four(sub_words(x[1], x[2])));
  const I even = sub_words(x[4], x[2]), odd = sub_words(x[3], x[1]), twice = add_words(odd, odd);
  v[3] = add_words(even, twice);
  v[4] = sub_words(even, twice);
  v[5] = add_words(sub_words(four(x[1]), five(x[3])), x[5]);
}

__attribute__((noinline)) void transform_input_tile(const uint8_t* image, const WinogradInputArgs& args,
                                                    int16_t* v) {
  const int64_t row_bytes = args.row_bytes, channels = args.channels, plane_step = args.plane_step;
  for (int64_t c = 0; c < channels; c += kWords) {
    I rows[kPoints][kPoints];
#pragma GCC unroll 6
    for (int x = 0; x < kPoints; ++x) {
      I in[kPoints], out[kPoints];
#pragma GCC unroll 6
      for (int y = 0; y < kPoints; ++y) in[y] = load_u8_words(image + y * row_bytes + x * channels + c);
      transform_input(in, out);
#pragma GCC unroll 6
      for (int y = 0; y < kPoints; ++y) rows[y][x] = out[y];
    }
#pragma GCC unroll 6
    for (int y = 0; y < kPoints; ++y) {
      I out[kPoints];
      transform_input(rows[y], out);
#pragma GCC unroll 6
      for (int x = 0; x < kPoints; ++x) store_words(v + (y * kPoints + x) * plane_step + c, out[x]);
    }
  }
}

void winograd_input(const WinogradInputArgs& args) noexcept {
  for (int64_t t = 0; t < args.tiles; ++t)
    transform_input_tile(args.image + args.start[t], args, args.v + t * args.channels);
}

// ---- Products -------------------------------------------------------------------------------------

// products[tile][column] of one plane: T tiles by a panel. The rows lie evenly, so that two pointers and
// multiples of the step reach all of them.
template <int T>
__attribute__((noinline)) void multiply_plane(const int16_t* v, int64_t inputs, const int16_t* w,
                                              int32_t* products) {
  constexpr int kHalf = 7;
  I acc[T][kPanelVectors];
#pragma GCC unroll 16
  for (int i = 0; i < T; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kPanelVectors; ++j) acc[i][j] = set_int(0);
  const int16_t *low = v, *high = v + kHalf * inputs;
  const int64_t one = inputs, three = 3 * inputs, five = 5 * inputs;
  const int16_t* const end = v + inputs;
  do {
    I b[kPanelVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kPanelVectors; ++j) b[j] = load_words(w + j * kWords);
    w += kPanelVectors * kWords;
#pragma GCC unroll 16
    for (int i = 0; i < T; ++i) {
      const int16_t* from = i < kHalf ? low : high;
      const int at = i % kHalf;
      from = at == 0   ? from
             : at == 1 ? from + one
             : at == 2 ? from + 2 * one
             : at == 3 ? from + three
             : at == 4 ? from + 4 * one
             : at == 5 ? from + five
                       : from + 2 * three;
      const I x = broadcast_words(from);
#pragma GCC unroll 2
      for (int j = 0; j < kPanelVectors; ++j) acc[i][j] = dot_words(acc[i][j], x, b[j]);
    }
    low += 2;
    high += 2;
  } while (low < end);
#pragma GCC unroll 16
  for (int i = 0; i < T; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kPanelVectors; ++j) pin(acc[i][j]);
#pragma GCC unroll 16
  for (int i = 0; i < T; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kPanelVectors; ++j) store_int(products + i * kWinogradPanel + j * kLanes, acc[i][j]);
}

using MultiplyPlane = void (*)(const int16_t*, int64_t, const int16_t*, int32_t*);

template <int T = kWinogradTiles>
MultiplyPlane multiply_plane_of(int64_t tiles) {
  if constexpr (T == 1) {
    return multiply_plane<1>;
  } else {
    return tiles == T ? multiply_plane<T> : multiply_plane_of<T - 1>(tiles);
  }
}

// ---- Output ---------------------------------------------------------------------------------------

inline I times_three(I a) { return add_int(a, add_int(a, a)); }

// One dimension of the transform of the output; rows carry factors of 24, 12, 6 and 6 over 3 * 2^s.
inline void transform_output(const I (&m)[kPoints], I (&y)[4]) {
  const I sum1 = add_int(m[1], m[2]), difference1 = sub_int(m[1], m[2]);
  const I sum2 = add_int(m[3], m[4]), difference2 = sub_int(m[3], m[4]);
  const I six0 = shift_left<1>(times_three(m[0]));
  y[0] = add_int(sub_int(six0, shift_left<2>(sum1)), sum2);
  y[1] = sub_int(difference2, shift_left<1>(difference1));
  y[2] = sub_int(sum2, sum1);
  const I both = add_int(times_three(m[5]), difference2);
  y[3] = sub_int(shift_left<1>(both), difference1);
}

template <int kRow, int kColumn>
inline I scale_back(I y) {
  constexpr int kShift[4] = {3, 2, 1, 1};
  constexpr int32_t kInverseOf9 = 954437177;
  return shift_right_signed<kShift[kRow] + kShift[kColumn]>(mul_int(y, set_int(kInverseOf9)));
}

// Where a tile's outputs go.
struct WinogradOutput {
  uint8_t* y;
  WinogradPlace place;
  int64_t row_bytes, pixel_bytes;
};

using TransformedColumns = int32_t[kPanelVectors][kOutputs][kPoints][kLanes];

// The columns' transform of one tile; the products of plane p stand at products + p * kProductStep.
inline void transform_columns(const int32_t* products, TransformedColumns& columns) {
  for (int h = 0; h < kPanelVectors; ++h)
    for (int x = 0; x < kPoints; ++x) {
      I m[kPoints], y[kOutputs];
#pragma GCC unroll 6
      for (int r = 0; r < kPoints; ++r)
        m[r] = load_int(products + (r * kPoints + x) * kProductStep + h * kLanes);
      transform_output(m, y);
#pragma GCC unroll 4
      for (int r = 0; r < kOutputs; ++r) store_int(columns[h][r][x], y[r]);
    }
}

// The sums of one row of outputs.
template <int kRow>
inline __attribute__((always_inline)) void transform_row(const TransformedColumns& columns,
                                                         const int32_t* first,
                                                         I (&acc)[kOutputs][kPanelVectors]) {
#pragma GCC unroll 2
  for (int h = 0; h < kPanelVectors; ++h) {
    I m[kPoints], y[kOutputs];
#pragma GCC unroll 6
    for (int x = 0; x < kPoints; ++x) m[x] = load_int(columns[h][kRow][x]);
    transform_output(m, y);
    const I start = load_int(first + h * kLanes);
    acc[0][h] = add_int(scale_back<kRow, 0>(y[0]), start);
    acc[1][h] = add_int(scale_back<kRow, 1>(y[1]), start);
    acc[2][h] = add_int(scale_back<kRow, 2>(y[2]), start);
    acc[3][h] = add_int(scale_back<kRow, 3>(y[3]), start);
  }
}

template <int kRow, EpilogueForm kForm>
inline __attribute__((always_inline)) void finish_row_of_tile(const TransformedColumns& columns,
                                                              const PanelRequantizer& panel,
                                                              const WinogradOutput& output) {
  I acc[kOutputs][kPanelVectors];
  transform_row<kRow>(columns, panel.first, acc);
  const int64_t at = output.place.offset + kRow * output.row_bytes, step = output.pixel_bytes;
  requantize_tile<kOutputs, kPanelVectors, kForm>(acc, panel, output.y,
                                                  {at, at + step, at + 2 * step, at + 3 * step});
}

// All outputs of a tile.
template <EpilogueForm kForm>
__attribute__((noinline)) void finish_tile(const int32_t* products, const PanelRequantizer& panel,
                                           const WinogradOutput& output) {
  alignas(64) TransformedColumns columns;
  transform_columns(products, columns);
  finish_row_of_tile<0, kForm>(columns, panel, output);
  finish_row_of_tile<1, kForm>(columns, panel, output);
  finish_row_of_tile<2, kForm>(columns, panel, output);
  finish_row_of_tile<3, kForm>(columns, panel, output);
}

template <int kRow>
inline void store_row_of_tile(const TransformedColumns& columns, const int32_t* first, int32_t* sums) {
  I acc[kOutputs][kPanelVectors];
  transform_row<kRow>(columns, first, acc);
#pragma GCC unroll 4
  for (int x = 0; x < kOutputs; ++x)
#pragma GCC unroll 2
    for (int h = 0; h < kPanelVectors; ++h) store_int(sums + x * kWinogradPanel + h * kLanes, acc[x][h]);
}

// Those outputs of a tile that exist, in any form.
__attribute__((noinline)) void finish_part_of_tile(const int32_t* products, const PanelRequantizer& panel,
                                                   const WinogradOutput& output) {
  alignas(64) TransformedColumns columns;
  transform_columns(products, columns);
  int32_t sums[kOutputs][kOutputs * kWinogradPanel];
  store_row_of_tile<0>(columns, panel.first, sums[0]);
  store_row_of_tile<1>(columns, panel.first, sums[1]);
  store_row_of_tile<2>(columns, panel.first, sums[2]);
  store_row_of_tile<3>(columns, panel.first, sums[3]);
  for (int64_t y = 0; y < output.place.rows; ++y)
    for (int64_t x = 0; x < output.place.columns; ++x)
      requantize_any(sums[y] + x * kWinogradPanel, kPanelVectors, panel, output.y,
                     output.place.offset + y * output.row_bytes + x * output.pixel_bytes);
}

int64_t winograd_scratch_bytes() noexcept { return kWinogradPlanes * kProductStep * 4; }

void winograd_multiply(const WinogradMultiplyArgs& args) noexcept {
  if (args.tiles <= 0) return;
  auto* products = static_cast<int32_t*>(args.scratch);
  const int64_t inputs = args.inputs, plane_weights = inputs * kWinogradPanel;
  const int64_t groups = (args.tiles + kWinogradTiles - 1) / kWinogradTiles;
  for (int64_t p = args.panel_begin; p < args.panel_end; ++p) {
    const auto* sums = reinterpret_cast<const int32_t*>(args.packed) + p * kWinogradPanel;
    const PanelRequantizer panel(args.requantize, p * kWinogradPanel, kWinogradPanel, args.zero_point, sums,
                                 9 * inputs);
    const auto finish = panel.form == EpilogueForm::kPlain      ? finish_tile<EpilogueForm::kPlain>
                        : panel.form == EpilogueForm::kResidual ? finish_tile<EpilogueForm::kResidual>
                                                                : finish_part_of_tile;
    const int16_t* weight = winograd_weight(args.packed, args.outputs) + p * kWinogradPlanes * plane_weights;
    WinogradOutput output{args.y + p * kWinogradPanel, {}, args.y_row_bytes, args.y_pixel_bytes};
    int64_t tile = 0;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t count = (args.tiles - tile + groups - g - 1) / (groups - g);
      const MultiplyPlane multiply = multiply_plane_of(count);
      for (int64_t plane = 0; plane < kWinogradPlanes; ++plane)
        multiply(args.v + plane * args.plane_step + tile * inputs, inputs, weight + plane * plane_weights,
                 products + plane * kProductStep);
      for (int64_t i = 0; i < count; ++i) {
        output.place = args.place[tile + i];
        const bool whole = output.place.rows == kOutputs && output.place.columns == kOutputs;
        (whole ? finish : finish_part_of_tile)(products + i * kWinogradPanel, panel, output);
      }
      tile += count;
    }
  }
}

}  // namespace
}  // namespace intaglio
