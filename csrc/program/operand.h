// The left side of a product with a packed weight, as its type needs it: uint8 rows with their
// parameters for an int8 weight, floats for halves.
#pragma once

#include "packed_cell.h"
#include "parallel.h"

namespace intaglio {

// Parts of one allocation. Without memory it only measures how much there must be.
class Arena {
 public:
  explicit Arena(uint8_t* memory = nullptr) : memory_(memory) {}
  template <class T>
  T* take(int64_t count) {
    T* part = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += aligned_size(count * static_cast<int64_t>(sizeof(T)));
    most_ = std::max(most_, used_);
    return part;
  }
  // Going back gives the same memory out again, to what never runs at the same time.
  void go_to(int64_t used) { used_ = used; }
  int64_t used() const { return used_; }
  int64_t most() const { return most_; }

 private:
  uint8_t* memory_;
  int64_t used_ = 0, most_ = 0;
};

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
