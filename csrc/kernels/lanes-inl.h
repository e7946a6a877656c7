// Sums of float32 in one order on every instruction set: sixteen chains, value i on chain i mod 16, which a
// tree then joins (docs/numerics.md, "Float operations of a Program").
#pragma once

namespace intaglio {
namespace {

constexpr int kSumChains = 16;
constexpr int kParts = kSumChains / kLanes;  // vectors that hold one value of every chain
// Two rounds of chains in a step, where registers are many: two ranges at once, fewer branches.
constexpr int kRounds = kParts == 1 ? 2 : 1;

struct Full {};  // in place of a count: all lanes

inline F load_part(const float* p, Full) { return load(p); }
inline F load_part(const float* p, int n) { return load_n(p, n); }
inline F load_part_or(const float* p, Full, F) { return load(p); }
inline F load_part_or(const float* p, int n, F other) { return load_n_or(p, n, other); }
inline void store_part(float* p, F v, Full) { store(p, v); }
inline void store_part(float* p, F v, int n) { store_n(p, v, n); }

// body(i, part, n) for the vectors at i = 0, kLanes ... of `cols` values: `part` counts vectors from the last
// multiple of kSumChains, and n is Full or the number of lanes that exist. It must be inlined to be worth it.
template <class Body>
inline __attribute__((always_inline)) void for_each_part(int64_t cols, const Body& body) {
  int64_t i = 0;
  for (; i + kRounds * kSumChains <= cols; i += kRounds * kSumChains)
#pragma GCC unroll 16
    for (int part = 0; part < kRounds * kParts; ++part) body(i + part * kLanes, part, Full{});
  for (int part = 0; i < cols; i += kLanes, ++part) {
    const int64_t left = cols - i;
    if (left >= kLanes)
      body(i, part, Full{});
    else
      body(i, part, static_cast<int>(left));
  }
}

// The chains of a sum; lanes that do not exist must be given as zeros.
struct ChainSum {
  F part[kParts];

  ChainSum() {
#pragma GCC unroll 16
    for (int p = 0; p < kParts; ++p) part[p] = set(0.0f);
  }
  void add_value(int p, F v) { part[p % kParts] = add(part[p % kParts], v); }
  void add_square(int p, F v) { part[p % kParts] = fma(v, v, part[p % kParts]); }
  float total() const { return sum_chains(part); }
};

}  // namespace
}  // namespace intaglio
