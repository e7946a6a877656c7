// The left side of a product, quantized or float: see operand.h.
#include "operand.h"

#include "gemm.h"

namespace intaglio {

Operand::Operand(CellWeight type, int64_t k)
    : kernels_(&active_kernels()),
      type_(type),
      k_(k),
      stride_(type == CellWeight::kHalf ? k : (std::max<int64_t>(k, 1) + 3) / 4 * 4) {}

void Operand::take_memory(Arena& arena, int64_t rows) {
  if (type_ == CellWeight::kHalf) {
    values_ = arena.take<float>(rows * stride_);
    return;
  }
  q_ = arena.take<uint8_t>(rows * stride_);
  scale_ = arena.take<float>(rows);
  zero_point_ = arena.take<int32_t>(rows);
  scratch_ = arena.take<uint8_t>(kernels_->gemm_scratch_bytes(rows, stride_));
}

void Operand::set(const float* x, int64_t x_stride, int64_t rows, int64_t first) {
  if (type_ == CellWeight::kHalf) {
    for (int64_t r = 0; r < rows; ++r) std::copy_n(x + r * x_stride, k_, values_ + (first + r) * stride_);
    return;
  }
  kernels_->quantize_rows(
      {x, x_stride, rows, k_, q_ + first * stride_, stride_, scale_ + first, zero_point_ + first});
}

void Operand::multiply(int64_t rows, const uint8_t* packed, const float* addend, float* out,
                       int64_t out_stride) const {
  PackedLayout layout;
  __builtin_memcpy(&layout, packed, sizeof layout);
  if (type_ == CellWeight::kHalf) {
    kernels_->gemm_half(
        {values_, stride_, rows, packed, 0, panels_of(layout), addend, out_stride, out, out_stride});
    return;
  }
  GemmArgs args{};
  args.a = q_;
  args.a_stride = stride_;
  args.m = rows;
  args.packed = packed;
  args.panel_end = panels_of(layout);
  args.row_scale = scale_;
  args.row_zero_point = zero_point_;
  args.row_param_stride = 1;
  args.addend = addend;
  args.addend_stride = out_stride;
  args.c = out;
  args.c_stride = out_stride;
  args.scratch = scratch_;
  kernels_->gemm(args);
}

}  // namespace intaglio
