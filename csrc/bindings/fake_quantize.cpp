// Fake quantization of training and its gradients.
#include "../program/fake_quantize.h"

#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

void bind_fake_quantize(nb::module_& m) {
  m.def(
      "fake_quantize_values",
      [](uintptr_t x, int64_t count, double scale, int zero_point, int quant_min, int quant_max, double low,
         double high, uintptr_t y, uintptr_t mask, int threads) {
        nb::gil_scoped_release release;
        fake_quantize_values(
            {pointer<const float>(x),
             count,
             {static_cast<float>(scale), static_cast<float>(zero_point), static_cast<float>(quant_min),
              static_cast<float>(quant_max), static_cast<float>(low), static_cast<float>(high)},
             pointer<float>(y),
             pointer<uint8_t>(mask)},
            threads);
      },
      "x"_a, "count"_a, "scale"_a, "zero_point"_a, "quant_min"_a, "quant_max"_a, "low"_a, "high"_a, "y"_a,
      "mask"_a, "threads"_a);
  m.def(
      "fake_quantize_observed",
      [](uintptr_t x, int64_t count, uintptr_t min_val, uintptr_t max_val, uintptr_t scale,
         uintptr_t zero_point, double averaging_constant, int quant_min, int quant_max, bool symmetric,
         double eps, double low, double high, uintptr_t y, uintptr_t mask, int threads) {
        nb::gil_scoped_release release;
        return fake_quantize_observed(
            {pointer<const float>(x), count, pointer<float>(min_val), pointer<float>(max_val),
             pointer<float>(scale), pointer<int32_t>(zero_point), static_cast<float>(averaging_constant),
             quant_min, quant_max, symmetric, eps, static_cast<float>(low), static_cast<float>(high),
             pointer<float>(y), pointer<uint8_t>(mask)},
            threads);
      },
      "x"_a, "count"_a, "min_val"_a, "max_val"_a, "scale"_a, "zero_point"_a, "averaging_constant"_a,
      "quant_min"_a, "quant_max"_a, "symmetric"_a, "eps"_a, "low"_a, "high"_a, "y"_a, "mask"_a, "threads"_a);
  m.def(
      "fake_quantize_weight",
      [](uintptr_t w, int64_t rows, int64_t cols, int most, uintptr_t min_val, uintptr_t max_val,
         uintptr_t scale, uintptr_t y, int threads) {
        nb::gil_scoped_release release;
        return fake_quantize_weight(
            {pointer<const float>(w), rows, cols, most, pointer<float>(min_val), pointer<float>(max_val),
             pointer<float>(scale), pointer<float>(y), nullptr},
            threads);
      },
      "w"_a, "rows"_a, "cols"_a, "most"_a, "min_val"_a, "max_val"_a, "scale"_a, "y"_a, "threads"_a);
  m.def(
      "fake_quantize_rows",
      [](uintptr_t w, int64_t rows, int64_t cols, uintptr_t scale, uintptr_t zero_point, int quant_min,
         int quant_max, uintptr_t y, uintptr_t mask, int threads) {
        nb::gil_scoped_release release;
        fake_quantize_rows({pointer<const float>(w), rows, cols, pointer<const float>(scale),
                            pointer<const int32_t>(zero_point), static_cast<float>(quant_min),
                            static_cast<float>(quant_max), pointer<float>(y), pointer<uint8_t>(mask)},
                           threads);
      },
      "w"_a, "rows"_a, "cols"_a, "scale"_a, "zero_point"_a, "quant_min"_a, "quant_max"_a, "y"_a, "mask"_a,
      "threads"_a);
  m.def(
      "apply_mask",
      [](uintptr_t grad, uintptr_t mask, int64_t count, uintptr_t grad_x, int threads) {
        nb::gil_scoped_release release;
        apply_mask({pointer<const float>(grad), pointer<const uint8_t>(mask), count, pointer<float>(grad_x)},
                   threads);
      },
      "grad"_a, "mask"_a, "count"_a, "grad_x"_a, "threads"_a);
  m.def(
      "learned_gradients",
      [](uintptr_t grad, uintptr_t x, int64_t rows, int64_t cols, uintptr_t scale, uintptr_t zero_point,
         int quant_min, int quant_max, double low, double high, uintptr_t grad_x, uintptr_t grad_scale,
         uintptr_t grad_zero_point, int threads) {
        nb::gil_scoped_release release;
        learned_gradients(
            {pointer<const float>(grad), pointer<const float>(x), rows, cols, pointer<const float>(scale),
             pointer<const float>(zero_point), static_cast<float>(quant_min), static_cast<float>(quant_max),
             static_cast<float>(low), static_cast<float>(high), pointer<float>(grad_x),
             pointer<float>(grad_scale), pointer<float>(grad_zero_point)},
            threads);
      },
      "grad"_a, "x"_a, "rows"_a, "cols"_a, "scale"_a, "zero_point"_a, "quant_min"_a, "quant_max"_a, "low"_a,
      "high"_a, "grad_x"_a, "grad_scale"_a, "grad_zero_point"_a, "threads"_a);
}

}  // namespace intaglio
