// The weights of a softmax: powers of two of what lies below a row's maximum, as floats or rounded to words
// (docs/numerics.md, "Float operations of a Program").
#pragma once

#include "exp2-inl.h"
#include "lanes-inl.h"

namespace intaglio {
namespace {

constexpr float kLog2E = 0x1.715476p+0f;
constexpr float kLowest = -127.0f;  // exp2 is exactly 0 there

// The largest score, and 0 if there is none above -infinity. Of a NaN nothing need be seen here.
inline float highest_score(const float* s, int64_t count) {
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
  return most == none ? 0.0f : most;
}

// s = 2^(s - the highest). Returns their sum; a NaN is a weight of its own, and so in the sum.
__attribute__((noinline)) float weigh_row(float* s, int64_t count) {
  const F base = set(highest_score(s, count)), lowest = set(kLowest), none = set(-__builtin_inff());
  ChainSum sum;
  for_each_part(count, [&](int64_t j, int part, auto n) __attribute__((always_inline)) {
    const F e = exp2(max(lowest, sub(load_part_or(s + j, n, none), base)));
    store_part(s + j, e, n);
    sum.add_value(part, e);
  });
  return sum.total();
}

// words[j] = 2^(s[j] - the highest) in steps of 1 / kMostWeight for the first `count` of `limit` keys, 0 for
// the rest; vectors are written whole. Returns the words' exact sum, or NaN if a score is NaN.
constexpr float kMostWeight = 32767.0f;
constexpr float kLog2MostWeight = 0x1.dfffa4p+3f;
constexpr float kLowestWord = -32.0f;   // becomes 0
constexpr int64_t kWordsInSum = 65536;  // whose sum fits an int32

__attribute__((noinline)) float weigh_row_in_words(const float* s, int64_t count, int16_t* words,
                                                   int64_t limit) {
  const F base = set(highest_score(s, count)), lowest = set(kLowestWord), none = set(-__builtin_inff());
  for (int64_t j = round_up(count, kLanes); j < limit; ++j) words[j] = 0;
  I least = set_int(0);
  int64_t total = 0;
  for (int64_t begin = 0; begin < count; begin += kWordsInSum) {
    I sum = set_int(0);
    for_each_part(count - begin < kWordsInSum ? count - begin : kWordsInSum,
                  [&](int64_t j, int, auto n) __attribute__((always_inline)) {
                    const F t = max(lowest, sub(load_part_or(s + begin + j, n, none), base));
                    const I e = to_int(exp2(add(t, set(kLog2MostWeight))));
                    narrow_words(words + begin + j, e);
                    least = min_int(least, e);
                    sum = add_int(sum, e);
                  });
    const bool has_nan = to_bits(not_at_least(to_float(least), set(0.0f))) != 0;
    if (has_nan) return __builtin_nanf("");
    total += reduce_add_int(sum);
  }
  return static_cast<float>(total);
}

}  // namespace
}  // namespace intaglio
