// Interpolation of u8 images between neighbouring pixels (docs/numerics.md, "Static quantization").
#pragma once

#include "pooling-inl.h"

namespace intaglio {
namespace {

// Between the pixels of one row and of two; steps of odd places count 256 times (vec_*-inl.h, to_steps).
struct RowBlender {
  const BlendRowArgs& args;
  StepZeros zeros = step_zeros(0);

  I read(const uint8_t* p, int n) const {
    return n == kBytes || args.x_end - p >= kBytes ? load_u8s(p) : load_u8s_n(p, n);
  }
  void across(const uint8_t* left, const uint8_t* right, F weight, int n, F (&v)[4]) const {
    F end[4];
    to_steps(read(left, n), zeros, v);
    to_steps(read(right, n), zeros, end);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[j] = fma(sub(end[j], v[j]), weight, v[j]);
  }
  void down(int plane, int64_t column, int64_t c, int n, F (&v)[4]) const {
    const F weight = set(args.weight_x[column]);
    const int64_t left = args.left[column] + c, right = args.right[column] + c;
    const uint8_t *upper = args.row[2 * plane], *lower = args.row[2 * plane + 1];
    across(upper + left, upper + right, weight, n, v);
    F end[4];
    across(lower + left, lower + right, weight, n, end);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[j] = fma(sub(end[j], v[j]), set(args.weight_y), v[j]);
  }
};

void blend_row(const BlendRowArgs& args) noexcept {
  const RowBlender blender{args};
  const ByteEncoder encoder({0, args.range.lower, args.range.upper});
  uint8_t* y_end = args.y + args.columns * args.channels;
  for (int64_t i = 0; i < args.columns; ++i) {
    uint8_t* y = args.y + i * args.channels;
    for (int64_t c = 0; c < args.channels; c += kBytes) {
      const int n = to_n(args.channels - c, kBytes);
      F v[4];
      blender.down(0, i, c, n, v);
      if (args.row[2] != nullptr) {
        F back[4];
        blender.down(1, i, c, n, back);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) v[j] = fma(sub(back[j], v[j]), set(args.weight_z), v[j]);
      }
      const F one = set(1.0f), part = set(1.0f / 256.0f);
      I rounded[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) rounded[j] = to_int(mul(v[j], j % 2 == 0 ? one : part));
      const I bytes = encoder.clamp(interleave_u8_four(rounded, 0));
      n == kBytes || y_end - (y + c) >= kBytes ? store_u8s(y + c, bytes) : store_u8s_n(y + c, bytes, n);
    }
  }
}

}  // namespace
}  // namespace intaglio
