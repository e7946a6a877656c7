// Packing of float16 weights and their Linear.
#include "../program/half.h"

#include "bindings.h"
#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

void bind_half(Bindings& b) {
  nb::module_& m = b.module;
  m.def("packed_half_bytes", &packed_half_bytes, "n"_a, "k"_a);
  m.def(
      "pack_half_weight",
      [](uintptr_t weight, uintptr_t bias, int64_t n, int64_t k, uintptr_t packed) {
        nb::gil_scoped_release release;
        pack_half_weight(pointer<const uint16_t>(weight), pointer<const float>(bias), n, k,
                         pointer<uint8_t>(packed));
      },
      "weight"_a, "bias"_a, "n"_a, "k"_a, "packed"_a);
  m.def(
      "unpack_half_weight",
      [](uintptr_t packed, uintptr_t weight, uintptr_t bias) {
        nb::gil_scoped_release release;
        unpack_half_weight(pointer<const uint8_t>(packed), pointer<uint16_t>(weight), pointer<float>(bias));
      },
      "packed"_a, "weight"_a, "bias"_a);
  b.driver(
      "linear_half",
      [](Address x, int64_t rows, int64_t k, Address packed, Address addend, Address y, Threads threads) {
        linear_half({pointer<const float>(x), rows, k, pointer<const uint8_t>(packed),
                     pointer<const float>(addend), pointer<float>(y), threads});
      },
      "x"_a, "rows"_a, "k"_a, "packed"_a, "addend"_a, "y"_a);
}

}  // namespace intaglio
