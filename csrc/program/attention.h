// Scaled dot-product attention, read from and written to projections where they lie
// (docs/numerics.md, "Float operations of a Program").
#pragma once

#include "../kernels/kernels.h"

namespace intaglio {

// A tensor (batch, heads, rows, width) by its strides in floats; the values of a row are neighbours. A stride
// may be 0. (B, T, heads * width) is {data, T * heads * width, width, heads * width}.
template <class T>
struct HeadRows {
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;
};

struct AttentionCall {
  int64_t batch, heads, kv_heads;  // heads / kv_heads query heads in a row share keys and values
  int64_t queries, keys;
  int64_t depth, width;     // values of a query or key, and of a value or result
  HeadRows<const float> q;  // (batch, heads, queries, depth)
  HeadRows<const float> k;  // (batch, kv_heads, keys, depth)
  HeadRows<const float> v;  // (batch, kv_heads, keys, width)
  HeadRows<float> y;        // (batch, heads, queries, width)
  float scale;
  HeadRows<const float> mask;       // (batch, heads, queries, keys), added to the scores; or none
  HeadRows<const uint8_t> allowed;  // the same shape, 0 where a key is not to be seen; or none
  bool is_causal = false;           // query i sees keys 0..i
  int threads = 1;
};

void run_attention(const AttentionCall& call);

}  // namespace intaglio
