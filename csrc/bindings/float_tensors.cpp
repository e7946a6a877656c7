// What stands around a Program's products: embeddings, softmax, arithmetic, means, unit rows of float32.
#include "../program/float_tensors.h"

#include <nanobind/stl/tuple.h>

#include <stdexcept>

#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {
namespace {

using Table = std::tuple<Address, int64_t, Address, int64_t, bool>;  // data, rows, indices, count, is_int64
using Operand = std::tuple<Address, int64_t, bool>;                  // data, row stride, is_scalar

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

void bind_embed(Bindings& b) {
  b.driver(
      "embed_rows",
      [](const std::vector<Table>& tables, int64_t rows, int64_t width, Address sum, int64_t sum_stride,
         int norm, Address weight, Address bias, float epsilon, Address y, int64_t y_stride, Address out_q,
         int64_t out_q_stride, Address out_scale, Address out_zero_point, Threads threads) {
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
        embed_rows(call);
      },
      "tables"_a, "rows"_a, "width"_a, nb::kw_only(), "sum"_a = 0, "sum_stride"_a = 0, "norm"_a = 0,
      "weight"_a = 0, "bias"_a = 0, "epsilon"_a = 0.0f, "y"_a = 0, "y_stride"_a = 0, "out_q"_a = 0,
      "out_q_stride"_a = 0, "out_scale"_a = 0, "out_zero_point"_a = 0);
}

}  // namespace

void bind_float_tensors(Bindings& b) {
  bind_embed(b);
  b.driver(
      "softmax_floats",
      [](Address x, int64_t x_stride, int64_t rows, int64_t cols, Address y, int64_t y_stride,
         Threads threads) {
        softmax_floats({pointer<const float>(x), x_stride, rows, cols, pointer<float>(y), y_stride}, threads);
      },
      "x"_a, "x_stride"_a, "rows"_a, "cols"_a, "y"_a, "y_stride"_a);
  b.driver(
      "combine_floats",
      [](int op, const Operand& a, const Operand& b, int64_t rows, int64_t cols, Address y, int64_t y_stride,
         Threads threads) {
        const CombineFloatsArgs args{static_cast<FloatOp>(op), operand(a), operand(b), rows, cols,
                                     pointer<float>(y),        y_stride};
        combine_floats(args, threads);
      },
      "op"_a, "a"_a, "b"_a, "rows"_a, "cols"_a, "y"_a, "y_stride"_a);
  b.driver(
      "mean_rows",
      [](Address x, int64_t x_stride, int64_t rows, int64_t cols, Address y, int64_t batch,
         int64_t batch_stride, Threads threads) {
        mean_rows({x, x_stride, rows, cols, y, static_cast<float>(rows)}, batch, batch_stride, threads);
      },
      "x"_a, "x_stride"_a, "rows"_a, "cols"_a, "y"_a, "batch"_a, "batch_stride"_a);
  b.driver(
      "sum_rows",
      [](Address x, int64_t x_stride, int64_t rows, int64_t cols, Address y, int64_t batch,
         int64_t batch_stride,
         Threads threads) { mean_rows({x, x_stride, rows, cols, y, 1.0f}, batch, batch_stride, threads); },
      "x"_a, "x_stride"_a, "rows"_a, "cols"_a, "y"_a, "batch"_a, "batch_stride"_a);
  b.driver(
      "select_floats",
      [](Address mask, Address a, bool a_is_one, Address b, bool b_is_one, int64_t count, Address y,
         Threads threads) { select_floats({mask, a, a_is_one, b, b_is_one, count, y}, threads); },
      "mask"_a, "a"_a, "a_is_one"_a, "b"_a, "b_is_one"_a, "count"_a, "y"_a);
  b.driver(
      "unit_rows",
      [](Address x, int64_t x_stride, int64_t rows, int64_t cols, float epsilon, Address y, int64_t y_stride,
         Threads threads) {
        unit_rows({pointer<const float>(x), x_stride, rows, cols, epsilon, pointer<float>(y), y_stride},
                  threads);
      },
      "x"_a, "x_stride"_a, "rows"_a, "cols"_a, "epsilon"_a, "y"_a, "y_stride"_a);
}

}  // namespace intaglio
