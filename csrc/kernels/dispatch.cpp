// Which instruction set's kernels this process uses: the CPU's best, or the one INTAGLIO_ISA names.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace intaglio {

extern const KernelTable kScalarKernels;
#ifdef INTAGLIO_X86
extern const KernelTable kAvx2Kernels, kAvxVnniKernels, kAvxVnniEvexKernels, kAvx512VnniKernels;
#endif

namespace {

constexpr const char* kNames[] = {"scalar", "avx2", "avx_vnni", "avx_vnni_evex", "avx512_vnni"};
static_assert(sizeof(kNames) / sizeof(*kNames) == static_cast<size_t>(Isa::kCount), "a name each");

// Best first; kAvxVnniEvex is for tests alone.
constexpr Isa kPreference[] = {Isa::kAvx512Vnni, Isa::kAvxVnni, Isa::kAvx2, Isa::kScalar};

std::atomic<const KernelTable*> active{nullptr};

#ifdef INTAGLIO_X86
bool cpu_has_avx_vnni() {
  unsigned a = 7, b = 0, c = 1, d = 0;  // leaf 7, subleaf 1: EAX bit 4
  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (a >> 4 & 1u) != 0 && __builtin_cpu_supports("avx2");
}
#endif

bool cpu_has(Isa isa) {
#ifdef INTAGLIO_X86
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool vnni = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512vnni");
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return avx2;
    case Isa::kAvxVnni:
      return avx2 && cpu_has_avx_vnni();
    case Isa::kAvxVnniEvex:
    case Isa::kAvx512Vnni:
      return vnni;
    case Isa::kCount:
      break;
  }
  return false;
#else
  return isa == Isa::kScalar;
#endif
}

const KernelTable* compiled(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return &kScalarKernels;
#ifdef INTAGLIO_X86
    case Isa::kAvx2:
      return &kAvx2Kernels;
    case Isa::kAvxVnni:
      return &kAvxVnniKernels;
    case Isa::kAvxVnniEvex:
      return &kAvxVnniEvexKernels;
    case Isa::kAvx512Vnni:
      return &kAvx512VnniKernels;
#endif
    default:
      return nullptr;
  }
}

const KernelTable& choose() {
  for (const Isa isa : kPreference)
    if (const KernelTable* table = kernels_of(isa)) return *table;
  return kScalarKernels;
}

}  // namespace

const char* isa_name(Isa isa) {
  const int i = static_cast<int>(isa);
  return i >= 0 && i < static_cast<int>(Isa::kCount) ? kNames[i] : "unknown";
}

bool cpu_permutes_bytes() {
#ifdef INTAGLIO_X86
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512vbmi");
#else
  return false;
#endif
}

const KernelTable* kernels_of(Isa isa) { return cpu_has(isa) ? compiled(isa) : nullptr; }

const KernelTable* kernels_of(const char* name) {
  for (int i = 0; i < static_cast<int>(Isa::kCount); ++i)
    if (std::strcmp(name, kNames[i]) == 0) return kernels_of(static_cast<Isa>(i));
  return nullptr;
}

void force_isa(const char* name) {
  const KernelTable* table = kernels_of(name);
  if (table == nullptr) {
    std::string message =
        std::string("instruction set '") + name + "' is not one that this CPU can run; it has:";
    for (int i = 0; i < static_cast<int>(Isa::kCount); ++i)
      if (kernels_of(static_cast<Isa>(i)) != nullptr) message += std::string(" ") + kNames[i];
    throw std::invalid_argument(message);
  }
  active.store(table, std::memory_order_release);
}

const KernelTable& active_kernels() {
  const KernelTable* table = active.load(std::memory_order_acquire);
  if (table == nullptr) {
    const char* forced = std::getenv("INTAGLIO_ISA");
    if (forced != nullptr && *forced != '\0')
      force_isa(forced);
    else
      active.store(&choose(), std::memory_order_release);
    table = active.load(std::memory_order_acquire);
  }
  return *table;
}

}  // namespace intaglio
