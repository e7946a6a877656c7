// Copies and fills.
#include "../program/copy.h"

#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

void bind_copy(Bindings& b) {
  b.driver(
      "copy_strided",
      [](Address x, Address y, int64_t item_bytes, const std::vector<int64_t>& sizes,
         const std::vector<int64_t>& x_strides, const std::vector<int64_t>& y_strides,
         Threads threads) { copy_strided({x, y, item_bytes, sizes, x_strides, y_strides, threads}); },
      "x"_a, "y"_a, "item_bytes"_a, "sizes"_a, "x_strides"_a, "y_strides"_a);
  b.driver(
      "fill_bytes",
      [](Address y, int64_t bytes, int value, Threads) { fill_bytes(y, bytes, static_cast<uint8_t>(value)); },
      "y"_a, "bytes"_a, "value"_a);
}

}  // namespace intaglio
