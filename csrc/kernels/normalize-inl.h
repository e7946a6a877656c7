// Normalization and softmax of u8: exact sums of integers first, then one pass over the values.
#pragma once

#include "layout-inl.h"
#include "normalization.h"

namespace intaglio {
namespace {

inline int64_t sum_of_lanes(I v) {
  int32_t lanes[kLanes];
  store_int(lanes, v);
  int64_t total = 0;
  for (const int32_t lane : lanes) total += lane;
  return total;
}

inline F load_u8_first(const uint8_t* p, int n) {
  return n == kLanes ? to_float(load_u8_int(p)) : load_u8_n(p, n);
}

inline F load_first(const float* p, int n) { return n == kLanes ? load(p) : load_n(p, n); }

// The sum of the bytes of a row and that of their squares.
inline void row_moments(const uint8_t* x, int64_t count, int64_t* sum, int64_t* square) {
  constexpr int64_t kMost = int64_t{4096} * kBytes;  // 4 * 4096 squares fit a lane of 32 bits
  const I mask = set_int(0x00ff00ff), ones = set_int(0x00010001);
  *sum = *square = 0;
  for (int64_t begin = 0; begin < count; begin += kMost) {
    const int64_t end = count - begin < kMost ? count : begin + kMost;
    I sums = set_int(0), squares = set_int(0);
    for (int64_t i = begin; i < end; i += kBytes) {
      const I bytes = end - i < kBytes ? load_u8s_n(x + i, static_cast<int>(end - i)) : load_u8s(x + i);
      const I even = and_int(bytes, mask), odd = and_int(shift_right<8>(bytes), mask);
      sums = add_int(sums, dot_words(add_int(even, odd), ones));
      squares = add_int(squares, add_int(dot_words(even, even), dot_words(odd, odd)));
    }
    *sum += sum_of_lanes(sums);
    *square += sum_of_lanes(squares);
  }
}

void normalize_rows(const NormalizeRowsArgs& args) noexcept {
  const ByteEncoder encoder(args.range);
  const float *multiplier = args.multiplier, *offset = args.offset;
  for (int64_t r = 0; r < args.rows; ++r) {
    const uint8_t* x = args.x + r * args.cols;
    int64_t sum, square;
    row_moments(x, args.cols, &sum, &square);
    const Normalization row = choose_normalization(args.cols, sum, square, args.epsilon);
    const F gain = set(row.gain), shift = set(row.shift);
    encode_span(args.cols, encoder, args.y + r * args.cols, [=](int64_t i, int n) {
      const F normal = fma(load_u8_first(x + i, n), gain, shift);
      return fma(normal, load_first(multiplier + i, n), load_first(offset + i, n));
    });
  }
}

void column_moments(const ColumnMomentsArgs& args) noexcept {
  const int64_t cols = args.cols;
  for (int64_t c = 0; c < cols; c += kLanes) {
    const int n = to_n(cols - c, kLanes);
    I sum = set_int(0), square = set_int(0);
    const uint8_t* x = args.x + c;
    const uint8_t* end = x + args.rows * cols;
    if (n == kLanes) {
      for (; x < end; x += cols) {
        const I v = load_u8_int(x);
        sum = add_int(sum, v);
        square = add_int(square, dot_words(v, v));
      }
    } else {
      for (; x < end; x += cols) {
        const I v = to_int(load_u8_n(x, n));
        sum = add_int(sum, v);
        square = add_int(square, dot_words(v, v));
      }
    }
    int32_t sums[kLanes], squares[kLanes];
    store_int(sums, sum);
    store_int(squares, square);
    __builtin_memcpy(args.sum + c, sums, static_cast<size_t>(n) * 4);
    __builtin_memcpy(args.square + c, squares, static_cast<size_t>(n) * 4);
  }
}

void normalize_columns(const NormalizeColumnsArgs& args) noexcept {
  const ByteEncoder encoder(args.range);
  const float *gain = args.gain, *shift = args.shift, *multiplier = args.multiplier, *offset = args.offset;
  for (int64_t r = 0; r < args.rows; ++r) {
    const uint8_t* x = args.x + r * args.cols;
    encode_span(args.cols, encoder, args.y + r * args.cols, [=](int64_t i, int n) {
      const F normal = fma(load_u8_first(x + i, n), load_first(gain + i, n), load_first(shift + i, n));
      return fma(normal, load_first(multiplier + i, n), load_first(offset + i, n));
    });
  }
}

// ---- Softmax --------------------------------------------------------------------------------------

inline uint8_t largest_byte(const uint8_t* x, int64_t count) {
  I most = set_u8s(0);
  for (int64_t i = 0; i < count; i += kBytes)
    most =
        max_u8s(most, count - i < kBytes ? load_u8s_n(x + i, static_cast<int>(count - i)) : load_u8s(x + i));
  uint8_t bytes[kBytes], largest = 0;
  store_u8s(bytes, most);
  for (const uint8_t byte : bytes) largest = byte > largest ? byte : largest;
  return largest;
}

// Each of the 256 distances from the largest has one result: a table for every row.
template <bool kPermutes>
inline void softmax_row(const SoftmaxRowsArgs& args, const ByteEncoder& encoder, const uint8_t* x,
                        uint8_t* y) {
  const uint8_t largest = largest_byte(x, args.cols);
  const int32_t* table = args.table + largest;
  int64_t sum[4] = {0, 0, 0, 0}, i = 0;
  for (; i + 4 <= args.cols; i += 4)
    for (int j = 0; j < 4; ++j) sum[j] += *(table - x[i + j]);
  for (; i < args.cols; ++i) sum[0] += *(table - x[i]);
  const auto total = static_cast<double>(sum[0] + sum[1] + sum[2] + sum[3]);
  const F inverse = set(static_cast<float>(1.0 / (total * args.scale)));
  alignas(64) uint8_t results[256];
  encode_span(256, encoder, results,
              [&](int64_t at, int) { return mul(to_float(load_int(args.table + at)), inverse); });
  const ByteTable<kPermutes> found(results);
  const I most = set_u8s(largest);
  for (i = 0; i + kBytes <= args.cols; i += kBytes)
    store_u8s(y + i, found.look_up(sub_u8s(most, load_u8s(x + i))));
  const int n = static_cast<int>(args.cols - i);
  if (n > 0) store_u8s_n(y + i, found.look_up(sub_u8s(most, load_u8s_n(x + i, n))), n);
}

void softmax_rows(const SoftmaxRowsArgs& args) noexcept {
  const ByteEncoder encoder(args.range);
  for (int64_t r = 0; r < args.rows; ++r) {
    const uint8_t* x = args.x + r * args.cols;
    uint8_t* y = args.y + r * args.cols;
    args.permutes_bytes ? softmax_row<true>(args, encoder, x, y) : softmax_row<false>(args, encoder, x, y);
  }
}

}  // namespace
}  // namespace intaglio
