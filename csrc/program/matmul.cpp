// Threaded driver of products of two quantized matrices: matrices of the batch shared out, or rows of each.
#include "matmul.h"

#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "parallel.h"

namespace intaglio {
namespace {

constexpr int64_t kMostDepth = 33025;  // 255 * 255 * k < 2^31
// Below this many multiply-adds a second thread costs more than it brings.
constexpr int64_t kSmallestParallelWork = 1'500'000;
constexpr int64_t kRowGrain = 24;
// Rows that are worked on together: what they are copied to or widened in stays in L2.
constexpr int64_t kBlockRows = 240;

class Product {
 public:
  explicit Product(const MatmulCall& call)
      : call_(call),
        kernels_(active_kernels()),
        k_padded_((std::max<int64_t>(call.k, 1) + 3) / 4 * 4),
        rows_(std::min(kBlockRows, call.m)) {
    kernels_.pack_matmul({nullptr, 0, 0, call.n, call.k, nullptr, &packed_bytes_});
    multiplier_.assign(static_cast<size_t>(call.n), multiplier());
    offset_.assign(static_cast<size_t>(call.n), 0.0f);
  }

  int64_t packed_bytes() const { return aligned_size(packed_bytes_); }
  // Beside the packed operand, for a thread.
  int64_t scratch_bytes() const {
    return aligned_size(rows_ * k_padded_) + aligned_size(rows_ * 4) +
           aligned_size(kernels_.gemm_scratch_bytes(rows_, k_padded_));
  }

  void pack(int64_t item, uint8_t* packed) const {
    int64_t bytes;
    kernels_.pack_matmul({call_.b + offset(item, call_.b_batch_strides), call_.k_stride, call_.n_stride,
                          call_.n, call_.k, packed, &bytes});
  }

  // Rows begin..end-1 of one matrix.
  void run(int64_t item, int64_t begin, int64_t end, const uint8_t* packed, uint8_t* scratch) const {
    const uint8_t* a = call_.a + offset(item, call_.a_batch_strides);
    uint8_t* copy = scratch;
    auto* row_first = reinterpret_cast<int32_t*>(copy + aligned_size(rows_ * k_padded_));
    MatmulStaticArgs args{};
    args.zero_point_a = call_.zero_point_a;
    args.zero_point_b = call_.zero_point_b;
    args.packed = packed;
    args.multiplier = multiplier_.data();
    args.offset = offset_.data();
    args.range = call_.range;
    args.c_stride = call_.n;
    args.row_first = row_first;
    args.scratch = reinterpret_cast<uint8_t*>(row_first) + aligned_size(rows_ * 4);
    for (int64_t row = begin; row < end; row += rows_) {
      args.m = std::min(rows_, end - row);
      args.a = a + row * call_.a_stride;
      args.a_stride = call_.a_stride;
      if (call_.k != k_padded_) {
        copy_rows(args.a, args.m, copy);
        args.a = copy;
        args.a_stride = k_padded_;
      }
      args.c = call_.c + (item * call_.m + row) * call_.n;
      kernels_.matmul_static(args);
    }
  }

 private:
  float multiplier() const {
    const double exact = call_.scale_a * call_.scale_b / call_.scale;
    return static_cast<float>(std::min(exact, static_cast<double>(std::numeric_limits<float>::max())));
  }

  // Rows of whole groups of four, so that nothing is read beyond the operand's end.
  void copy_rows(const uint8_t* a, int64_t rows, uint8_t* copy) const {
    for (int64_t i = 0; i < rows; ++i) {
      if (call_.k > 0)  // without values there may be no address either
        std::memcpy(copy + i * k_padded_, a + i * call_.a_stride, static_cast<size_t>(call_.k));
      std::memset(copy + i * k_padded_ + call_.k, 0, static_cast<size_t>(k_padded_ - call_.k));
    }
  }

  int64_t offset(int64_t item, const std::vector<int64_t>& strides) const {
    int64_t at = 0;
    for (size_t axis = call_.batch.size(); axis-- > 0; item /= call_.batch[axis])
      at += item % call_.batch[axis] * strides[axis];
    return at;
  }

  const MatmulCall& call_;
  const KernelTable& kernels_;
  int64_t k_padded_, rows_, packed_bytes_ = 0;
  std::vector<float> multiplier_, offset_;
};

}  // namespace

void matmul_static(const MatmulCall& call) {
  if (call.k > kMostDepth)
    throw std::invalid_argument("K = " + std::to_string(call.k) + " exceeds " + std::to_string(kMostDepth) +
                                ", beyond which int32 sums could overflow");
  int64_t items = 1;
  for (const int64_t size : call.batch) items *= size;
  if (items * call.m * call.n == 0) return;
  const Product product(call);
  const int threads = items * call.m * call.n * call.k < kSmallestParallelWork ? 1 : call.threads;
  const bool by_item = items >= threads;
  const int64_t each = product.scratch_bytes() + (by_item ? product.packed_bytes() : 0);
  Scratch scratch(each * threads + (by_item ? 0 : product.packed_bytes()));
  auto* parts = scratch.take<uint8_t>(each * threads);
  if (by_item) {
    run_parallel(threads, [&](int thread, int count) {
      uint8_t* packed = parts + each * thread;
      const Share mine = share_of(items, 1, thread, count);
      for (int64_t item = mine.begin; item < mine.end; ++item) {
        product.pack(item, packed);
        product.run(item, 0, call.m, packed, packed + product.packed_bytes());
      }
    });
    return;
  }
  auto* packed = scratch.take<uint8_t>(product.packed_bytes());
  for (int64_t item = 0; item < items; ++item) {
    product.pack(item, packed);
    run_parallel(threads, [&](int thread, int count) {
      const Share rows = share_of(call.m, kRowGrain, thread, count);
      product.run(item, rows.begin, rows.end, packed, parts + each * thread);
    });
  }
}

}  // namespace intaglio
