// Between float32 tensors and u8 images: quantization and dequantization, planes to pixels and back.
//
// Only the upper end is clamped before the conversion to int32: what lies below its range, and NaN, converts
// to the smallest integer, which saturates to the lower end as it should.
#pragma once

#include "quantize-inl.h"

namespace intaglio {
namespace {

constexpr int64_t kQuad = 16;  // bytes of a pixel that store_quads and load_byte_quads move

inline int to_n(int64_t left, int whole) { return static_cast<int>(left < whole ? left : whole); }

// The last step of every kernel that makes u8: rounded values to bytes within their limits.
struct ByteEncoder {
  explicit ByteEncoder(const OutputRange& range)
      : zero(range.zero_point), lower(set_u8s(range.lower)), upper(set_u8s(range.upper)) {}
  I clamp(I bytes) const { return min_u8s(upper, max_u8s(lower, bytes)); }
  void store(uint8_t* p, const I (&v)[4]) const { store_u8s(p, clamp(pack_u8_four(v, zero))); }
  void store_n(uint8_t* p, const I (&v)[4], int n) const { store_u8s_n(p, clamp(pack_u8_four(v, zero)), n); }

  int32_t zero;
  I lower, upper;
};

// rne(y), or the smallest integer for what is too small or NaN.
inline I round_to_int(F y) { return to_int(min(set(kLargestStep), y)); }

// y[i] = what `value(i, n)` gives for i .. i + n - 1, n <= kLanes, as floats before rounding.
template <class Value>
inline void encode_span(int64_t count, const ByteEncoder& encoder, uint8_t* y, const Value& value) {
  int64_t i = 0;
  for (; i + kBytes <= count; i += kBytes) {
    I v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[j] = round_to_int(value(i + j * kLanes, kLanes));
    encoder.store(y + i, v);
  }
  if (i == count) return;
  const int64_t left = count - i;
  I v[4];
  for (int j = 0; j < 4; ++j) {
    const int64_t n = left - j * kLanes;
    v[j] = n > 0 ? round_to_int(value(i + j * kLanes, to_n(n, kLanes))) : set_int(0);
  }
  encoder.store_n(y + i, v, static_cast<int>(left));
}

void quantize_plain(const QuantizePlainArgs& args) noexcept {
  const F inverse = set(args.inverse_scale);
  const float* x = args.x;
  encode_span(args.count, ByteEncoder(args.range), args.q, [x, inverse](int64_t i, int n) {
    return mul(n == kLanes ? load(x + i) : load_n(x + i, n), inverse);
  });
}

// ---- Planes to pixels -----------------------------------------------------------------------------

// Channels c .. c + 3 of n pixels, a byte each in the pixel's lane; what lies beyond `channels` repeats.
struct PlaneReader {
  const QuantizePlanesArgs& args;
  F inverse;
  ByteEncoder encoder;

  I read(int64_t p, int64_t c, int n) const {
    I v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const int64_t channel = c + j < args.channels ? c + j : args.channels - 1;
      const float* x = args.x + channel * args.plane_stride + p;
      v[j] = round_to_int(mul(n == kLanes ? load(x) : load_n(x, n), inverse));
    }
    return encoder.clamp(interleave_u8_four(v, encoder.zero));
  }
};

void quantize_triples(const QuantizePlanesArgs& args) {
  const PlaneReader reader{args, set(args.inverse_scale), ByteEncoder(args.range)};
  const int64_t pixels = args.pixels;
  uint8_t* q = args.q;
  int64_t p = 0;
  // A whole vector is stored for three quarters of it: what it writes too much the next one overwrites.
  for (; p + 2 * kLanes <= pixels; p += kLanes)
    store_u8s(q + 3 * p, squeeze_triples(reader.read(p, 0, kLanes)));
  for (; p < pixels; p += kLanes) {
    const int n = to_n(pixels - p, kLanes);
    store_u8s_n(q + 3 * p, squeeze_triples(reader.read(p, 0, n)), 3 * n);
  }
}

// Sixteen channels of a vector of pixels at a time, incomplete ones through a block on the stack.
void quantize_blocks(const QuantizePlanesArgs& args) {
  const PlaneReader reader{args, set(args.inverse_scale), ByteEncoder(args.range)};
  const int64_t channels = args.channels;
  for (int64_t p = 0; p < args.pixels; p += kLanes) {
    const int n = to_n(args.pixels - p, kLanes);
    for (int64_t c = 0; c < channels; c += kQuad) {
      I v[4];
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) v[g] = c + 4 * g < channels ? reader.read(p, c + 4 * g, n) : set_int(0);
      uint8_t* q = args.q + p * channels + c;
      if (n == kLanes && c + kQuad <= channels) {
        store_quads(q, channels, v);
        continue;
      }
      alignas(64) uint8_t bytes[kLanes * kQuad];
      store_quads(bytes, kQuad, v);
      const auto size = static_cast<size_t>(to_n(channels - c, kQuad));
      for (int l = 0; l < n; ++l) __builtin_memcpy(q + l * channels, bytes + l * kQuad, size);
    }
  }
}

void quantize_planes(const QuantizePlanesArgs& args) noexcept {
  args.channels == 3 ? quantize_triples(args) : quantize_blocks(args);
}

// ---- Dequantization -------------------------------------------------------------------------------

struct Decoder {
  F scale;
  I zero_point;
  F decode(I q) const { return mul(to_float(sub_int(q, zero_point)), scale); }
};

void dequantize_plain(const DequantizePlainArgs& args) noexcept {
  const Decoder decoder{set(args.scale), set_int(args.zero_point)};
  const uint8_t* q = args.q;
  float* x = args.x;
  int64_t i = 0;
  for (; i + kLanes <= args.count; i += kLanes) store(x + i, decoder.decode(load_u8_int(q + i)));
  if (i == args.count) return;
  const int n = static_cast<int>(args.count - i);
  uint8_t bytes[kLanes] = {};
  __builtin_memcpy(bytes, q + i, static_cast<size_t>(n));
  store_n(x + i, decoder.decode(load_u8_int(bytes)), n);
}

template <int kByte>
inline void write_plane(const DequantizePlanesArgs& args, const Decoder& decoder, I v, int64_t c, int64_t p,
                        int n) {
  if (c + kByte >= args.channels) return;
  const F values = decoder.decode(byte_of<kByte>(v));
  float* x = args.x + (c + kByte) * args.plane_stride + p;
  n == kLanes ? store(x, values) : store_n(x, values, n);
}

inline void write_planes(const DequantizePlanesArgs& args, const Decoder& decoder, I v, int64_t c, int64_t p,
                         int n) {
  write_plane<0>(args, decoder, v, c, p, n);
  write_plane<1>(args, decoder, v, c, p, n);
  write_plane<2>(args, decoder, v, c, p, n);
  write_plane<3>(args, decoder, v, c, p, n);
}

void dequantize_triples(const DequantizePlanesArgs& args, const Decoder& decoder) {
  const int64_t pixels = args.pixels;
  int64_t p = 0;
  for (; p + 2 * kLanes <= pixels; p += kLanes)
    write_planes(args, decoder, spread_triples(load_u8s(args.q + 3 * p)), 0, p, kLanes);
  for (; p < pixels; p += kLanes) {
    const int n = to_n(pixels - p, kLanes);
    write_planes(args, decoder, spread_triples(load_u8s_n(args.q + 3 * p, 3 * n)), 0, p, n);
  }
}

void dequantize_blocks(const DequantizePlanesArgs& args, const Decoder& decoder) {
  const int64_t channels = args.channels;
  for (int64_t p = 0; p < args.pixels; p += kLanes) {
    const int n = to_n(args.pixels - p, kLanes);
    for (int64_t c = 0; c < channels; c += kQuad) {
      const uint8_t* q = args.q + p * channels + c;
      I v[4];
      if (n == kLanes && c + kQuad <= channels) {
        load_byte_quads(q, channels, v);
      } else {
        alignas(64) uint8_t bytes[kLanes * kQuad] = {};
        const auto size = static_cast<size_t>(to_n(channels - c, kQuad));
        for (int l = 0; l < n; ++l) __builtin_memcpy(bytes + l * kQuad, q + l * channels, size);
        load_byte_quads(bytes, kQuad, v);
      }
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) write_planes(args, decoder, v[g], c + 4 * g, p, n);
    }
  }
}

void dequantize_planes(const DequantizePlanesArgs& args) noexcept {
  const Decoder decoder{set(args.scale), set_int(args.zero_point)};
  args.channels == 3 ? dequantize_triples(args, decoder) : dequantize_blocks(args, decoder);
}

}  // namespace
}  // namespace intaglio
