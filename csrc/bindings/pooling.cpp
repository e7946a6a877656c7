// Pooling of u8 images.
#include "../program/pooling.h"

#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {
namespace {

// Size, output size, kernel, stride, padding and dilation of three axes each; a kernel of 0 is adaptive.
std::array<PoolAxis, 3> axes_of(const std::vector<int64_t>& v) {
  if (v.size() != 18) throw std::invalid_argument("pooling takes six integers for each of three axes");
  std::array<PoolAxis, 3> axes;
  for (size_t a = 0; a < 3; ++a)
    axes[a] = {v[a], v[3 + a], v[6 + a], v[9 + a], v[12 + a], v[15 + a], v[6 + a] == 0};
  return axes;
}

}  // namespace

void bind_pooling(nb::module_& m) {
  m.def(
      "pool",
      [](uintptr_t x, int64_t batch, int64_t channels, const std::vector<int64_t>& axes, bool average,
         bool count_padding, int64_t divisor_override, int zero_point, int lower, int upper, uintptr_t y,
         int threads) {
        const PoolShape shape{batch,
                              channels,
                              axes_of(axes),
                              average,
                              count_padding,
                              divisor_override,
                              {zero_point, lower, upper}};
        nb::gil_scoped_release release;
        pool(shape, pointer<const uint8_t>(x), pointer<uint8_t>(y), threads);
      },
      "x"_a, "batch"_a, "channels"_a, "axes"_a, "average"_a, "count_padding"_a, "divisor_override"_a,
      "zero_point"_a, "lower"_a, "upper"_a, "y"_a, "threads"_a);
}

}  // namespace intaglio
