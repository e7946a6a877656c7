// Rows of a Program: products with what follows them.
#include "../program/rows.h"

#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

void bind_rows(nb::module_& m) {
  m.def(
      "run_rows",
      [](int64_t rows, int64_t k, uintptr_t x, int64_t x_stride, uintptr_t q, int64_t q_stride,
         uintptr_t scale, uintptr_t zero_point, int64_t param_stride, int granularity, uintptr_t packed,
         int function, float lower, float upper, uintptr_t residual, int64_t residual_stride, uintptr_t sum,
         int64_t sum_stride, int norm, uintptr_t weight, uintptr_t bias, float epsilon, uintptr_t y,
         int64_t y_stride, uintptr_t out_q, int64_t out_q_stride, uintptr_t out_scale,
         uintptr_t out_zero_point, int threads) {
        RowsCall call;
        call.x = pointer<const float>(x);
        call.x_stride = x_stride;
        call.input = {pointer<uint8_t>(q), q_stride, pointer<float>(scale), pointer<int32_t>(zero_point),
                      param_stride};
        call.granularity = static_cast<Granularity>(granularity);
        call.m = rows;
        call.k = k;
        call.packed = pointer<const uint8_t>(packed);
        call.function = static_cast<Function>(function);
        call.lower = lower;
        call.upper = upper;
        call.residual = pointer<const float>(residual);
        call.residual_stride = residual_stride;
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
        run_rows(call);
      },
      "rows"_a, "k"_a, nb::kw_only(), "x"_a = 0, "x_stride"_a = 0, "q"_a = 0, "q_stride"_a = 0, "scale"_a = 0,
      "zero_point"_a = 0, "param_stride"_a = 1, "granularity"_a = 1, "packed"_a = 0, "function"_a = 0,
      "lower"_a = 0.0f, "upper"_a = 0.0f, "residual"_a = 0, "residual_stride"_a = 0, "sum"_a = 0,
      "sum_stride"_a = 0, "norm"_a = 0, "weight"_a = 0, "bias"_a = 0, "epsilon"_a = 0.0f, "y"_a = 0,
      "y_stride"_a = 0, "out_q"_a = 0, "out_q_stride"_a = 0, "out_scale"_a = 0, "out_zero_point"_a = 0,
      "threads"_a = 1, "The driver of RowsCall (csrc/program/rows.h).");
}

}  // namespace intaglio
