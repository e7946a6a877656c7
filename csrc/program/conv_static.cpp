// Plans of static convolutions, and the static Linear.
#include "conv_static.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "conv_static_form.h"
#include "gemm.h"
#include "layout.h"
#include "tile_shares.h"

namespace intaglio {
namespace {

// Below this many multiply-adds a second thread costs more than it brings: some microseconds. Those of a
// depthwise convolution count for more, and a Linear takes as long as reading its weights.
constexpr int64_t kSmallestParallelWork = 800'000;
constexpr int64_t kDepthwiseWork = 8;
constexpr int64_t kFewestLinearRows = 4;
// Of a Linear: input that stays in L2 while all panels pass over it.
constexpr int64_t kBlockBytes = 384 * 1024;

std::unique_ptr<const StaticConvForm> choose_form(const StaticConvShape& shape,
                                                  const PackedStaticConv& packed) {
  if (packed.blocks().depthwise) return make_static_depthwise(shape);
  return prefers_winograd(shape, packed) ? make_static_winograd(shape) : make_static_gemm(shape);
}

}  // namespace

StaticConvPlan::StaticConvPlan(const StaticConvShape& shape) : shape_(shape) {
  const PackedStaticConv packed(shape.packed);
  if (shape.batch <= 0) return;
  const ConvSpec& spec = packed.spec();
  if (shape.channels != spec.in_channels)
    throw std::invalid_argument("the packed convolution has another number of input channels");
  if (shape.outputs != spec.out_channels)
    throw std::invalid_argument("the requantization has another number of output channels");
  check_geometry(spec, ConvGeometry(spec, shape.input, shape.output, spec.in_channels, 1));
  const int64_t work = shape.batch * volume(spec.transposed ? shape.input : shape.output) *
                       spec.out_channels * (spec.in_channels / spec.groups) * volume(spec.kernel);
  is_small_ = work * (packed.blocks().depthwise ? kDepthwiseWork : 1) < kSmallestParallelWork;
  form_ = choose_form(shape, packed);
}

StaticConvPlan::StaticConvPlan(StaticConvPlan&&) noexcept = default;
StaticConvPlan::~StaticConvPlan() = default;

int64_t StaticConvPlan::quantized_bytes() const {
  if (!shape_.floats || form_->takes_floats()) return 0;
  return aligned_size(shape_.batch * shape_.channels * volume(shape_.input));
}

int64_t StaticConvPlan::scratch_bytes(int threads) const {
  return form_ == nullptr ? 0 : quantized_bytes() + form_->scratch_bytes(threads_for(threads));
}

void StaticConvPlan::run(const StaticOperands& operands, uint8_t* scratch, int threads) const {
  if (form_ == nullptr) return;
  const int64_t quantized = quantized_bytes();
  StaticOperands own = operands;
  if (quantized > 0) {
    const FloatInput& input = *shape_.floats;
    quantize_image(operands.values, {shape_.batch, shape_.channels, volume(shape_.input)}, input.planes,
                   input.scale, {shape_.zero_point, input.lower, input.upper}, scratch, threads);
    own.x = scratch;
    own.values = nullptr;
  }
  form_->run(own, scratch + quantized, threads_for(threads));
}

void conv_static(const StaticConvShape& shape, const StaticOperands& operands, int threads) {
  const StaticConvPlan plan(shape);
  Scratch scratch(plan.scratch_bytes(threads));
  plan.run(operands, scratch.take<uint8_t>(0), threads);
}

void linear_static(const LinearStaticCall& call) {
  const PackedLayout layout = checked_layout(call.packed);
  if (layout.k != call.k)
    throw std::invalid_argument("the packed weight has another number of input features");
  if (call.n != layout.n)
    throw std::invalid_argument("the requantization has another number of output features");
  if (call.m <= 0 || layout.n <= 0) return;
  const KernelTable& kernels = active_kernels();
  const int64_t panels = panels_of(layout);
  const PanelWidths widths{panels, layout.panel, layout.n_padded - (panels - 1) * layout.panel};
  const int64_t work = std::max(call.m, kFewestLinearRows) * layout.n * layout.k;
  const int threads = work < kSmallestParallelWork ? 1 : call.threads;
  const int64_t most =
      std::min(call.m, std::max<int64_t>(4, kBlockBytes / (2 * layout.k_padded) / kRowGrain) * kRowGrain);
  const int64_t gemm_bytes = aligned_size(kernels.gemm_scratch_bytes(most, layout.k_padded));
  // Rows that end within 4 bytes are read beyond the end of x.
  const int64_t copied = call.k % 4 == 0 ? 0 : call.m * call.k;
  Scratch scratch(aligned_size(copied + 4) + gemm_bytes * threads);
  auto* copy = scratch.take<uint8_t>(copied + 4);
  auto* workspaces = scratch.take<uint8_t>(gemm_bytes * threads);
  std::memcpy(copy, call.x, static_cast<size_t>(copied));
  const int64_t run = 0;
  run_parallel(threads, [&](int thread, int count) {
    for_each_tile_share(call.m, widths, thread, count, [&](Share rows, Share columns) {
      for (int64_t row = rows.begin; row < rows.end; row += most) {
        GemmStaticArgs args{};
        args.image = (copied > 0 ? copy : call.x) + row * call.k;
        args.row_bytes = call.k;
        args.m = std::min(most, rows.end - row);
        args.run = &run;
        args.run_count = 1;
        args.run_bytes = call.k;
        args.zero_point = call.zero_point;
        args.packed = call.packed;
        args.panel_begin = columns.begin;
        args.panel_end = columns.end;
        args.requantize = call.requantize;
        if (args.requantize.residual != nullptr) args.requantize.residual += row * layout.n;
        args.c = call.y + row * layout.n;
        args.c_stride = layout.n;
        args.scratch = workspaces + gemm_bytes * thread;
        kernels.gemm_static(args);
      }
    });
  });
}

}  // namespace intaglio
