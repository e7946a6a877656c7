// Packing of recurrent cells, and recurrent layers over sequences.
#include "../program/recurrent.h"

#include <nanobind/stl/vector.h>

#include <vector>

#include "bindings.h"
#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {
namespace {

// Addresses of the plain tensors: weight and scale of input, hidden and projection, then both biases.
using Addresses = std::vector<uintptr_t>;

template <class Weights, class Weight, class Float>
Weights weights_at(const Addresses& at) {
  if (at.size() != 8) throw std::invalid_argument("a recurrent cell has eight plain tensors");
  return {pointer<Weight>(at[0]), pointer<Float>(at[1]), pointer<Weight>(at[2]), pointer<Float>(at[3]),
          pointer<Weight>(at[4]), pointer<Float>(at[5]), pointer<Float>(at[6]),  pointer<Float>(at[7])};
}

CellShape shape_of(int kind, int weight, int64_t input, int64_t hidden, int64_t projection) {
  return {static_cast<CellKind>(kind), static_cast<CellWeight>(weight), input, hidden, projection};
}

void run(Address x, int64_t rows, int64_t steps, int64_t batch, Address batch_sizes,
         const std::vector<Address>& cells, int64_t directions, Address y, Address h, Address c,
         Threads threads) {
  const std::vector<const uint8_t*> packed = pointers_to<uint8_t>(cells);
  run_recurrent({pointer<const float>(x), rows, steps, batch, pointer<const int64_t>(batch_sizes),
                 packed.data(), static_cast<int64_t>(packed.size()) / directions, directions,
                 pointer<float>(y), pointer<float>(h), pointer<float>(c), threads});
}

}  // namespace

void bind_recurrent(Bindings& b) {
  nb::module_& m = b.module;
  m.def(
      "packed_cell_bytes",
      [](int kind, int weight, int64_t input, int64_t hidden, int64_t projection) {
        return packed_cell_bytes(shape_of(kind, weight, input, hidden, projection));
      },
      "kind"_a, "weight"_a, "input"_a, "hidden"_a, "projection"_a);
  m.def(
      "pack_cell",
      [](int kind, int weight, int64_t input, int64_t hidden, int64_t projection, const Addresses& plain,
         uintptr_t packed) {
        const nb::gil_scoped_release release;
        pack_cell(shape_of(kind, weight, input, hidden, projection),
                  weights_at<PlainCell, const void, const float>(plain), pointer<uint8_t>(packed));
      },
      "kind"_a, "weight"_a, "input"_a, "hidden"_a, "projection"_a, "plain"_a, "packed"_a);
  m.def(
      "unpack_cell",
      [](uintptr_t packed, const Addresses& plain) {
        const nb::gil_scoped_release release;
        unpack_cell(pointer<const uint8_t>(packed), weights_at<UnpackedCell, void, float>(plain));
      },
      "packed"_a, "plain"_a);
  m.def(
      "packed_cell_shape",
      [](uintptr_t packed) {
        Isa isa;
        const CellShape s = packed_cell_shape(pointer<const uint8_t>(packed), &isa);
        return nb::make_tuple(static_cast<int>(s.kind), static_cast<int>(s.weight), s.input, s.hidden,
                              s.projection, isa_name(isa));
      },
      "packed"_a, "(kind, weight, input, hidden, projection, instruction set) of a packed cell.");
  b.driver("run_recurrent", run, "x"_a, "rows"_a, "steps"_a, "batch"_a, "batch_sizes"_a, "cells"_a,
           "directions"_a, "y"_a, "h"_a, "c"_a);
}

}  // namespace intaglio
