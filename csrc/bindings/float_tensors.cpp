// What stands around a Program's products: embeddings, softmax, arithmetic, means, unit rows of float32.
#include "../program/float_tensors.h"

#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {
namespace {

using Table =
    std::tuple<uintptr_t, int64_t, uintptr_t, int64_t, bool>;  // data, rows, indices, count, is_int64
using Operand = std::tuple<uintptr_t, int64_t, bool>;          // data, row stride, is_scalar

CombineFloatsArgs::Operand operand(const Operand& from) {
  return {pointer<const float>(std::get<0>(from)), std::get<1>(from), std::get<2>(from)};
}

EmbedCall embed_call(const std::vector<Table>& tables) {
  EmbedCall call;
  if (tables.size() > GatherSumsArgs::kMostTables) throw std::invalid_argument("four tables can be summed");
  for (const auto& [data, rows, indices, count, is_int64] : tables)
    call.tables[call.count++] = {
        pointer<const float>(data), rows, {pointer<const void>(indices), count, is_int64}};
  return call;
}

void bind_embed(nb::module_& m) {
  m.def(
      "embed_rows",
      [](const std::vector<Table>& tables, int64_t rows, int64_t width, uintptr_t sum, int64_t sum_stride,
         int norm, uintptr_t weight, uintptr_t bias, float epsilon, uintptr_t y, int64_t y_stride,
         uintptr_t out_q, int64_t out_q_stride, uintptr_t out_scale, uintptr_t out_zero_point, int threads) {
        EmbedCall call = embed_call(tables);
        call.m = rows;
        call.width = width;
        call.sum = {pointer<float>(sum), sum_stride};
        call.norm = static_cast<Norm>(norm);
        call.weight = pointer<const float>(weight);
        call.bias = pointer<const float>(bias);
        call.epsilon = epsilon;
        call.y = {pointer<float>(y), y_stride};
        call.output = {pointer<uint8_t>(out_q), out_q_stride, pointer<float>(out_scale),
                       pointer<int32_t>(out_zero_point), 1};
        call.threads = threads;
        nb::gil_scoped_release release;
        embed_rows(call);
      },
      "tables"_a, "rows"_a, "width"_a, nb::kw_only(), "sum"_a = 0, "sum_stride"_a = 0, "norm"_a = 0,
      "weight"_a = 0, "bias"_a = 0, "epsilon"_a = 0.0f, "y"_a = 0, "y_stride"_a = 0, "out_q"_a = 0,
      "out_q_stride"_a = 0, "out_scale"_a = 0, "out_zero_point"_a = 0, "threads"_a = 1,
      "The driver of EmbedCall (csrc/program/float_tensors.h).");
}

}  // namespace

void bind_float_tensors(nb::module_& m) {
  bind_embed(m);
  m.def(
      "softmax_floats",
      [](uintptr_t x, int64_t x_stride, int64_t rows, int64_t cols, uintptr_t y, int64_t y_stride,
         int threads) {
        nb::gil_scoped_release release;
        softmax_floats({pointer<const float>(x), x_stride, rows, cols, pointer<float>(y), y_stride}, threads);
      },
      "x"_a, "x_stride"_a, "rows"_a, "cols"_a, "y"_a, "y_stride"_a, "threads"_a = 1);
  m.def(
      "combine_floats",
      [](int op, const Operand& a, const Operand& b, int64_t rows, int64_t cols, uintptr_t y,
         int64_t y_stride, int threads) {
        const CombineFloatsArgs args{static_cast<FloatOp>(op), operand(a), operand(b), rows, cols,
                                     pointer<float>(y),        y_stride};
        nb::gil_scoped_release release;
        combine_floats(args, threads);
      },
      "op"_a, "a"_a, "b"_a, "rows"_a, "cols"_a, "y"_a, "y_stride"_a, "threads"_a = 1);
  m.def(
      "mean_rows",
      [](uintptr_t x, int64_t x_stride, int64_t rows, int64_t cols, uintptr_t y, int64_t batch,
         int64_t batch_stride, int threads) {
        nb::gil_scoped_release release;
        mean_rows({pointer<const float>(x), x_stride, rows, cols, pointer<float>(y)}, batch, batch_stride,
                  threads);
      },
      "x"_a, "x_stride"_a, "rows"_a, "cols"_a, "y"_a, "batch"_a, "batch_stride"_a, "threads"_a = 1);
  m.def(
      "unit_rows",
      [](uintptr_t x, int64_t x_stride, int64_t rows, int64_t cols, float epsilon, uintptr_t y,
         int64_t y_stride, int threads) {
        nb::gil_scoped_release release;
        unit_rows({pointer<const float>(x), x_stride, rows, cols, epsilon, pointer<float>(y), y_stride},
                  threads);
      },
      "x"_a, "x_stride"_a, "rows"_a, "cols"_a, "epsilon"_a, "y"_a, "y_stride"_a, "threads"_a = 1);
}

}  // namespace intaglio
