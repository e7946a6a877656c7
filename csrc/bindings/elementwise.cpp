// Tables, sums, products and concatenation of u8.
#include "../program/elementwise.h"

#include <nanobind/stl/vector.h>

#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {
namespace {

std::vector<const uint8_t*> pointers(const std::vector<uintptr_t>& addresses) {
  std::vector<const uint8_t*> found;
  found.reserve(addresses.size());
  for (const uintptr_t address : addresses) found.push_back(pointer<const uint8_t>(address));
  return found;
}

}  // namespace

void bind_elementwise(nb::module_& m) {
  m.def("cpu_permutes_bytes", &cpu_permutes_bytes, "Whether this CPU has AVX-512 VBMI.");
  m.def(
      "look_up_bytes",
      [](uintptr_t x, int64_t count, uintptr_t table, uintptr_t y, bool permutes_bytes, int threads) {
        nb::gil_scoped_release release;
        look_up_bytes(pointer<const uint8_t>(x), count, pointer<const uint8_t>(table), pointer<uint8_t>(y),
                      permutes_bytes, threads);
      },
      "x"_a, "count"_a, "table"_a, "y"_a, "permutes_bytes"_a, "threads"_a);
  m.def(
      "combine_pairs",
      [](int op, uintptr_t a, uintptr_t b, int64_t groups, int64_t rows, int64_t cols, int single,
         bool shared, double scale_a, int zero_point_a, double scale_b, int zero_point_b, double scale,
         int zero_point, int lower, int upper, uintptr_t y, int threads) {
        nb::gil_scoped_release release;
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
      "zero_point_a"_a, "scale_b"_a, "zero_point_b"_a, "scale"_a, "zero_point"_a, "lower"_a, "upper"_a, "y"_a,
      "threads"_a);
  m.def(
      "concatenate_rows",
      [](const std::vector<uintptr_t>& parts, const std::vector<uintptr_t>& tables,
         const std::vector<int64_t>& cols, int64_t rows, uintptr_t y, int threads) {
        const ConcatenateCall call{pointers(parts),     pointers(tables), cols, rows,
                                   pointer<uint8_t>(y), threads};
        nb::gil_scoped_release release;
        concatenate_rows(call);
      },
      "parts"_a, "tables"_a, "cols"_a, "rows"_a, "y"_a, "threads"_a);
}

}  // namespace intaglio
