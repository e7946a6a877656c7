// Tables, sums, products and concatenation of u8.
#include "../program/elementwise.h"

#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

void bind_elementwise(Bindings& b) {
  nb::module_& m = b.module;
  m.def("cpu_permutes_bytes", &cpu_permutes_bytes, "Whether this CPU has AVX-512 VBMI.");
  b.driver(
      "look_up_bytes",
      [](Address x, int64_t count, Address table, Address y, bool permutes_bytes, Threads threads) {
        look_up_bytes(pointer<const uint8_t>(x), count, pointer<const uint8_t>(table), pointer<uint8_t>(y),
                      permutes_bytes, threads);
      },
      "x"_a, "count"_a, "table"_a, "y"_a, "permutes_bytes"_a);
  b.driver(
      "combine_pairs",
      [](int op, Address a, Address b, int64_t groups, int64_t rows, int64_t cols, int single, bool shared,
         double scale_a, int zero_point_a, double scale_b, int zero_point_b, double scale, int zero_point,
         int lower, int upper, Address y, Threads threads) {
        combine_pairs({static_cast<PairOp>(op),
                       pointer<const uint8_t>(a),
                       pointer<const uint8_t>(b),
                       groups,
                       rows,
                       cols,
                       static_cast<SingleRow>(single),
                       shared,
                       scale_a,
                       scale_b,
                       scale,
                       zero_point_a,
                       zero_point_b,
                       {zero_point, lower, upper},
                       pointer<uint8_t>(y),
                       threads});
      },
      "op"_a, "a"_a, "b"_a, "groups"_a, "rows"_a, "cols"_a, "single"_a, "shared"_a, "scale_a"_a,
      "zero_point_a"_a, "scale_b"_a, "zero_point_b"_a, "scale"_a, "zero_point"_a, "lower"_a, "upper"_a,
      "y"_a);
  b.driver(
      "concatenate_rows",
      [](const std::vector<Address>& parts, const std::vector<Address>& tables,
         const std::vector<int64_t>& cols, int64_t rows, Address y, Threads threads) {
        const ConcatenateCall call{pointers_to<uint8_t>(parts),
                                   pointers_to<uint8_t>(tables),
                                   cols,
                                   rows,
                                   pointer<uint8_t>(y),
                                   threads};
        concatenate_rows(call);
      },
      "parts"_a, "tables"_a, "cols"_a, "rows"_a, "y"_a);
}

}  // namespace intaglio
