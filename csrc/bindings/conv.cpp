// Packing of convolutions, the dynamic convolution, and its kernels alone for the conformance test.
#include "../program/conv.h"

#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "../program/gemm.h"
#include "bindings.h"
#include "conv_spec.h"
#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {
namespace {

void bind_conv_kernels(nb::module_& m) {
  m.def(
      "quantize_pixels",
      [](uintptr_t x, int64_t pixel_stride, int64_t channel_stride, int64_t count, int64_t channel_begin,
         int64_t channels, int64_t repeat, float inverse_scale, int32_t zero_point, uintptr_t q,
         int64_t q_stride) {
        active_kernels().quantize_pixels({pointer<const float>(x), pixel_stride, channel_stride, count,
                                          channel_begin, channels, repeat, inverse_scale, zero_point,
                                          pointer<uint8_t>(q), q_stride});
      },
      "x"_a, "pixel_stride"_a, "channel_stride"_a, "count"_a, "channel_begin"_a, "channels"_a, "repeat"_a,
      "inverse_scale"_a, "zero_point"_a, "q"_a, "q_stride"_a);
  m.def(
      "gather_runs",
      [](uintptr_t image, const std::vector<int64_t>& start, const std::vector<int64_t>& run,
         int64_t run_bytes, uintptr_t a, int64_t a_stride) {
        active_kernels().gather_runs(
            {pointer<const uint8_t>(image), start.data(), static_cast<int64_t>(start.size()), run.data(),
             static_cast<int64_t>(run.size()), run_bytes, pointer<uint8_t>(a), a_stride});
      },
      "image"_a, "start"_a, "run"_a, "run_bytes"_a, "a"_a, "a_stride"_a);
  m.def(
      "transpose_rows",
      [](uintptr_t x, int64_t x_stride, int64_t rows, int64_t cols, uintptr_t y, int64_t y_stride) {
        active_kernels().transpose_rows(
            {pointer<const float>(x), x_stride, rows, cols, pointer<float>(y), y_stride});
      },
      "x"_a, "x_stride"_a, "rows"_a, "cols"_a, "y"_a, "y_stride"_a);
  m.def(
      "spread_taps",
      [](uintptr_t image, int64_t rows, int64_t row_bytes, int64_t positions, int64_t position_bytes,
         int64_t tap_bytes, uintptr_t spread, int64_t row_vectors) {
        active_kernels().spread_taps({pointer<const uint8_t>(image), rows, row_bytes, positions,
                                      position_bytes, tap_bytes, pointer<void>(spread), row_vectors});
      },
      "image"_a, "rows"_a, "row_bytes"_a, "positions"_a, "position_bytes"_a, "tap_bytes"_a, "spread"_a,
      "row_vectors"_a);
  m.def(
      "conv_depthwise",
      [](uintptr_t spread, const std::vector<int64_t>& offset, int64_t chunks, int64_t chunk_step,
         int64_t rows, int64_t row_step, int64_t columns, int64_t column_step, uintptr_t packed,
         int64_t panel, float scale, int32_t zero_point, uintptr_t y, int64_t y_row_stride,
         int64_t y_stride) {
        checked_layout(pointer<const uint8_t>(packed));
        active_kernels().conv_depthwise(
            {pointer<const void>(spread), offset.data(), static_cast<int64_t>(offset.size()), chunks,
             chunk_step, rows, row_step, columns, column_step, pointer<const uint8_t>(packed), panel, scale,
             zero_point, pointer<float>(y), y_row_stride, y_stride});
      },
      "spread"_a, "offset"_a, "chunks"_a, "chunk_step"_a, "rows"_a, "row_step"_a, "columns"_a,
      "column_step"_a, "packed"_a, "panel"_a, "scale"_a, "zero_point"_a, "y"_a, "y_row_stride"_a,
      "y_stride"_a);
  m.def(
      "tap_group", [](uintptr_t packed) { return checked_layout(pointer<const uint8_t>(packed)).k_group; },
      "packed"_a, "Neighbouring k's of one column in a packed weight.");
}

}  // namespace

void bind_conv(Bindings& b) {
  nb::module_& m = b.module;
  bind_conv_kernels(m);
  m.def(
      "packed_conv_bytes",
      [](const std::vector<int64_t>& spec) { return packed_conv_bytes(spec_from(spec)); }, "spec"_a);
  m.def(
      "pack_conv",
      [](const std::vector<int64_t>& spec, uintptr_t weight, uintptr_t scale, uintptr_t bias,
         uintptr_t packed) {
        nb::gil_scoped_release release;
        pack_conv(spec_from(spec), pointer<const int8_t>(weight), pointer<const float>(scale),
                  pointer<const float>(bias), pointer<uint8_t>(packed));
      },
      "spec"_a, "weight"_a, "scale"_a, "bias"_a, "packed"_a);
  m.def(
      "unpack_conv",
      [](uintptr_t packed, uintptr_t weight, uintptr_t scale, uintptr_t bias) {
        nb::gil_scoped_release release;
        unpack_conv(pointer<const uint8_t>(packed), pointer<int8_t>(weight), pointer<float>(scale),
                    pointer<float>(bias));
      },
      "packed"_a, "weight"_a, "scale"_a, "bias"_a);
  m.def(
      "packed_conv_spec",
      [](uintptr_t packed) {
        const ConvHeader header = conv_header(pointer<const uint8_t>(packed));
        return nb::make_tuple(spec_to(header.spec), isa_name(static_cast<Isa>(header.isa)));
      },
      "packed"_a, "Hyperparameters and instruction set of a packed convolution.");
  b.driver(
      "conv_dynamic",
      [](Address x, int64_t batch, int64_t channels, int64_t depth, int64_t height, int64_t width,
         bool x_channels_last, Address packed, int64_t out_depth, int64_t out_height, int64_t out_width,
         Address y, bool y_channels_last, Threads threads) {
        conv_dynamic({pointer<const float>(x),
                      batch,
                      channels,
                      {depth, height, width},
                      x_channels_last,
                      pointer<const uint8_t>(packed),
                      {out_depth, out_height, out_width},
                      pointer<float>(y),
                      y_channels_last,
                      threads});
      },
      "x"_a, "batch"_a, "channels"_a, "depth"_a, "height"_a, "width"_a, "x_channels_last"_a, "packed"_a,
      "out_depth"_a, "out_height"_a, "out_width"_a, "y"_a, "y_channels_last"_a);
}

}  // namespace intaglio
