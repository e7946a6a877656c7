// Interpolation of u8 images.
#include "../program/resize.h"

#include <stdexcept>
#include <vector>

#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

void bind_resize(Bindings& b) {
  b.driver(
      "resize",
      [](Address x, int64_t batch, int64_t channels, const std::vector<int64_t>& sizes,
         const std::vector<Address>& sources, bool blend, int lower, int upper, Address y, Threads threads) {
        if (sizes.size() != 6 || sources.size() != 9)
          throw std::invalid_argument("resize takes two sizes and three arrays for each of three axes");
        ResizeCall call{pointer<const uint8_t>(x), batch,  channels, {}, blend, {0, lower, upper},
                        pointer<uint8_t>(y),       threads};
        for (size_t a = 0; a < 3; ++a)
          call.axes[a] = {sizes[a], sizes[3 + a], pointer<const int64_t>(sources[3 * a]),
                          pointer<const int64_t>(sources[3 * a + 1]),
                          pointer<const float>(sources[3 * a + 2])};
        resize(call);
      },
      "x"_a, "batch"_a, "channels"_a, "sizes"_a, "sources"_a, "blend"_a, "lower"_a, "upper"_a, "y"_a);
}

}  // namespace intaglio
