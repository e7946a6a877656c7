// Interpolation of u8 images between neighbouring pixels (docs/numerics.md, "Static quantization").
#pragma once

#include "pooling-inl.h"

namespace intaglio {
namespace {

// Steps of a source column, blended down the rows and through the planes; those of odd places count 256 times
// (vec_*-inl.h, to_steps).
struct ColumnBlend {
  F v[4];
};

class ColumnBlender {
 public:
  explicit ColumnBlender(const BlendRowArgs& args)
      : front_{args.row[0], args.row[1]},
        back_{args.row[2], args.row[3]},
        x_end_(args.x_end),
        weight_y_(set(args.weight_y)),
        weight_z_(set(args.weight_z)) {}

  ColumnBlend at(int64_t offset, int n) const {
    ColumnBlend front = down(front_, offset, n);
    if (back_[0] == nullptr) return front;
    return between(front, down(back_, offset, n), weight_z_);
  }
  static ColumnBlend between(const ColumnBlend& a, const ColumnBlend& b, F weight) {
    ColumnBlend blend;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) blend.v[j] = fma(sub(b.v[j], a.v[j]), weight, a.v[j]);
    return blend;
  }

 private:
  ColumnBlend steps(const uint8_t* p, int n) const {
    ColumnBlend found;
    const I bytes = n == kBytes || x_end_ - p >= kBytes ? load_u8s(p) : load_u8s_n(p, n);
    to_steps(bytes, zeros_, found.v);
    return found;
  }
  ColumnBlend down(const uint8_t* const (&row)[2], int64_t offset, int n) const {
    return between(steps(row[0] + offset, n), steps(row[1] + offset, n), weight_y_);
  }

  const uint8_t *front_[2], *back_[2], *x_end_;
  F weight_y_, weight_z_;
  StepZeros zeros_ = step_zeros(0);
};

// Channels outside, so that a source column that several outputs share is blended once.
void blend_row(const BlendRowArgs& args) noexcept {
  const ColumnBlender blender(args);
  const ByteEncoder encoder({0, args.range.lower, args.range.upper});
  const int64_t columns = args.columns, channels = args.channels;
  const int64_t *left_of = args.left, *right_of = args.right;
  const float* weight = args.weight_x;
  const F part = set(1.0f / 256.0f);
  for (int64_t c = 0; c < channels; c += kBytes) {
    const int n = to_n(channels - c, kBytes);
    int64_t left_at = left_of[0], right_at = left_of[0];
    ColumnBlend left = blender.at(left_at + c, n), right = left;
    for (int64_t i = 0; i < columns; ++i) {
      if (left_of[i] != left_at) {
        left_at = left_of[i];
        left = left_at == right_at ? right : blender.at(left_at + c, n);
      }
      if (right_of[i] != right_at) {
        right_at = right_of[i];
        right = right_at == left_at ? left : blender.at(right_at + c, n);
      }
      const ColumnBlend blend = ColumnBlender::between(left, right, set(weight[i]));
      I rounded[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) rounded[j] = to_int(j % 2 == 0 ? blend.v[j] : mul(blend.v[j], part));
      const I bytes = encoder.clamp(interleave_u8_four(rounded, 0));
      // A whole vector may be stored for less where what it writes too much is written afterwards.
      uint8_t* y = args.y + i * channels + c;
      const bool overruns = c == 0 && (columns - i) * channels >= kBytes;
      n == kBytes || overruns ? store_u8s(y, bytes) : store_u8s_n(y, bytes, n);
    }
  }
}

}  // namespace
}  // namespace intaglio
