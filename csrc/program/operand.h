// The left side of a product with a packed weight, as its type needs it: uint8 rows with their
// parameters for an int8 weight, floats for halves.
#pragma once

#include "packed_cell.h"
#include "parallel.h"

namespace intaglio {

class Operand {
 public:
  Operand(CellWeight type, int64_t k);
  void take_memory(Arena& arena, int64_t rows);
  // Rows first..first+rows-1 from `x`, quantized or copied.
  void set(const float* x, int64_t x_stride, int64_t rows, int64_t first = 0);
  // out = operand @ packed.T + (addend, which may be `out`, or the packed bias); `out` has its columns.
  void multiply(int64_t rows, const uint8_t* packed, const float* addend, float* out,
                int64_t out_stride) const;

  // What the fused int8 steps take.
  const uint8_t* quantized() const { return q_; }
  int64_t stride() const { return stride_; }
  const float* scale() const { return scale_; }
  const int32_t* zero_point() const { return zero_point_; }
  uint8_t* scratch() const { return scratch_; }

 private:
  const KernelTable* kernels_;
  CellWeight type_;
  int64_t k_, stride_;
  float* values_ = nullptr;
  uint8_t* q_ = nullptr;
  float* scale_ = nullptr;
  int32_t* zero_point_ = nullptr;
  uint8_t* scratch_ = nullptr;
};

}  // namespace intaglio
