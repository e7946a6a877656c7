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

// What a lane holds that does not exist is `other`, in a vector that has just been computed.
inline F only_part(F v, F, Full) { return v; }
inline F only_part(F v, F other, int n) {
  alignas(64) float lanes[kLanes];
  store(lanes, v);
  return load_n_or(lanes, n, other);
}

// body(i, part, n) for the vectors at i = 0, kLanes ... of `cols` values: `part` counts vectors from the last
// multiple of kRounds * kSumChains, and n is Full or the number of lanes that exist. `part` is a constant
// when the body is inlined, as it must be: what it indexes stays in registers.
template <class Body>
inline __attribute__((always_inline)) void for_each_part(int64_t cols, const Body& body) {
  constexpr int kSteps = kRounds * kParts;
  int64_t i = 0;
  for (; i + kSteps * kLanes <= cols; i += kSteps * kLanes)
#pragma GCC unroll 16
    for (int part = 0; part < kSteps; ++part) body(i + part * kLanes, part, Full{});
#pragma GCC unroll 16
  for (int part = 0; part < kSteps; ++part) {
    const int64_t left = cols - i - part * kLanes;
    if (left >= kLanes)
      body(i + part * kLanes, part, Full{});
    else if (left > 0)
      body(i + part * kLanes, part, static_cast<int>(left));
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
