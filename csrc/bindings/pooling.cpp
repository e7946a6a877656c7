// Pooling of u8 images.
#include "../program/pooling.h"

#include <memory>
#include <stdexcept>

#include "../program/parallel.h"
#include "driver.h"

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

void bind_pooling(Bindings& b) {
  b.module.def(
      "pool",
      [](Address x, int64_t batch, int64_t channels, const std::vector<int64_t>& axes, bool average,
         bool count_padding, int64_t divisor_override, int zero_point, int lower, int upper, Address y,
         int threads) {
        nb::gil_scoped_release release;
        pool({batch,
              channels,
              axes_of(axes),
              average,
              count_padding,
              divisor_override,
              {zero_point, lower, upper}},
             x, y, threads);
      },
      "x"_a, "batch"_a, "channels"_a, "axes"_a, "average"_a, "count_padding"_a, "divisor_override"_a,
      "zero_point"_a, "lower"_a, "upper"_a, "y"_a, "threads"_a);
  b.plan.def(
      "pool",
      [](Plan& plan, std::string label, Address x, int64_t batch, int64_t channels,
         const std::vector<int64_t>& axes, bool average, bool count_padding, int64_t divisor_override,
         int zero_point, int lower, int upper, Address y) {
        const auto pools = std::make_shared<const PoolPlan>(PoolShape{batch,
                                                                      channels,
                                                                      axes_of(axes),
                                                                      average,
                                                                      count_padding,
                                                                      divisor_override,
                                                                      {zero_point, lower, upper}});
        plan.add(std::move(label), [pools, x, y](const Frame& frame) {
          const int64_t bytes = pools->scratch_bytes(frame.threads);
          Scratch scratch(bytes);
          pools->run(resolve(x, frame), resolve(y, frame), scratch.take<uint8_t>(bytes), frame.threads);
        });
      },
      "label"_a, "x"_a, "batch"_a, "channels"_a, "axes"_a, "average"_a, "count_padding"_a,
      "divisor_override"_a, "zero_point"_a, "lower"_a, "upper"_a, "y"_a, "Windows planned now.");
}

}  // namespace intaglio
