// Copies between arrays of any strides.
#pragma once

#include <cstdint>
#include <vector>

namespace intaglio {

// y[i, j, ...] = x[i, j, ...]; sizes and strides have a value for each axis, the strides in bytes and 0 where
// all values are one. Items of 1, 2, 4, 8 or 16 bytes, or std::invalid_argument is thrown; y does not overlap
// x.
struct CopyCall {
  const uint8_t* x;
  uint8_t* y;
  int64_t item_bytes;
  std::vector<int64_t> sizes, x_strides, y_strides;
  int threads;
};

void copy_strided(const CopyCall& call);

// `count` bytes of one value.
void fill_bytes(uint8_t* y, int64_t count, uint8_t value);

}  // namespace intaglio
