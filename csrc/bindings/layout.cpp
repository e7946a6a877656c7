// Quantization and dequantization of images.
#include "../program/layout.h"

#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

void bind_layout(nb::module_& m) {
  m.def(
      "quantize_image",
      [](uintptr_t x, int64_t batch, int64_t channels, int64_t pixels, bool planes, double scale,
         int zero_point, int lower, int upper, uintptr_t q, int threads) {
        nb::gil_scoped_release release;
        quantize_image(pointer<const float>(x), {batch, channels, pixels}, planes, static_cast<float>(scale),
                       {zero_point, lower, upper}, pointer<uint8_t>(q), threads);
      },
      "x"_a, "batch"_a, "channels"_a, "pixels"_a, "planes"_a, "scale"_a, "zero_point"_a, "lower"_a, "upper"_a,
      "q"_a, "threads"_a);
  m.def(
      "dequantize_image",
      [](uintptr_t q, int64_t batch, int64_t channels, int64_t pixels, bool planes, double scale,
         int zero_point, uintptr_t x, int threads) {
        nb::gil_scoped_release release;
        dequantize_image(pointer<const uint8_t>(q), {batch, channels, pixels}, planes,
                         static_cast<float>(scale), zero_point, pointer<float>(x), threads);
      },
      "q"_a, "batch"_a, "channels"_a, "pixels"_a, "planes"_a, "scale"_a, "zero_point"_a, "x"_a, "threads"_a);
}

}  // namespace intaglio
