// Quantization and dequantization of images.
#include "../program/layout.h"

#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

void bind_layout(Bindings& b) {
  b.driver(
      "quantize_image",
      [](Address x, int64_t batch, int64_t channels, int64_t pixels, bool planes, double scale,
         int zero_point, int lower, int upper, Address q, Threads threads) {
        quantize_image(pointer<const float>(x), {batch, channels, pixels}, planes, static_cast<float>(scale),
                       {zero_point, lower, upper}, pointer<uint8_t>(q), threads);
      },
      "x"_a, "batch"_a, "channels"_a, "pixels"_a, "planes"_a, "scale"_a, "zero_point"_a, "lower"_a, "upper"_a,
      "q"_a);
  b.driver(
      "dequantize_image",
      [](Address q, int64_t batch, int64_t channels, int64_t pixels, bool planes, double scale,
         int zero_point, Address x, Threads threads) {
        dequantize_image(pointer<const uint8_t>(q), {batch, channels, pixels}, planes,
                         static_cast<float>(scale), zero_point, pointer<float>(x), threads);
      },
      "q"_a, "batch"_a, "channels"_a, "pixels"_a, "planes"_a, "scale"_a, "zero_point"_a, "x"_a);
}

}  // namespace intaglio
