// Hyperparameters of convolutions as lists of numbers.
#pragma once

#include <stdexcept>
#include <vector>

#include "../program/conv_plan.h"

namespace intaglio {

// Hyperparameters in the order that ops/conv.py writes and reads them.
constexpr size_t kConvSpecLength = 17;

inline ConvSpec spec_from(const std::vector<int64_t>& v) {
  if (v.size() != kConvSpecLength) throw std::invalid_argument("not the hyperparameters of a convolution");
  return {v[0],
          v[1],
          v[2],
          {v[3], v[4], v[5]},
          {v[6], v[7], v[8]},
          {v[9], v[10], v[11]},
          {v[12], v[13], v[14]},
          v[15] != 0,
          static_cast<PaddingMode>(v[16])};
}

inline std::vector<int64_t> spec_to(const ConvSpec& s) {
  return {s.out_channels,
          s.in_channels,
          s.groups,
          s.kernel[0],
          s.kernel[1],
          s.kernel[2],
          s.stride[0],
          s.stride[1],
          s.stride[2],
          s.dilation[0],
          s.dilation[1],
          s.dilation[2],
          s.padding[0],
          s.padding[1],
          s.padding[2],
          s.transposed ? 1 : 0,
          static_cast<int64_t>(s.padding_mode)};
}

}  // namespace intaglio
