// The dynamic quantized convolution, group of samples by group of samples.
#include "conv.h"

#include <algorithm>
#include <stdexcept>

#include "conv_depthwise.h"
#include "conv_gemm.h"
#include "conv_image.h"

namespace intaglio {
namespace {

// Quantized images of the samples that are worked on together.
constexpr int64_t kGroupBytes = 1 << 20;
// Below this many multiply-adds a second thread costs more than it brings.
constexpr int64_t kSmallestParallelWork = 1'500'000;

}  // namespace

void conv_dynamic(const ConvDynamicCall& call) {
  const PackedConv packed(call.packed);
  if (call.batch <= 0) return;
  const ConvSpec& spec = packed.spec();
  if (call.channels != spec.in_channels)
    throw std::invalid_argument("the packed convolution has another number of input channels");
  const ConvGeometry geometry(spec, call.input, call.output, packed.blocks().block_inputs,
                              packed.blocks().count);
  check_geometry(spec, geometry);
  const int64_t pixels = volume(spec.transposed ? call.input : call.output);
  const int64_t work =
      call.batch * pixels * spec.out_channels * (spec.in_channels / spec.groups) * volume(spec.kernel);
  const int threads = work < kSmallestParallelWork ? 1 : call.threads;
  const int64_t together = std::clamp<int64_t>(kGroupBytes / geometry.sample_bytes, 1, call.batch);
  Scratch scratch(aligned_size(together * geometry.sample_bytes + geometry.slack_bytes));
  auto* image = scratch.take<uint8_t>(together * geometry.sample_bytes + geometry.slack_bytes);
  std::vector<SampleParams> params(static_cast<size_t>(together));
  for (int64_t first = 0; first < call.batch; first += together) {
    const int64_t samples = std::min(together, call.batch - first);
    quantize_samples(call, packed, geometry, first, samples, threads, image, params.data());
    const auto run = packed.blocks().depthwise ? run_depthwise_conv : run_gemm_conv;
    run(call, packed, geometry, first, samples, image, params.data(), threads);
  }
}

}  // namespace intaglio
