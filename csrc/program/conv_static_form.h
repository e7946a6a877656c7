// The ways of computing a static convolution of one shape: with GEMM tiles, block by block of a depthwise
// one, in Winograd's form. Each holds everything that does not depend on where its operands lie.
#pragma once

#include "conv_image.h"
#include "conv_static.h"

namespace intaglio {

class StaticConvForm {
 public:
  explicit StaticConvForm(const StaticConvShape& shape)
      : kernels_(active_kernels()),
        shape_(shape),
        packed_(shape.packed),
        g_(packed_.spec(), shape.input, shape.output, packed_.spec().in_channels, 1) {}
  virtual ~StaticConvForm() = default;
  StaticConvForm(const StaticConvForm&) = delete;
  StaticConvForm& operator=(const StaticConvForm&) = delete;
  // Whether it quantizes a float input itself, on the way into a bordered copy.
  virtual bool takes_floats() const { return false; }
  // As of StaticConvPlan.
  virtual int64_t scratch_bytes(int threads) const = 0;
  virtual void run(const StaticOperands& operands, uint8_t* scratch, int threads) const = 0;

 protected:
  Requantize requantize_to(const StaticOperands& operands) const {
    Requantize r = shape_.requantize;
    r.residual = operands.residual;
    return r;
  }
  // Copies `samples` samples of the input from `first` on, with a border of the zero point, or of pixels as
  // the padding mode says.
  void copy_bordered(const StaticOperands& operands, int64_t first, int64_t samples, int threads,
                     uint8_t* image) const;

  const KernelTable& kernels_;
  StaticConvShape shape_;
  PackedStaticConv packed_;
  ConvGeometry g_;
};

std::unique_ptr<const StaticConvForm> make_static_gemm(const StaticConvShape& shape);
std::unique_ptr<const StaticConvForm> make_static_depthwise(const StaticConvShape& shape);
std::unique_ptr<const StaticConvForm> make_static_winograd(const StaticConvShape& shape);

// Whether the weight is packed for Winograd's form, and the image is large enough for it to be faster.
bool prefers_winograd(const StaticConvShape& shape, const PackedStaticConv& packed);

}  // namespace intaglio
