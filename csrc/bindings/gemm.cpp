// Packing of weights and the dynamic Linear.
#include "../program/gemm.h"

#include <stdexcept>

#include "../program/parallel.h"
#include "bindings.h"
#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

void bind_gemm(Bindings& b) {
  nb::module_& m = b.module;
  m.def("packed_weight_bytes", &packed_weight_bytes, "n"_a, "k"_a, "panel_vectors"_a = 0);
  m.def(
      "pack_weight",
      [](uintptr_t weight, uintptr_t scale, uintptr_t bias, int64_t n, int64_t k, int panel_vectors,
         uintptr_t packed) {
        nb::gil_scoped_release release;
        pack_weight(pointer<const int8_t>(weight), pointer<const float>(scale), pointer<const float>(bias), n,
                    k, panel_vectors, pointer<uint8_t>(packed));
      },
      "weight"_a, "scale"_a, "bias"_a, "n"_a, "k"_a, "panel_vectors"_a, "packed"_a);
  m.def(
      "unpack_weight",
      [](uintptr_t packed, uintptr_t weight, uintptr_t scale, uintptr_t bias) {
        nb::gil_scoped_release release;
        unpack_weight(pointer<const uint8_t>(packed), pointer<int8_t>(weight), pointer<float>(scale),
                      pointer<float>(bias));
      },
      "packed"_a, "weight"_a, "scale"_a, "bias"_a);
  m.def(
      "packed_shape",
      [](uintptr_t packed) {
        PackedLayout layout;
        __builtin_memcpy(&layout, pointer<const uint8_t>(packed), sizeof layout);
        if (layout.magic != kPackedMagic && layout.magic != kPackedHalfMagic)
          throw std::invalid_argument("not a packed weight");
        return nb::make_tuple(layout.n, layout.k, isa_name(static_cast<Isa>(layout.isa)));
      },
      "packed"_a, "(N, K, instruction set) of a packed weight.");
  m.def(
      "packed_panel", [](uintptr_t packed) { return checked_layout(pointer<const uint8_t>(packed)).panel; },
      "packed"_a, "Columns in a panel of a packed weight.");
  m.def(
      "linear_dynamic_panels",
      [](uintptr_t x, int64_t rows, int64_t k, uintptr_t packed, int granularity, int64_t panel_begin,
         int64_t panel_end, uintptr_t y, int threads) {
        nb::gil_scoped_release release;
        linear_dynamic({pointer<const float>(x), rows, k, pointer<const uint8_t>(packed),
                        static_cast<Granularity>(granularity), Activation::kNone, 0.0f, 0.0f,
                        pointer<float>(y), threads, panel_begin, panel_end});
      },
      "x"_a, "rows"_a, "k"_a, "packed"_a, "granularity"_a, "panel_begin"_a, "panel_end"_a, "y"_a,
      "threads"_a);
  b.driver(
      "linear_dynamic",
      [](Address x, int64_t rows, int64_t k, Address packed, int granularity, int activation, float lower,
         float upper, Address y, Threads threads) {
        linear_dynamic({pointer<const float>(x), rows, k, pointer<const uint8_t>(packed),
                        static_cast<Granularity>(granularity), static_cast<Activation>(activation), lower,
                        upper, pointer<float>(y), threads});
      },
      "x"_a, "rows"_a, "k"_a, "packed"_a, "granularity"_a, "activation"_a, "lower"_a, "upper"_a, "y"_a);
  m.def(
      "gemm",
      [](uintptr_t a, int64_t a_stride, int64_t rows, uintptr_t packed, uintptr_t row_scale,
         uintptr_t row_zero_point, int64_t row_param_stride, uintptr_t addend, int64_t addend_stride,
         int activation, float lower, float upper, int output, float output_inverse_scale,
         int32_t output_zero_point, uintptr_t c, int64_t c_stride) {
        const PackedLayout layout = checked_layout(pointer<const uint8_t>(packed));
        const int64_t bytes = active_kernels().gemm_scratch_bytes(rows, layout.k_padded);
        Scratch scratch(bytes);
        active_kernels().gemm({pointer<const uint8_t>(a),
                               a_stride,
                               rows,
                               pointer<const uint8_t>(packed),
                               0,
                               panels_of(layout),
                               pointer<const float>(row_scale),
                               pointer<const int32_t>(row_zero_point),
                               row_param_stride,
                               pointer<const float>(addend),
                               addend_stride,
                               static_cast<Activation>(activation),
                               lower,
                               upper,
                               static_cast<Output>(output),
                               output_inverse_scale,
                               output_zero_point,
                               pointer<void>(c),
                               c_stride,
                               scratch.take<uint8_t>(bytes)});
      },
      "a"_a, "a_stride"_a, "rows"_a, "packed"_a, "row_scale"_a, "row_zero_point"_a, "row_param_stride"_a,
      "addend"_a, "addend_stride"_a, "activation"_a, "lower"_a, "upper"_a, "output"_a,
      "output_inverse_scale"_a, "output_zero_point"_a, "c"_a, "c_stride"_a,
      "The GEMM kernel itself, one thread, with all of GemmArgs.");
  b.driver(
      "quantize_activations",
      [](Address x, int64_t rows, int64_t cols, int granularity, Address q, int64_t q_stride, Address scale,
         Address zero_point, Threads threads) {
        quantize_activations(pointer<const float>(x), rows, cols, static_cast<Granularity>(granularity),
                             pointer<uint8_t>(q), q_stride, pointer<float>(scale),
                             pointer<int32_t>(zero_point), threads);
      },
      "x"_a, "rows"_a, "cols"_a, "granularity"_a, "q"_a, "q_stride"_a, "scale"_a, "zero_point"_a);
}

}  // namespace intaglio
