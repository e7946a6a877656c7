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

inline int32_t largest_byte(const uint8_t* x, int64_t count) {
  I most = set_u8s(0);
  for (int64_t i = 0; i < count; i += kBytes)
    most =
        max_u8s(most, count - i < kBytes ? load_u8s_n(x + i, static_cast<int>(count - i)) : load_u8s(x + i));
  return reduce_max_u8s(most);
}

inline F softmax_scale(const SoftmaxRowsArgs& args, int64_t total) {
  return set(static_cast<float>(1.0 / (static_cast<double>(total) * args.scale)));
}

// Tables are as cheap as vectors: the entries' sums come from their bytes, plane by plane, and each of the
// 256 distances from the largest has one result.
class SoftmaxTables {
 public:
  explicit SoftmaxTables(const SoftmaxRowsArgs& args)
      : args_(args),
        encoder_(args.range),
        low_(args.planes),
        middle_(args.planes + 256),
        high_(args.planes + 512) {}

  void run(const uint8_t* x, uint8_t* y) const {
    const int32_t largest = largest_byte(x, args_.cols);
    const I most = set_u8s(largest);
    alignas(64) uint8_t results[256];
    const F scale = softmax_scale(args_, sum(x, largest));
    const int32_t* table = args_.table;
    encode_span(256, encoder_, results,
                [table, scale](int64_t at, int) { return mul(to_float(load_int(table + at)), scale); });
    const ByteTable<true> found(results);
    for_each_vector(x, [&](const uint8_t* p, int n) {
      const I distance = sub_u8s(most, n == kBytes ? load_u8s(p) : load_u8s_n(p, n));
      uint8_t* to = y + (p - x);
      n == kBytes ? store_u8s(to, found.look_up(distance)) : store_u8s_n(to, found.look_up(distance), n);
    });
  }

 private:
  template <class Body>
  void for_each_vector(const uint8_t* x, const Body& body) const {
    for (int64_t i = 0; i < args_.cols; i += kBytes) body(x + i, to_n(args_.cols - i, kBytes));
  }

  int64_t sum(const uint8_t* x, int32_t largest) const {
    const I most = set_u8s(largest);
    constexpr int64_t kMost = int64_t{2048} * kBytes;  // 4 * 255 * 2048 times 256 fit a lane of 32 bits
    int64_t total = 0;
    for (int64_t begin = 0; begin < args_.cols; begin += kMost) {
      const int64_t end = args_.cols - begin < kMost ? args_.cols : begin + kMost;
      I low = set_int(0), high = set_int(0);
      for (int64_t i = begin; i < end; i += kBytes) {
        const int n = to_n(end - i, kBytes);
        const I distance = sub_u8s(most, n == kBytes ? load_u8s(x + i) : load_u8s_n(x + i, n));
        low = add_int(
            low, add_int(quads(low_.look_up(distance)), shift_left<8>(quads(middle_.look_up(distance)))));
        high = add_int(high, quads(high_.look_up(distance)));
      }
      total += sum_of_lanes(low) + (sum_of_lanes(high) << 16);
    }
    // What was read as zero beyond the row's end stands at the largest's own distance from zero.
    const int64_t beyond = (args_.cols + kBytes - 1) / kBytes * kBytes - args_.cols;
    return total - beyond * args_.table[largest];
  }

  // Each lane's bytes added.
  static I quads(I bytes) {
    const I mask = set_int(0x00ff00ff);
    return dot_words(add_int(and_int(bytes, mask), and_int(shift_right<8>(bytes), mask)),
                     set_int(0x00010001));
  }

  const SoftmaxRowsArgs& args_;
  const ByteEncoder encoder_;
  const ByteTable<true> low_, middle_, high_;
};

// Without them the entries are fetched one by one.
inline void softmax_by_entry(const SoftmaxRowsArgs& args, const ByteEncoder& encoder, const uint8_t* x,
                             uint8_t* y) {
  constexpr int64_t kChunk = 1024;
  const int32_t* table = args.table + largest_byte(x, args.cols);
  int64_t sum = 0, more = 0, i = 0;
  for (; i + 2 <= args.cols; i += 2) {
    sum += *(table - x[i]);
    more += *(table - x[i + 1]);
  }
  if (i < args.cols) sum += *(table - x[i]);
  const F scale = softmax_scale(args, sum + more);
  int32_t entries[kChunk];
  for (int64_t begin = 0; begin < args.cols; begin += kChunk) {
    const int64_t count = args.cols - begin < kChunk ? args.cols - begin : kChunk;
    for (int64_t e = 0; e < count; ++e) entries[e] = *(table - x[begin + e]);
    for (int64_t e = count; e < kChunk && e < count + kLanes; ++e) entries[e] = 0;
    encode_span(count, encoder, y + begin,
                [&](int64_t at, int) { return mul(to_float(load_int(entries + at)), scale); });
  }
}

void softmax_rows(const SoftmaxRowsArgs& args) noexcept {
  if constexpr (kHasBytePermutes) {
    if (args.permutes_bytes) {
      const SoftmaxTables tables(args);
      for (int64_t r = 0; r < args.rows; ++r) tables.run(args.x + r * args.cols, args.y + r * args.cols);
      return;
    }
  }
  const ByteEncoder encoder(args.range);
  for (int64_t r = 0; r < args.rows; ++r)
    softmax_by_entry(args, encoder, args.x + r * args.cols, args.y + r * args.cols);
}

}  // namespace
}  // namespace intaglio
