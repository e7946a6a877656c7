// Normalization and softmax of u8.
#include "../program/normalize.h"

#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

void bind_normalize(nb::module_& m) {
  m.def(
      "normalize_rows",
      [](uintptr_t x, int64_t rows, int64_t cols, double epsilon, uintptr_t multiplier, uintptr_t offset,
         int zero_point, int lower, int upper, uintptr_t y, int threads) {
        nb::gil_scoped_release release;
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
      "upper"_a, "y"_a, "threads"_a);
  m.def(
      "normalize_groups",
      [](uintptr_t x, int64_t batch, int64_t pixels, int64_t channels, int64_t groups, double epsilon,
         uintptr_t multiplier, uintptr_t offset, int zero_point, int lower, int upper, uintptr_t y,
         int threads) {
        nb::gil_scoped_release release;
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
      "zero_point"_a, "lower"_a, "upper"_a, "y"_a, "threads"_a);
  m.def(
      "softmax_rows",
      [](uintptr_t x, int64_t rows, int64_t cols, uintptr_t table, uintptr_t planes, double scale,
         int zero_point, int lower, int upper, uintptr_t y, int threads) {
        nb::gil_scoped_release release;
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
      "y"_a, "threads"_a);
}

}  // namespace intaglio
