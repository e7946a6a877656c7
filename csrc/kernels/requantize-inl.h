// int32 sums to u8 with fixed parameters: the epilogue of the static kernels (struct Requantize).
//
// Where no sum can come near the bounds of an int32, the formula's bounds of 2^20 are left out: saturation
// does the same.
#pragma once

namespace intaglio {
namespace {

constexpr float kLargestSum = 0x1p30f;  // up to here conversion to int32 is safe, rounding included
constexpr float kFarthest = 0x1p20f;    // the formula's bound

// Whether a part of a vector is loaded by one instruction, and not in a loop.
constexpr bool kLoadsTails = kRegisters == 32;

// What a tile has to do: kPlain and kResidual cannot exceed the bound; kAny is for what may, and for what
// else is rare.
enum class EpilogueForm { kPlain, kResidual, kAny };

// The parameters of up to four vectors of output channels, padded to whole vectors.
struct PanelRequantizer {
  static constexpr int kWidth = kMaxVectors * kLanes;
  alignas(64) int32_t first[kWidth];  // where sums start
  alignas(64) float multiplier[kWidth];
  alignas(64) float offset[kWidth];
  int32_t zero_point, lower, upper;
  int32_t residual_zero_point;
  float residual_multiplier;
  const uint8_t* residual;  // of the first of these channels, or nullptr
  int columns;              // channels that exist
  EpilogueForm form;
  bool packs_only;  // zero point 0 and all of 0..255, as behind a ReLU: saturation is all there is to do

  // Of the channels begin..begin+count-1 of `r`, and sums of k products.
  PanelRequantizer(const Requantize& r, int64_t begin, int64_t count, int32_t input_zero_point,
                   const int32_t* column_sum, int64_t k)
      : zero_point(r.zero_point),
        lower(r.lower),
        upper(r.upper),
        residual_zero_point(r.residual_zero_point),
        residual_multiplier(r.residual_multiplier),
        residual(r.residual == nullptr ? nullptr : r.residual + begin),
        columns(static_cast<int>(count)) {
    const I input_zero = set_int(input_zero_point);
    packs_only = r.zero_point == 0 && r.lower == 0 && r.upper == 255;
    const F largest = set(255.0f * 128.0f * static_cast<float>(k)), none = set(0.0f);
    F most = none;
    for (int j = columns / kLanes * kLanes; j < kWidth; j += kLanes) {
      store_int(first + j, set_int(0));
      store(multiplier + j, none);
      store(offset + j, none);
    }
    for (int j = 0; j < columns; j += kLanes) {
      const int n = columns - j < kLanes ? columns - j : kLanes;
      const F m = load_n(r.multiplier + begin + j, n), o = load_n(r.offset + begin + j, n);
      store_int(first + j, sub_int(set_int(0), mul_int(input_zero, load_int(column_sum + j))));
      store(multiplier + j, m);
      store(offset + j, o);
      most = max(most, fma(max(m, sub(none, m)), largest, max(o, sub(none, o))));
    }
    const float slope = residual_multiplier < 0.0f ? -residual_multiplier : residual_multiplier;
    const bool bounded = reduce_max(most) + 255.0f * (residual == nullptr ? 0.0f : slope) < kLargestSum;
    form = residual == nullptr ? EpilogueForm::kPlain : EpilogueForm::kResidual;
    const bool loads_tail = kLoadsTails || residual == nullptr || columns % kLanes == 0;
    if (!bounded || !loads_tail) form = EpilogueForm::kAny;
  }
};

// One pixel's sums to u8, whatever the panel asks for. `at` is the byte of the pixel behind `to` and behind
// the residual.
__attribute__((noinline)) void requantize_any(const int32_t* sums, int64_t vectors,
                                              const PanelRequantizer& panel, uint8_t* to, int64_t at) {
  const uint8_t* residual = panel.residual;
  const I zero = set_int(panel.zero_point), lower = set_int(panel.lower), upper = set_int(panel.upper);
  for (int j = 0; j < vectors * kLanes; j += kLanes) {
    const int left = panel.columns - j < kLanes ? panel.columns - j : kLanes;
    F y = fma(to_float(load_int(sums + j)), load(panel.multiplier + j), load(panel.offset + j));
    if (residual != nullptr) {
      const F value =
          sub(load_u8_n(residual + at + j, left), set(static_cast<float>(panel.residual_zero_point)));
      y = fma(value, set(panel.residual_multiplier), y);
    }
    const F bounded = min(set(kFarthest), max(set(-kFarthest), y));
    store_u8_n(to + at + j, min_int(upper, max_int(lower, add_int(to_int(bounded), zero))), left);
  }
}

// The pixel i of a tile, if it has so many, from the bytes of vectors kRow * NV on: whole, or the first
// `part`.
template <int NV, int kRow, int MR>
inline __attribute__((always_inline)) void store_row(uint8_t* to, int i, const int64_t (&at)[MR], Bytes bytes,
                                                     int part) {
  if (i >= MR) return;
  const Bytes row = bytes_from<NV * kRow>(bytes);
  if (part == 0)
    store_bytes<NV>(to + at[i], row);
  else
    store_bytes_n(to + at[i], row, part);
}

// Rounded values of MR pixels to bytes, and where they go.
template <int MR, int NV, bool kPacksOnly>
inline __attribute__((always_inline)) void store_tile(I (&acc)[MR][NV], const PanelRequantizer& panel,
                                                      uint8_t* to, const int64_t (&at)[MR]) {
  const int columns = panel.columns, part = columns % kLanes == 0 ? 0 : columns;
  const I zero = set_words(panel.zero_point);
  const Bytes lower = set_bytes(panel.lower), upper = set_bytes(panel.upper);
  // Rows of one or two vectors are packed together, up to four vectors.
  constexpr int kRows = NV == 1 ? 4 : NV == 2 ? 2 : 1;
#pragma GCC unroll 16
  for (int i = 0; i < MR; i += kRows) {
    I sums[kRows * NV];
#pragma GCC unroll 4
    for (int j = 0; j < kRows * NV; ++j) sums[j] = acc[i + j / NV < MR ? i + j / NV : i][j % NV];
    Bytes bytes = pack_bytes<kRows * NV, !kPacksOnly>(sums, zero);
    if constexpr (!kPacksOnly) bytes = clamp_bytes(bytes, lower, upper);
    store_row<NV, 0>(to, i, at, bytes, part);
    if constexpr (kRows > 1) store_row<NV, 1>(to, i + 1, at, bytes, part);
    if constexpr (kRows > 2) store_row<NV, 2>(to, i + 2, at, bytes, part);
    if constexpr (kRows > 3) store_row<NV, 3>(to, i + 3, at, bytes, part);
  }
}

// The sums of MR pixels and NV vectors of channels to u8. `at[i]` is the byte of pixel i behind `to` and
// behind the residual.
template <int MR, int NV, EpilogueForm kForm>
inline __attribute__((always_inline)) void requantize_tile(I (&acc)[MR][NV], const PanelRequantizer& panel,
                                                           uint8_t* to, const int64_t (&at)[MR]) {
  if constexpr (kForm == EpilogueForm::kAny) {
    int32_t sums[MR][NV * kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) store_int(sums[i] + j * kLanes, acc[i][j]);
    for (int i = 0; i < MR; ++i) requantize_any(sums[i], NV, panel, to, at[i]);
  } else {
    const F residual_multiplier = set(panel.residual_multiplier);
    const I residual_zero = set_int(panel.residual_zero_point);
    const uint8_t* residual = panel.residual;
    const int tail = panel.columns - (NV - 1) * kLanes;
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const F multiplier = load(panel.multiplier + j * kLanes), offset = load(panel.offset + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        F y = fma(to_float(acc[i][j]), multiplier, offset);
        if constexpr (kForm == EpilogueForm::kResidual) {
          const uint8_t* r = residual + at[i] + j * kLanes;
          // High tiles do without the branch, which costs them a register of the sums' loop.
          const F value = !kLoadsTails || j + 1 < NV || (NV > 2 && __builtin_expect(tail == kLanes, 1))
                              ? to_float(sub_int(load_u8_int(r), residual_zero))
                              : sub(load_u8_n(r, tail), to_float(residual_zero));
          y = fma(value, residual_multiplier, y);
        }
        acc[i][j] = to_int(y);
      }
    }
    if (panel.packs_only)
      store_tile<MR, NV, true>(acc, panel, to, at);
    else
      store_tile<MR, NV, false>(acc, panel, to, at);
  }
}

}  // namespace
}  // namespace intaglio
