// Products of two quantized matrices.
#include "../program/matmul.h"

#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

void bind_matmul(Bindings& b) {
  b.driver(
      "matmul_static",
      [](Address a, Address b, const std::vector<int64_t>& batch, const std::vector<int64_t>& a_batch_strides,
         const std::vector<int64_t>& b_batch_strides, int64_t m, int64_t k, int64_t n, int64_t a_stride,
         int64_t k_stride, int64_t n_stride, double scale_a, int zero_point_a, double scale_b,
         int zero_point_b, double scale, int zero_point, int lower, int upper, Address c, Threads threads) {
        const MatmulCall call{pointer<const uint8_t>(a),
                              pointer<const uint8_t>(b),
                              batch,
                              a_batch_strides,
                              b_batch_strides,
                              m,
                              k,
                              n,
                              a_stride,
                              k_stride,
                              n_stride,
                              scale_a,
                              scale_b,
                              scale,
                              zero_point_a,
                              zero_point_b,
                              {zero_point, lower, upper},
                              pointer<uint8_t>(c),
                              threads};
        matmul_static(call);
      },
      "a"_a, "b"_a, "batch"_a, "a_batch_strides"_a, "b_batch_strides"_a, "m"_a, "k"_a, "n"_a, "a_stride"_a,
      "k_stride"_a, "n_stride"_a, "scale_a"_a, "zero_point_a"_a, "scale_b"_a, "zero_point_b"_a, "scale"_a,
      "zero_point"_a, "lower"_a, "upper"_a, "c"_a);
}

}  // namespace intaglio
