// Normalization and softmax of u8.
#include "../program/normalize.h"

#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

void bind_normalize(Bindings& b) {
  b.driver(
      "normalize_rows",
      [](Address x, int64_t rows, int64_t cols, double epsilon, Address multiplier, Address offset,
         int zero_point, int lower, int upper, Address y, Threads threads) {
        normalize_rows({pointer<const uint8_t>(x),
                        rows,
                        cols,
                        epsilon,
                        pointer<const float>(multiplier),
                        pointer<const float>(offset),
                        {zero_point, lower, upper},
                        pointer<uint8_t>(y)},
                       threads);
      },
      "x"_a, "rows"_a, "cols"_a, "epsilon"_a, "multiplier"_a, "offset"_a, "zero_point"_a, "lower"_a,
      "upper"_a, "y"_a);
  b.driver(
      "normalize_groups",
      [](Address x, int64_t batch, int64_t pixels, int64_t channels, int64_t groups, double epsilon,
         Address multiplier, Address offset, int zero_point, int lower, int upper, Address y,
         Threads threads) {
        normalize_groups({pointer<const uint8_t>(x),
                          batch,
                          pixels,
                          channels,
                          groups,
                          epsilon,
                          pointer<const float>(multiplier),
                          pointer<const float>(offset),
                          {zero_point, lower, upper},
                          pointer<uint8_t>(y),
                          threads});
      },
      "x"_a, "batch"_a, "pixels"_a, "channels"_a, "groups"_a, "epsilon"_a, "multiplier"_a, "offset"_a,
      "zero_point"_a, "lower"_a, "upper"_a, "y"_a);
  b.driver(
      "softmax_rows",
      [](Address x, int64_t rows, int64_t cols, Address table, Address planes, double scale, int zero_point,
         int lower, int upper, Address y, Threads threads) {
        softmax_rows({pointer<const uint8_t>(x),
                      rows,
                      cols,
                      pointer<const int32_t>(table),
                      pointer<const uint8_t>(planes),
                      scale,
                      {zero_point, lower, upper},
                      pointer<uint8_t>(y),
                      false},
                     threads);
      },
      "x"_a, "rows"_a, "cols"_a, "table"_a, "planes"_a, "scale"_a, "zero_point"_a, "lower"_a, "upper"_a,
      "y"_a);
}

}  // namespace intaglio
