// Depthwise convolution from u8 to u8: a block of 4 * kLanes channels, a row of outputs at a time.
//
// Source rows are copied, each once, into a ring of rows that stays in L1: pixels of exactly one block, with
// the border around them. There kGroup neighbouring taps are interleaved by the unpack instructions, whose
// order of channels the packs of the epilogue undo. One interleaving serves kOutputs outputs: each has
// weights shifted to where its own taps stand, zeros elsewhere.
//
// A block of few channels, such as the last of a row of pixels, is folded: its halves or quarters hold the
// same channels of rows that lie a half or a quarter of the output apart.
#pragma once

#include "requantize-inl.h"

namespace intaglio {
namespace {

constexpr int64_t kBlock = 4 * kLanes;

// How many outputs of a row share their interleavings, for the sizes that are compiled apart: squares of 3 or
// 5 taps, neighbouring, with stride 1 or 2.
constexpr int shared_outputs(int64_t taps, int64_t stride) {
  if (taps == 3) return stride == 1 ? 2 : 1;
  return stride == 1 && kRegisters == 32 ? 4 : 2;
}

// How many such groups of outputs a tile has: they read the same weights, and share their loads.
constexpr int groups_of_tile(int64_t taps, int64_t stride) {
  if (kRegisters < 32) return taps == 3 && stride == 2 ? 2 : 1;
  return taps == 5 && stride == 1 ? 1 : 2;
}

// Interleavings of kGroup taps that `outputs` outputs need.
constexpr int64_t windows_of(int64_t taps, int64_t stride, int64_t outputs) {
  return ((outputs - 1) * stride + taps + kGroup - 1) / kGroup;
}

// A packed block: sums of the weights by channel, then for each tap row, window and output four weight
// vectors.
struct PackedBlock {
  const int32_t* sums;
  const int8_t* weight;
  explicit PackedBlock(const uint8_t* packed)
      : sums(reinterpret_cast<const int32_t*>(packed)),
        weight(reinterpret_cast<const int8_t*>(packed + round_up(kBlock * 4, 64))) {}
};

// Parts of a folded block, and the bytes of each.
inline int64_t folds_of(int64_t channels) {
  return channels <= kBlock / 4 ? 4 : channels <= kBlock / 2 ? 2 : 1;
}
inline int64_t part_bytes(int64_t channels) { return kBlock / folds_of(channels); }

// Vector q and lane of a channel of the block (interleave_taps).
inline int64_t place_of_channel(int64_t c) {
  constexpr int64_t kFour = kLanes < 4 ? kLanes : 4, kSixteen = 4 * kFour;
  return c % kSixteen / kFour * kLanes + c / kSixteen * kFour + c % kFour;
}

// ---- The ring of rows -----------------------------------------------------------------------------

// Pixels of a bordered row that outputs read.
inline int64_t used_pixels(const DepthwiseStaticArgs& args) {
  return (args.columns - 1) * args.shape.stride + (args.shape.taps - 1) * args.shape.dilation + 1;
}

// Pixels of a ring row: with those that whole tiles and windows read beyond, whatever they hold.
inline int64_t ring_pixels(const DepthwiseStaticArgs& args) {
  constexpr int64_t kMostOutputs = 4;
  return (round_up(args.columns, kMostOutputs) + kMostOutputs) * args.shape.stride +
         round_up(args.shape.taps, kGroup) * args.shape.dilation + kGroup;
}

inline int64_t ring_rows(const DepthwiseStaticArgs& args) {
  return args.shape.tap_rows == 0 ? 0 : args.row_offset[args.shape.tap_rows - 1] + 1;
}

int64_t depthwise_scratch_bytes(const DepthwiseStaticArgs& args) noexcept {
  return ring_rows(args) * (ring_pixels(args) * kBlock + 8) + 64;
}

template <int kBytes>
inline void copy_pixels(uint8_t* to, const uint8_t* from, int64_t pixel_bytes, int64_t count) {
  for (int64_t x = 0; x < count; ++x) __builtin_memcpy(to + x * kBlock, from + x * pixel_bytes, kBytes);
}

// `count` pixels of the block's channels, kBlock bytes apart.
inline void copy_block(uint8_t* to, const uint8_t* from, const DepthwiseStaticArgs& args, int64_t count) {
  const int64_t channels = args.shape.channels, pixel_bytes = args.pixel_bytes;
  if (args.repeat != 1) {
    for (int64_t x = 0; x < count; ++x)
      for (int64_t c = 0; c < channels; ++c)
        to[x * kBlock + c] = from[x * pixel_bytes + (args.first + c) / args.repeat];
  } else if (channels == kBlock) {
    copy_pixels<kBlock>(to, from, pixel_bytes, count);
  } else if (channels == kBlock / 2) {
    copy_pixels<kBlock / 2>(to, from, pixel_bytes, count);
  } else if (channels == kBlock / 4) {
    copy_pixels<kBlock / 4>(to, from, pixel_bytes, count);
  } else {
    for (int64_t x = 0; x < count; ++x)
      __builtin_memcpy(to + x * kBlock, from + x * pixel_bytes, static_cast<size_t>(channels));
  }
}

// Rows of the source in a ring: each has the slot of its number modulo the slots.
struct Ring {
  uint8_t* data;
  int64_t slots, row_bytes;
  int64_t next = 0;  // slot of the row to be filled next
  uint8_t* slot(int64_t i) const { return data + (i < slots ? i : i - slots) * row_bytes; }
  void skip(int64_t rows) { next = (next + rows) % slots; }
};

inline void fill_pixels(uint8_t* to, int64_t count, Bytes value, int64_t channels) {
  if (channels == kBlock) {
    for (int64_t x = 0; x < count; ++x) store_bytes<4>(to + x * kBlock, value);
    return;
  }
  for (int64_t x = 0; x < count; ++x) store_bytes_n(to + x * kBlock, value, static_cast<int>(channels));
}

inline void fill_row(const DepthwiseStaticArgs& args, const uint8_t* source, uint8_t* row, int64_t pixels,
                     Bytes zero_point) {
  if (source == nullptr) {
    fill_pixels(row, pixels, zero_point, args.shape.channels);
    return;
  }
  const int64_t low = args.low < pixels ? args.low : pixels;
  const int64_t width = args.width < pixels - low ? args.width : pixels - low;
  fill_pixels(row, low, zero_point, args.shape.channels);
  copy_block(row + low * kBlock, source, args, width);
  fill_pixels(row + (low + width) * kBlock, pixels - low - width, zero_point, args.shape.channels);
}

// ---- Rows of outputs ------------------------------------------------------------------------------

struct DepthwiseRow {
  const uint8_t* const* taps;  // (tap_rows) rows of the ring
  int64_t tap_rows;
  int64_t windows, dilation, stride;  // of sizes that are not compiled apart
  const int8_t* weight;
  const PanelRequantizer* ordered;  // by channel
  const PanelRequantizer* lanes;    // in the order of interleave_taps
  int64_t columns;
  uint8_t* y;
  int64_t place;  // of the row behind y and behind the residual
  int64_t pixel_bytes;
  int64_t part;         // bytes of a part of the block
  int64_t parts;        // whose rows exist
  int64_t fold_offset;  // from the row of one part to that of the next
};

// An output that needs more than packs: sums by channel, through memory.
__attribute__((noinline)) void finish_pixel(const int32_t* lanes, const DepthwiseRow& row, int64_t place) {
  int32_t sums[kBlock];
  for (int64_t c = 0; c < kBlock; ++c) sums[c] = lanes[place_of_channel(c)];
  const int64_t vectors = (row.ordered->columns + kLanes - 1) / kLanes;
  for (int64_t p = 0; p < row.parts; ++p)
    requantize_any(sums + p * row.part, vectors, *row.ordered, row.y, place + p * row.fold_offset);
}

// The bytes of one pixel of a block that is not whole, part by part.
inline void store_parts(uint8_t* y, Bytes bytes, const DepthwiseRow& row, int columns) {
  const int64_t offset = row.fold_offset;
  store_bytes_n(y, bytes, columns);
  if (row.part == kBlock / 2) {
    if (row.parts > 1) store_bytes_n(y + offset, bytes_from<2>(bytes), columns);
  } else if (row.part == kBlock / 4) {
    if (row.parts > 1) store_bytes_n(y + offset, bytes_from<1>(bytes), columns);
    if (row.parts > 2) store_bytes_n(y + 2 * offset, bytes_from<2>(bytes), columns);
    if (row.parts > 3) store_bytes_n(y + 3 * offset, bytes_from<3>(bytes), columns);
  }
}

// Rounded values of the first `count` of X outputs to bytes at y and on.
template <int X, bool kPacksOnly>
inline __attribute__((always_inline)) void store_outputs(const I (&acc)[X][4], const DepthwiseRow& row,
                                                         uint8_t* y, int64_t count) {
  const PanelRequantizer& panel = *row.lanes;
  const int columns = panel.columns;
  const int64_t pixel_bytes = row.pixel_bytes;
  const I zero = set_words(panel.zero_point);
  const Bytes lower = set_bytes(panel.lower), upper = set_bytes(panel.upper);
#pragma GCC unroll 4
  for (int o = 0; o < X; ++o) {
    Bytes bytes = pack_interleaved<!kPacksOnly>(acc[o], zero);
    if constexpr (!kPacksOnly) bytes = clamp_bytes(bytes, lower, upper);
    if (o >= count) return;
    if (columns == kBlock)
      store_bytes<4>(y + o * pixel_bytes, bytes);
    else
      store_parts(y + o * pixel_bytes, bytes, row, columns);
  }
}

template <int X, bool kPlain>
inline __attribute__((always_inline)) void finish_outputs(I (&acc)[X][4], const DepthwiseRow& row,
                                                          int64_t x) {
  const PanelRequantizer& panel = *row.lanes;
  const int64_t pixel_bytes = row.pixel_bytes, place = row.place + x * pixel_bytes;
  const int64_t count = row.columns - x < X ? row.columns - x : X;
  if constexpr (!kPlain) {
    int32_t lanes[X][kBlock];
#pragma GCC unroll 4
    for (int o = 0; o < X; ++o)
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) store_int(lanes[o] + q * kLanes, acc[o][q]);
    for (int64_t o = 0; o < count; ++o) finish_pixel(lanes[o], row, place + o * pixel_bytes);
  } else {
    uint8_t* y = row.y + place;
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      const F multiplier = load(panel.multiplier + q * kLanes), offset = load(panel.offset + q * kLanes);
#pragma GCC unroll 4
      for (int o = 0; o < X; ++o) acc[o][q] = to_int(fma(to_float(acc[o][q]), multiplier, offset));
    }
    if (panel.packs_only)
      store_outputs<X, true>(acc, row, y, count);
    else
      store_outputs<X, false>(acc, row, y, count);
  }
}

// G * X outputs of a row from x on, for R tap rows of KW taps.
template <int R, int KW, int S, int X, int G, bool kPlain>
__attribute__((noinline)) void shared_tile(const DepthwiseRow& row, int64_t x) {
  constexpr int kWindows = static_cast<int>(windows_of(KW, S, X));
  I acc[G * X][4];
  const int8_t* const w = row.weight;
  const int32_t* first = row.lanes->first;
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    const I sum = load_int(first + q * kLanes);
#pragma GCC unroll 4
    for (int o = 0; o < G * X; ++o) acc[o][q] = sum;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const uint8_t* at = row.taps[r] + x * S * kBlock;
#pragma GCC unroll 4
    for (int g = 0; g < kWindows; ++g) {
      I t[G][4];
#pragma GCC unroll 2
      for (int i = 0; i < G; ++i) interleave_taps(at + (i * X * S + g * kGroup) * kBlock, kBlock, t[i]);
#pragma GCC unroll 4
      for (int o = 0; o < X; ++o) {
        if (o * S + KW <= g * kGroup || o * S >= (g + 1) * kGroup) continue;  // none of its taps
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
          const I b = load_weights(w + (((r * kWindows + g) * X + o) * 4 + q) * kLanes * kGroup);
#pragma GCC unroll 2
          for (int i = 0; i < G; ++i) acc[i * X + o][q] = dot(acc[i * X + o][q], t[i][q], b);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int o = 0; o < G * X; ++o)
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) pin(acc[o][q]);
  finish_outputs<G * X, kPlain>(acc, row, x);
}

// Any number and spacing of taps, one output.
template <bool kPlain>
__attribute__((noinline)) void single_tile(const DepthwiseRow& row, int64_t x) {
  const int64_t tap_bytes = row.dilation * kBlock, windows = row.windows, tap_rows = row.tap_rows;
  I acc[1][4];
  const int32_t* first = row.lanes->first;
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) acc[0][q] = load_int(first + q * kLanes);
  const int8_t* w = row.weight;
  for (int64_t r = 0; r < tap_rows; ++r) {
    const uint8_t* at = row.taps[r] + x * row.stride * kBlock;
    for (int64_t g = 0; g < windows; ++g, at += kGroup * tap_bytes, w += kBlock * kGroup) {
      I t[4];
      interleave_taps(at, tap_bytes, t);
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) acc[0][q] = dot(acc[0][q], t[q], load_weights(w + q * kLanes * kGroup));
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) pin(acc[0][q]);
  finish_outputs<1, kPlain>(acc, row, x);
}

// Tiles of a row: wide ones, and a narrower one for what is left.
struct SharedTile {
  void (*wide)(const DepthwiseRow&, int64_t);
  void (*narrow)(const DepthwiseRow&, int64_t);
  int64_t wide_outputs, narrow_outputs;
};

template <int K, int S, bool kPlain>
SharedTile square_tile() {
  constexpr int kOutputs = shared_outputs(K, S), kGroups = groups_of_tile(K, S);
  return {shared_tile<K, K, S, kOutputs, kGroups, kPlain>, shared_tile<K, K, S, kOutputs, 1, kPlain>,
          kGroups * kOutputs, kOutputs};
}

template <bool kPlain>
SharedTile choose_shared_tile(const DepthwiseShape& s) {
  if (s.dilation == 1 && s.tap_rows == s.taps) {
    if (s.taps == 3 && s.stride == 1) return square_tile<3, 1, kPlain>();
    if (s.taps == 3 && s.stride == 2) return square_tile<3, 2, kPlain>();
    if (s.taps == 5 && s.stride == 1) return square_tile<5, 1, kPlain>();
    if (s.taps == 5 && s.stride == 2) return square_tile<5, 2, kPlain>();
  }
  return {single_tile<kPlain>, single_tile<kPlain>, 1, 1};
}

// `ordered` with its channels in the order of interleave_taps, once for each part of `part` channels.
inline void order_by_lane(const PanelRequantizer& ordered, int64_t part, PanelRequantizer& lanes) {
  constexpr int kFour = kLanes < 4 ? kLanes : 4;
#pragma GCC unroll 16
  for (int64_t c = 0; c < kBlock; c += kFour) {
    const int64_t at = place_of_channel(c), from = c & (part - 1);
    __builtin_memcpy(lanes.first + at, ordered.first + from, kFour * 4);
    __builtin_memcpy(lanes.multiplier + at, ordered.multiplier + from, kFour * 4);
    __builtin_memcpy(lanes.offset + at, ordered.offset + from, kFour * 4);
  }
}

void pack_depthwise(const PackDepthwiseArgs& args) noexcept {
  const DepthwiseShape& s = args.shape;
  const int64_t outputs = choose_shared_tile<true>(s).narrow_outputs;
  const int64_t windows = windows_of(s.taps, s.stride, outputs);
  *args.bytes = round_up(kBlock * 4, 64) + s.tap_rows * windows * outputs * kBlock * kGroup;
  if (args.packed == nullptr) return;
  __builtin_memset(args.packed, 0, static_cast<size_t>(*args.bytes));
  auto* sums = reinterpret_cast<int32_t*>(args.packed);
  auto* weight = const_cast<int8_t*>(PackedBlock(args.packed).weight);
  for (int64_t c = 0; c < s.channels; ++c)
    for (int64_t r = 0; r < s.tap_rows; ++r)
      for (int64_t t = 0; t < s.taps; ++t) {
        const int8_t w = args.weight[(c * s.tap_rows + r) * s.taps + t];
        sums[c] += w;
        for (int64_t o = 0; o < outputs; ++o) {
          const int64_t at = o * s.stride + t, set = (r * windows + at / kGroup) * outputs + o;
          for (int64_t to = c; to < kBlock; to += part_bytes(s.channels))
            weight[(set * kBlock + place_of_channel(to)) * kGroup + at % kGroup] = w;
        }
      }
}

void depthwise_static(const DepthwiseStaticArgs& args) noexcept {
  const DepthwiseShape& shape = args.shape;
  const PackedBlock packed(args.packed);
  PanelRequantizer ordered(args.requantize, 0, shape.channels, args.zero_point, packed.sums,
                           shape.tap_rows * shape.taps);
  PanelRequantizer lanes(ordered);
  const int64_t part = part_bytes(shape.channels), folds = folds_of(shape.channels);
  order_by_lane(ordered, part, lanes);
  const int64_t pixels = used_pixels(args);
  auto* const taps = static_cast<const uint8_t**>(args.scratch);
  Ring ring{static_cast<uint8_t*>(args.scratch) + round_up(shape.tap_rows * 8, 64), ring_rows(args),
            ring_pixels(args) * kBlock};
  const int64_t windows = windows_of(shape.taps, shape.stride, 1);
  const int64_t fold_rows = (args.rows + folds - 1) / folds;
  const int64_t sources = (args.rows - 1) * args.row_step + ring.slots;
  DepthwiseRow row{taps,
                   shape.tap_rows,
                   windows,
                   shape.dilation,
                   shape.stride,
                   packed.weight,
                   &ordered,
                   &lanes,
                   args.columns,
                   args.y,
                   0,
                   args.y_pixel_bytes,
                   part,
                   folds,
                   fold_rows * args.y_row_bytes};
  const SharedTile tile = ordered.form == EpilogueForm::kPlain ? choose_shared_tile<true>(shape)
                                                               : choose_shared_tile<false>(shape);
  const Bytes zero_point = set_bytes(args.zero_point);
  int64_t filled = 0, first_slot = 0;
  for (int64_t r = 0; r < fold_rows; ++r) {
    const int64_t begin = r * args.row_step, end = begin + ring.slots;
    if (filled < begin) {
      if (ring.slots > 0) ring.skip(begin - filled);  // without taps there are no rows to keep
      filled = begin;
    }
    for (; filled < end; ++filled) {
      for (int64_t p = 0; p < folds; ++p) {
        const int64_t i = filled + p * fold_rows * args.row_step;
        if (i < sources) fill_row(args, args.source[i], ring.slot(ring.next) + p * part, pixels, zero_point);
      }
      if (++ring.next == ring.slots) ring.next = 0;
    }
    for (int64_t t = 0; t < shape.tap_rows; ++t) taps[t] = ring.slot(first_slot + args.row_offset[t]);
    row.place = r * args.y_row_bytes;
    while (r + (row.parts - 1) * fold_rows >= args.rows) --row.parts;
    int64_t x = 0;
    for (; x + tile.narrow_outputs < args.columns; x += tile.wide_outputs) tile.wide(row, x);
    if (x < args.columns) tile.narrow(row, x);
    first_slot = ring.next + (begin + args.row_step - filled);
    while (first_slot < 0) first_slot += ring.slots;
    while (first_slot >= ring.slots && ring.slots > 0) first_slot -= ring.slots;
  }
}

}  // namespace
}  // namespace intaglio
