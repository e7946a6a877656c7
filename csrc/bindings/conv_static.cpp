// Static convolutions and Linear: packing, the drivers, and their kernels alone for the conformance test.
#include "../program/conv_static.h"

#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "../program/gemm.h"
#include "../program/parallel.h"
#include "conv_spec.h"
#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {
namespace {

Requantize requantize_from(Address multiplier, Address offset, int32_t zero_point, int32_t lower,
                           int32_t upper, Address residual, int32_t residual_zero_point,
                           float residual_multiplier) {
  return {pointer<const float>(multiplier), pointer<const float>(offset), zero_point,         lower, upper,
          pointer<const uint8_t>(residual), residual_zero_point,          residual_multiplier};
}

// The table's pointer, or nullptr where it is empty: evenly spaced.
const int64_t* table_or_none(const std::vector<int64_t>& v) { return v.empty() ? nullptr : v.data(); }

void bind_static_kernels(nb::module_& m) {
  m.def(
      "gemm_static",
      [](uintptr_t image, const std::vector<int64_t>& start, int64_t row_bytes, int64_t rows,
         const std::vector<int64_t>& run, int64_t run_bytes, int32_t input_zero_point, uintptr_t packed,
         uintptr_t multiplier, uintptr_t offset, int32_t zero_point, int32_t lower, int32_t upper,
         uintptr_t residual, int32_t residual_zero_point, float residual_multiplier, uintptr_t c,
         const std::vector<int64_t>& place, int64_t c_stride) {
        const PackedLayout layout = checked_layout(pointer<const uint8_t>(packed));
        const int64_t bytes = active_kernels().gemm_scratch_bytes(rows, layout.k_padded);
        Scratch scratch(bytes);
        active_kernels().gemm_static({pointer<const uint8_t>(image), table_or_none(start), row_bytes, rows,
                                      run.data(), static_cast<int64_t>(run.size()), run_bytes,
                                      input_zero_point, pointer<const uint8_t>(packed), 0, panels_of(layout),
                                      requantize_from(multiplier, offset, zero_point, lower, upper, residual,
                                                      residual_zero_point, residual_multiplier),
                                      pointer<uint8_t>(c), table_or_none(place), c_stride,
                                      scratch.take<uint8_t>(bytes)});
      },
      "image"_a, "start"_a, "row_bytes"_a, "rows"_a, "run"_a, "run_bytes"_a, "input_zero_point"_a, "packed"_a,
      "multiplier"_a, "offset"_a, "zero_point"_a, "lower"_a, "upper"_a, "residual"_a, "residual_zero_point"_a,
      "residual_multiplier"_a, "c"_a, "place"_a, "c_stride"_a,
      "The static GEMM kernel itself, one thread; an empty `start` or `place` is an even spacing.");
}

void bind_depthwise_kernels(nb::module_& m) {
  m.def(
      "pack_depthwise",
      [](uintptr_t weight, int64_t channels, int64_t tap_rows, int64_t taps, int64_t stride, int64_t dilation,
         uintptr_t packed) {
        int64_t bytes = 0;
        active_kernels().pack_depthwise({{channels, tap_rows, taps, stride, dilation},
                                         pointer<const int8_t>(weight),
                                         pointer<uint8_t>(packed),
                                         &bytes});
        return bytes;
      },
      "weight"_a, "channels"_a, "tap_rows"_a, "taps"_a, "stride"_a, "dilation"_a, "packed"_a,
      "Packs a block of a depthwise weight, unless packed is 0; the bytes that it takes.");
  m.def(
      "depthwise_static",
      [](int64_t channels, int64_t tap_rows, int64_t taps, int64_t stride, int64_t dilation, uintptr_t packed,
         const std::vector<uintptr_t>& source, const std::vector<int64_t>& row_offset, int64_t row_step,
         int64_t pixel_bytes, int64_t repeat, int64_t first, int64_t low, int64_t width,
         int32_t input_zero_point, int64_t rows, int64_t columns, uintptr_t multiplier, uintptr_t offset,
         int32_t zero_point, int32_t lower, int32_t upper, uintptr_t residual, int32_t residual_zero_point,
         float residual_multiplier, uintptr_t y, int64_t y_row_bytes, int64_t y_pixel_bytes) {
        std::vector<const uint8_t*> pointers;
        for (const uintptr_t row : source) pointers.push_back(pointer<const uint8_t>(row));
        DepthwiseStaticArgs args{{channels, tap_rows, taps, stride, dilation},
                                 pointer<const uint8_t>(packed),
                                 pointers.data(),
                                 row_offset.data(),
                                 row_step,
                                 pixel_bytes,
                                 repeat,
                                 first,
                                 low,
                                 width,
                                 input_zero_point,
                                 rows,
                                 columns,
                                 requantize_from(multiplier, offset, zero_point, lower, upper, residual,
                                                 residual_zero_point, residual_multiplier),
                                 pointer<uint8_t>(y),
                                 y_row_bytes,
                                 y_pixel_bytes,
                                 nullptr};
        Scratch scratch(active_kernels().depthwise_scratch_bytes(args));
        args.scratch = scratch.take<uint8_t>(0);
        active_kernels().depthwise_static(args);
      },
      "channels"_a, "tap_rows"_a, "taps"_a, "stride"_a, "dilation"_a, "packed"_a, "source"_a, "row_offset"_a,
      "row_step"_a, "pixel_bytes"_a, "repeat"_a, "first"_a, "low"_a, "width"_a, "input_zero_point"_a,
      "rows"_a, "columns"_a, "multiplier"_a, "offset"_a, "zero_point"_a, "lower"_a, "upper"_a, "residual"_a,
      "residual_zero_point"_a, "residual_multiplier"_a, "y"_a, "y_row_bytes"_a, "y_pixel_bytes"_a,
      "The depthwise kernel itself, on one block of channels.");
}

void bind_winograd_kernels(nb::module_& m) {
  m.def(
      "pack_winograd",
      [](uintptr_t weight, int64_t outputs, int64_t inputs, uintptr_t packed) {
        int64_t bytes = 0;
        active_kernels().pack_winograd(
            {pointer<const int8_t>(weight), outputs, inputs, pointer<uint8_t>(packed), &bytes});
        return bytes;
      },
      "weight"_a, "outputs"_a, "inputs"_a, "packed"_a,
      "The bytes that it takes, written unless packed is 0.");
  m.def(
      "winograd_input",
      [](uintptr_t image, const std::vector<int64_t>& start, int64_t row_bytes, int64_t channels, uintptr_t v,
         int64_t plane_step) {
        active_kernels().winograd_input({pointer<const uint8_t>(image), start.data(),
                                         static_cast<int64_t>(start.size()), row_bytes, channels,
                                         pointer<int16_t>(v), plane_step});
      },
      "image"_a, "start"_a, "row_bytes"_a, "channels"_a, "v"_a, "plane_step"_a);
  m.def(
      "winograd_multiply",
      [](uintptr_t v, int64_t plane_step, uintptr_t packed, int64_t outputs, int64_t inputs,
         int64_t panel_begin, int64_t panel_end, int32_t input_zero_point, uintptr_t multiplier,
         uintptr_t offset, int32_t zero_point, int32_t lower, int32_t upper, uintptr_t residual,
         int32_t residual_zero_point, float residual_multiplier, uintptr_t y,
         const std::vector<std::tuple<int64_t, int64_t, int64_t>>& place, int64_t y_row_bytes,
         int64_t y_pixel_bytes) {
        std::vector<WinogradPlace> places;
        for (const auto& [to, rows, columns] : place) places.push_back({to, rows, columns});
        const int64_t bytes = active_kernels().winograd_scratch_bytes();
        Scratch scratch(bytes);
        active_kernels().winograd_multiply(
            {pointer<const int16_t>(v), plane_step, static_cast<int64_t>(places.size()),
             pointer<const uint8_t>(packed), outputs, inputs, panel_begin, panel_end, input_zero_point,
             requantize_from(multiplier, offset, zero_point, lower, upper, residual, residual_zero_point,
                             residual_multiplier),
             pointer<uint8_t>(y), places.data(), y_row_bytes, y_pixel_bytes, scratch.take<uint8_t>(bytes)});
      },
      "v"_a, "plane_step"_a, "packed"_a, "outputs"_a, "inputs"_a, "panel_begin"_a, "panel_end"_a,
      "input_zero_point"_a, "multiplier"_a, "offset"_a, "zero_point"_a, "lower"_a, "upper"_a, "residual"_a,
      "residual_zero_point"_a, "residual_multiplier"_a, "y"_a, "place"_a, "y_row_bytes"_a, "y_pixel_bytes"_a);
}

}  // namespace

void bind_conv_static(Bindings& b) {
  nb::module_& m = b.module;
  bind_winograd_kernels(m);
  bind_static_kernels(m);
  bind_depthwise_kernels(m);
  m.def(
      "packed_static_conv_bytes",
      [](const std::vector<int64_t>& spec, uintptr_t weight, bool winograd) {
        nb::gil_scoped_release release;
        return packed_static_conv_bytes(spec_from(spec), pointer<const int8_t>(weight), winograd);
      },
      "spec"_a, "weight"_a, "winograd"_a);
  m.def(
      "pack_static_conv",
      [](const std::vector<int64_t>& spec, uintptr_t weight, bool winograd, uintptr_t packed) {
        nb::gil_scoped_release release;
        pack_static_conv(spec_from(spec), pointer<const int8_t>(weight), winograd, pointer<uint8_t>(packed));
      },
      "spec"_a, "weight"_a, "winograd"_a, "packed"_a);
  m.def(
      "unpack_static_conv",
      [](uintptr_t packed, uintptr_t weight) {
        nb::gil_scoped_release release;
        unpack_static_conv(pointer<const uint8_t>(packed), pointer<int8_t>(weight));
      },
      "packed"_a, "weight"_a);
  m.def(
      "packed_static_conv_spec",
      [](uintptr_t packed) {
        const StaticConvHeader header = static_conv_header(pointer<const uint8_t>(packed));
        return nb::make_tuple(spec_to(header.spec), isa_name(static_cast<Isa>(header.isa)));
      },
      "packed"_a, "Hyperparameters and instruction set of a packed static convolution.");
  m.def(
      "static_panel_vectors", [](int64_t n) { return static_panel_vectors(n, active_kernels()); }, "n"_a,
      "Vectors in a panel of a static Linear with n outputs.");
  m.def(
      "conv_static",
      [](Address x, int64_t batch, int64_t channels, int64_t depth, int64_t height, int64_t width,
         int32_t input_zero_point, Address packed, int64_t out_depth, int64_t out_height, int64_t out_width,
         int64_t outputs, Address multiplier, Address offset, int32_t zero_point, int32_t lower,
         int32_t upper, Address residual, int32_t residual_zero_point, float residual_multiplier, Address y,
         int threads, Address values, bool planes, double scale, int32_t input_lower, int32_t input_upper) {
        nb::gil_scoped_release release;
        std::optional<FloatInput> floats;
        if (values.value != 0)
          floats = FloatInput{planes, static_cast<float>(scale), input_lower, input_upper};
        conv_static({batch,
                     channels,
                     {depth, height, width},
                     input_zero_point,
                     packed,
                     {out_depth, out_height, out_width},
                     outputs,
                     requantize_from(multiplier, offset, zero_point, lower, upper, 0, residual_zero_point,
                                     residual_multiplier),
                     floats},
                    {x, residual, y, values}, threads);
      },
      "x"_a, "batch"_a, "channels"_a, "depth"_a, "height"_a, "width"_a, "input_zero_point"_a, "packed"_a,
      "out_depth"_a, "out_height"_a, "out_width"_a, "outputs"_a, "multiplier"_a, "offset"_a, "zero_point"_a,
      "lower"_a, "upper"_a, "residual"_a, "residual_zero_point"_a, "residual_multiplier"_a, "y"_a,
      "threads"_a, "values"_a = 0, "planes"_a = true, "scale"_a = 1.0, "input_lower"_a = 0,
      "input_upper"_a = 255, "With `values`, a float input that is quantized on the way, in place of x.");
  b.plan.def(
      "conv_static",
      [](Plan& plan, std::string label, Address x, int64_t batch, int64_t channels, int64_t depth,
         int64_t height, int64_t width, int32_t input_zero_point, Address packed, int64_t out_depth,
         int64_t out_height, int64_t out_width, int64_t outputs, Address multiplier, Address offset,
         int32_t zero_point, int32_t lower, int32_t upper, Address residual, int32_t residual_zero_point,
         float residual_multiplier, Address y, Address values, bool planes, double scale, int32_t input_lower,
         int32_t input_upper) {
        std::optional<FloatInput> floats;
        if (values.value != 0)
          floats = FloatInput{planes, static_cast<float>(scale), input_lower, input_upper};
        const auto conv = std::make_shared<const StaticConvPlan>(
            StaticConvShape{batch,
                            channels,
                            {depth, height, width},
                            input_zero_point,
                            packed,
                            {out_depth, out_height, out_width},
                            outputs,
                            requantize_from(multiplier, offset, zero_point, lower, upper, 0,
                                            residual_zero_point, residual_multiplier),
                            floats});
        plan.add(std::move(label), [conv, x, residual, y, values](const Frame& frame) {
          const int64_t bytes = conv->scratch_bytes(frame.threads);
          Scratch scratch(bytes);
          conv->run({resolve(x, frame), resolve(residual, frame), resolve(y, frame), resolve(values, frame)},
                    scratch.take<uint8_t>(bytes), frame.threads);
        });
      },
      "label"_a, "x"_a, "batch"_a, "channels"_a, "depth"_a, "height"_a, "width"_a, "input_zero_point"_a,
      "packed"_a, "out_depth"_a, "out_height"_a, "out_width"_a, "outputs"_a, "multiplier"_a, "offset"_a,
      "zero_point"_a, "lower"_a, "upper"_a, "residual"_a, "residual_zero_point"_a, "residual_multiplier"_a,
      "y"_a, "values"_a = 0, "planes"_a = true, "scale"_a = 1.0, "input_lower"_a = 0, "input_upper"_a = 255,
      "A convolution planned now; weight, multiplier and offset are addresses.");
  b.driver(
      "linear_static",
      [](Address x, int64_t rows, int64_t k, int32_t input_zero_point, Address packed, int64_t outputs,
         Address multiplier, Address offset, int32_t zero_point, int32_t lower, int32_t upper,
         Address residual, int32_t residual_zero_point, float residual_multiplier, Address y,
         Threads threads) {
        linear_static({pointer<const uint8_t>(x), rows, k, input_zero_point, pointer<const uint8_t>(packed),
                       outputs,
                       requantize_from(multiplier, offset, zero_point, lower, upper, residual,
                                       residual_zero_point, residual_multiplier),
                       pointer<uint8_t>(y), threads});
      },
      "x"_a, "rows"_a, "k"_a, "input_zero_point"_a, "packed"_a, "outputs"_a, "multiplier"_a, "offset"_a,
      "zero_point"_a, "lower"_a, "upper"_a, "residual"_a, "residual_zero_point"_a, "residual_multiplier"_a,
      "y"_a);
}

}  // namespace intaglio
