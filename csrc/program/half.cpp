// Threaded drivers of the float16-weight GEMM: how rows and panels are shared out and blocked.
#include "half.h"

#include <stdexcept>
#include <string>

#include "parallel.h"

namespace intaglio {
namespace {

// Rows of floats that stay in L2 while every panel passes over them.
constexpr int64_t kBlockBytes = 512 * 1024;
// Below this many multiply-adds a second thread costs more than it brings.
constexpr int64_t kSmallestParallelWork = 400'000;
// A thread's own rows must be enough to repay reading all of the weights.
constexpr int64_t kSmallestRowShare = 48;

int64_t block_rows(int64_t k) {
  return std::max<int64_t>(48, kBlockBytes / (std::max<int64_t>(k, 1) * 4) / 48 * 48);
}

PackedLayout read_layout(const uint8_t* packed) {
  PackedLayout layout;
  __builtin_memcpy(&layout, packed, sizeof layout);
  if (layout.magic != kPackedHalfMagic) throw std::invalid_argument("not a packed float16 weight");
  return layout;
}

}  // namespace

int64_t packed_half_bytes(int64_t n, int64_t k) {
  PackedLayout layout;
  int64_t bytes = 0;
  active_kernels().pack_half({nullptr, nullptr, n, k, nullptr, &layout, &bytes});
  return bytes;
}

void pack_half_weight(const uint16_t* weight, const float* bias, int64_t n, int64_t k, uint8_t* packed) {
  PackedLayout layout;
  int64_t bytes = 0;
  active_kernels().pack_half({weight, bias, n, k, packed, &layout, &bytes});
}

void unpack_half_weight(const uint8_t* packed, uint16_t* weight, float* bias) {
  read_layout(packed);
  active_kernels().unpack_half({packed, weight, bias});
}

void linear_half(const LinearHalfCall& call) {
  const KernelTable& kernels = active_kernels();
  const PackedLayout layout = read_layout(call.packed);
  if (layout.isa != static_cast<int32_t>(kernels.isa))
    throw std::invalid_argument(std::string("a weight packed for ") + isa_name(static_cast<Isa>(layout.isa)) +
                                " cannot be used by the kernels in use, " + kernels.name);
  if (layout.k != call.k)
    throw std::invalid_argument("the packed weight has another number of input features");
  if (call.m <= 0 || layout.n == 0) return;
  const int threads = call.m * layout.n * layout.k < kSmallestParallelWork ? 1 : call.threads;
  const bool by_rows = call.m >= kSmallestRowShare * threads;
  const int64_t panels = (layout.n + layout.panel - 1) / layout.panel;
  const int64_t most = block_rows(call.k);
  run_parallel(threads, [&](int thread, int count) {
    const Share rows = by_rows ? share_of(call.m, 24, thread, count) : Share{0, call.m};
    const Share mine = by_rows ? Share{0, panels} : share_of(panels, 1, thread, count);
    for (int64_t row = rows.begin; row < rows.end; row += most) {
      GemmHalfArgs args{};
      args.a = call.x + row * call.k;
      args.a_stride = call.k;
      args.m = std::min(most, rows.end - row);
      args.packed = call.packed;
      args.panel_begin = mine.begin;
      args.panel_end = mine.end;
      args.addend = call.addend == nullptr ? nullptr : call.addend + row * layout.n;
      args.addend_stride = layout.n;
      args.c = call.y + row * layout.n;
      args.c_stride = layout.n;
      kernels.gemm_half(args);
    }
  });
}

}  // namespace intaglio
