// The weights of a softmax: powers of two of what lies below a row's maximum (docs/numerics.md, "Float
// operations of a Program").
#pragma once

#include "exp2-inl.h"
#include "lanes-inl.h"

namespace intaglio {
namespace {

constexpr float kLog2E = 0x1.715476p+0f;
constexpr float kLowest = -127.0f;  // exp2 is exactly 0 there

// s = 2^(s - its maximum) for the first `count` of `limit` keys, 0 for the rest. Returns their sum.
__attribute__((noinline)) float weigh_row(float* s, int64_t count, int64_t limit) {
  const float none = -__builtin_inff();
  F highest[kRounds * kParts];
#pragma GCC unroll 16
  for (F& part : highest) part = set(none);
  for_each_part(count, [&](int64_t j, int part, auto n) __attribute__((always_inline)) {
    highest[part] = max(highest[part], load_part_or(s + j, n, set(none)));
  });
#pragma GCC unroll 16
  for (int part = 1; part < kRounds * kParts; ++part) highest[0] = max(highest[0], highest[part]);
  const float most = reduce_max(highest[0]);
  // A NaN need not show here: it is a weight of its own, and so in the sum.
  const F base = set(most == none ? 0.0f : most), lowest = set(kLowest);
  ChainSum sum;
  for_each_part(count, [&](int64_t j, int part, auto n) __attribute__((always_inline)) {
    const F e = exp2(max(lowest, sub(load_part_or(s + j, n, set(none)), base)));
    store_part(s + j, e, n);
    sum.add_value(part, e);
  });
  for (int64_t j = count; j < limit; ++j) s[j] = 0.0f;
  return sum.total();
}

}  // namespace
}  // namespace intaglio
