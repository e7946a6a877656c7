// The float operations of a Program: rows with their products, attention.
#include "../program/rows.h"

#include <nanobind/stl/tuple.h>

#include "../program/attention.h"
#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {
namespace {

using Strided = std::tuple<Address, int64_t, int64_t, int64_t>;  // data, and strides of batch, head, row

template <class T>
HeadRows<T> head_rows(const Strided& at) {
  return {pointer<T>(std::get<0>(at)), std::get<1>(at), std::get<2>(at), std::get<3>(at)};
}

void bind_attention(Bindings& b) {
  b.driver(
      "run_attention",
      [](int64_t batch, int64_t heads, int64_t kv_heads, int64_t queries, int64_t keys, int64_t depth,
         int64_t width, const Strided& q, const Strided& k, const Strided& v, const Strided& y, float scale,
         const Strided& mask, const Strided& allowed, bool is_causal, Threads threads) {
        const AttentionCall call{batch,
                                 heads,
                                 kv_heads,
                                 queries,
                                 keys,
                                 depth,
                                 width,
                                 head_rows<const float>(q),
                                 head_rows<const float>(k),
                                 head_rows<const float>(v),
                                 head_rows<float>(y),
                                 scale,
                                 head_rows<const float>(mask),
                                 head_rows<const uint8_t>(allowed),
                                 is_causal,
                                 threads};
        run_attention(call);
      },
      "batch"_a, "heads"_a, "kv_heads"_a, "queries"_a, "keys"_a, "depth"_a, "width"_a, "q"_a, "k"_a, "v"_a,
      "y"_a, "scale"_a, "mask"_a = Strided(), "allowed"_a = Strided(), "is_causal"_a = false);
}

}  // namespace

void bind_rows(Bindings& b) {
  bind_attention(b);
  b.driver(
      "run_rows",
      [](int64_t rows, int64_t k, Address x, int64_t x_stride, Address q, int64_t q_stride, Address scale,
         Address zero_point, int64_t param_stride, int granularity, Address packed, int function, float lower,
         float upper, Address residual, int64_t residual_stride, Address sum, int64_t sum_stride, int norm,
         Address weight, Address bias, float epsilon, Address y, int64_t y_stride, Address out_q,
         int64_t out_q_stride, Address out_scale, Address out_zero_point, Threads threads) {
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
        run_rows(call);
      },
      "rows"_a, "k"_a, nb::kw_only(), "x"_a = 0, "x_stride"_a = 0, "q"_a = 0, "q_stride"_a = 0, "scale"_a = 0,
      "zero_point"_a = 0, "param_stride"_a = 1, "granularity"_a = 1, "packed"_a = 0, "function"_a = 0,
      "lower"_a = 0.0f, "upper"_a = 0.0f, "residual"_a = 0, "residual_stride"_a = 0, "sum"_a = 0,
      "sum_stride"_a = 0, "norm"_a = 0, "weight"_a = 0, "bias"_a = 0, "epsilon"_a = 0.0f, "y"_a = 0,
      "y_stride"_a = 0, "out_q"_a = 0, "out_q_stride"_a = 0, "out_scale"_a = 0, "out_zero_point"_a = 0);
}

}  // namespace intaglio
