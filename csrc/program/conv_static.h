// Convolution and Linear from u8 to u8 with fixed parameters: threaded drivers.
//
// What follows from the shape alone is worked out once, in a plan; a plan then runs on any operands of that
// shape. The image is read where it lies if nothing stands beyond its borders; otherwise it is copied once
// with a border of zero points (or of copied pixels) around it.
#pragma once

#include <memory>
#include <optional>

#include "conv_static_plan.h"

namespace intaglio {

// How a float input is quantized on its way into the convolution (quantize_image); the zero point is that of
// the shape.
struct FloatInput {
  bool planes;  // (batch, channels, D, H, W) rather than (batch, D, H, W, channels)
  float scale;
  int32_t lower, upper;
};

// A convolution but for where its operands lie.
struct StaticConvShape {
  int64_t batch, channels;
  Extent input;  // D, H, W
  int32_t zero_point;
  const uint8_t* packed;
  Extent output;
  int64_t outputs;        // channels
  Requantize requantize;  // a value for each of them; its residual is not looked at
  std::optional<FloatInput> floats = std::nullopt;
};

struct StaticOperands {
  const uint8_t* x;               // (batch, D, H, W, channels)
  const uint8_t* residual;        // lies as y, or nullptr
  uint8_t* y;                     // (batch, D, H, W, out_channels)
  const float* values = nullptr;  // the input in place of x, where the shape has floats
};

class StaticConvForm;

// docs/numerics.md, "Static quantization". Any output size is computed: beyond the input lies padding.
// std::invalid_argument if the shape does not fit the packed weight, which must outlive the plan, as the
// multipliers and offsets must. A plan may run in several threads at once, each with scratch of its own.
class StaticConvPlan {
 public:
  explicit StaticConvPlan(const StaticConvShape& shape);
  StaticConvPlan(StaticConvPlan&&) noexcept;
  ~StaticConvPlan();
  // What `run` needs, 64-byte aligned, with up to so many threads.
  int64_t scratch_bytes(int threads) const;
  void run(const StaticOperands& operands, uint8_t* scratch, int threads) const;

 private:
  int64_t quantized_bytes() const;  // of a float input that the form does not take itself
  int threads_for(int threads) const { return is_small_ ? 1 : threads; }
  bool is_small_ = true;  // too little work for a second thread
  StaticConvShape shape_;
  std::unique_ptr<const StaticConvForm> form_;
};

// A plan for one call.
void conv_static(const StaticConvShape& shape, const StaticOperands& operands, int threads);

struct LinearStaticCall {
  const uint8_t* x;  // (m, k)
  int64_t m, k;
  int32_t zero_point;
  const uint8_t* packed;  // of pack_weight
  int64_t n;
  Requantize requantize;  // a value for each column; the residual lies as y
  uint8_t* y;             // (m, n)
  int threads;
};

void linear_static(const LinearStaticCall& call);

}  // namespace intaglio
