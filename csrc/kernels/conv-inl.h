// What stands around the GEMM of a convolution: float images to u8 pixels, pixels to the rows of the
// GEMM, and rows of the result to planes.
#pragma once

#include "quantize-inl.h"

namespace intaglio {
namespace {

constexpr int kQuadChannels = 16;  // what store_quads writes for a pixel

inline I quantize_clamped(F x, F inverse, I zero_point) {
  const I q = add_int(round_scaled<false>(x, inverse), zero_point);
  return min_int(set_int(255), max_int(set_int(0), q));
}

// Four channels, one byte of each lane apiece.
template <bool kWhole>
inline I quantize_four(const QuantizePixelsArgs& args, const float* x, int64_t c, int64_t left, int n) {
  const F inverse = set(args.inverse_scale);
  const I zero_point = set_int(args.zero_point);
  const auto channel = [&](int64_t t) {
    const int64_t source = args.repeat == 1 ? c + t : (args.channel_begin + c + t) / args.repeat;
    const float* from = x + source * args.channel_stride;
    return quantize_clamped(kWhole ? load(from) : load_n(from, n), inverse, zero_point);
  };
  if (left <= 0) return set_int(0);
  I v = channel(0);
  if (left > 1) v = add_int(v, shift_left<8>(channel(1)));
  if (left > 2) v = add_int(v, shift_left<16>(channel(2)));
  if (left > 3) v = add_int(v, shift_left<24>(channel(3)));
  return v;
}

// Up to sixteen channels from c on, of n pixels; whole stores of sixteen bytes where `overrun` allows.
template <bool kWhole>
inline void quantize_block(const QuantizePixelsArgs& args, const float* x, uint8_t* q, int64_t c,
                           int64_t channels, int n, bool overrun) {
  I v[4];
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) v[g] = quantize_four<kWhole>(args, x, c + 4 * g, channels - 4 * g, n);
  if (overrun) {
    store_quads(q + c, args.q_stride, v);
    return;
  }
  uint8_t bytes[kLanes * kQuadChannels];
  store_quads(bytes, kQuadChannels, v);
  for (int l = 0; l < n; ++l)
    if (channels == kQuadChannels)
      std::memcpy(q + l * args.q_stride + c, bytes + l * kQuadChannels, kQuadChannels);
    else
      std::memcpy(q + l * args.q_stride + c, bytes + l * kQuadChannels, static_cast<size_t>(channels));
}

// Channels in planes. An incomplete last sixteen is written first: its stores run over into the pixels
// that follow, which are written after.
void quantize_planar(const QuantizePixelsArgs& args) {
  const float* first = args.repeat == 1 ? args.x + args.channel_begin * args.channel_stride : args.x;
  const int64_t tail = args.channels % kQuadChannels, whole = args.channels - tail;
  const int64_t end = (args.count - 1) * args.q_stride + args.channels;
  for (int64_t p = 0; p < args.count; p += kLanes) {
    const int n = static_cast<int>(args.count - p < kLanes ? args.count - p : kLanes);
    const float* x = first + p;
    uint8_t* q = args.q + p * args.q_stride;
    const int64_t last_pixel = (p + n - 1) * args.q_stride;
    const bool full = n == kLanes;
    if (tail > 0) {
      const bool overrun = full && last_pixel + whole + kQuadChannels <= end;
      full ? quantize_block<true>(args, x, q, whole, tail, n, overrun)
           : quantize_block<false>(args, x, q, whole, tail, n, false);
    }
    for (int64_t c = 0; c < whole; c += kQuadChannels)
      full ? quantize_block<true>(args, x, q, c, kQuadChannels, n, true)
           : quantize_block<false>(args, x, q, c, kQuadChannels, n, false);
  }
}

// Any strides, a vector of channels at a time.
void quantize_strided(const QuantizePixelsArgs& args) {
  for (int64_t p = 0; p < args.count; ++p)
    for (int64_t c = 0; c < args.channels; c += kLanes) {
      const int64_t left = args.channels - c, n = left < kLanes ? left : kLanes;
      float values[kLanes];
      for (int64_t t = 0; t < n; ++t)
        values[t] =
            args.x[p * args.pixel_stride + (args.channel_begin + c + t) / args.repeat * args.channel_stride];
      quantize_span<false>(values, n, args.inverse_scale, args.zero_point, args.q + p * args.q_stride + c);
    }
}

// Channels side by side. Where pixels are not, each is whole vectors and what is left.
void quantize_channels_last(const QuantizePixelsArgs& args) {
  const float* x = args.x + args.channel_begin;
  if (args.q_stride == args.channels && args.pixel_stride == args.channels) {
    quantize_span<false>(x, args.count * args.channels, args.inverse_scale, args.zero_point, args.q);
    return;
  }
  const F inverse = set(args.inverse_scale);
  const I zero = set_int(args.zero_point);
  const int64_t channels = args.channels, whole = channels / kLanes * kLanes;
  const int64_t pixel_stride = args.pixel_stride, q_stride = args.q_stride, count = args.count;
  const int left = static_cast<int>(channels - whole);
  uint8_t* q = args.q;
  for (int64_t p = 0; p < count; ++p, x += pixel_stride, q += q_stride) {
    for (int64_t c = 0; c < whole; c += kLanes)
      store_u8(q + c, add_int(round_scaled<false>(load(x + c), inverse), zero));
    if (left > 0)
      store_u8_n(q + whole, add_int(round_scaled<false>(load_n(x + whole, left), inverse), zero), left);
  }
}

void quantize_pixels(const QuantizePixelsArgs& args) noexcept {
  if (args.count <= 0 || args.channels <= 0) return;
  if (args.inverse_scale == 0.0f) {
    for (int64_t p = 0; p < args.count; ++p)
      __builtin_memset(args.q + p * args.q_stride, 0, static_cast<size_t>(args.channels));
  } else if (args.pixel_stride == 1) {
    quantize_planar(args);
  } else if (args.channel_stride != 1 || args.repeat != 1) {
    quantize_strided(args);
  } else {
    quantize_channels_last(args);
  }
}

void gather_runs(const GatherRunsArgs& args) noexcept {
  constexpr int64_t kStep = kLanes * 4;
  const int64_t run_count = args.run_count, run_bytes = args.run_bytes;
  const int64_t* run = args.run;
  for (int64_t i = 0; i < args.rows; ++i) {
    const uint8_t* from = args.image + args.start[i];
    uint8_t* to = args.a + i * args.a_stride;
    for (int64_t r = 0; r < run_count; ++r, to += run_bytes) {
      const uint8_t* source = from + run[r];
      for (int64_t b = 0; b < run_bytes; b += kStep) {
        I bytes;
        __builtin_memcpy(&bytes, source + b, sizeof bytes);
        __builtin_memcpy(to + b, &bytes, sizeof bytes);
      }
    }
  }
}

void transpose_rows(const TransposeRowsArgs& args) noexcept {
  constexpr int64_t kBlock = 128;  // rows of a block: their lines stay in L1 while the columns pass
  for (int64_t begin = 0; begin < args.rows; begin += kBlock) {
    const int64_t end = args.rows - begin < kBlock ? args.rows : begin + kBlock;
    for (int64_t c = 0; c < args.cols; c += 4) {
      const int64_t columns = args.cols - c < 4 ? args.cols - c : 4;
      for (int64_t r = begin; r < end; r += kLanes) {
        F v[4];
        load_quads(args.x + r * args.x_stride + c, args.x_stride, v);
        float* y = args.y + c * args.y_stride + r;
        const int n = static_cast<int>(end - r < kLanes ? end - r : kLanes);
        if (n == kLanes && columns == 4) {
#pragma GCC unroll 4
          for (int j = 0; j < 4; ++j) store(y + j * args.y_stride, v[j]);
        } else {
          store_n(y, v[0], n);
          if (columns > 1) store_n(y + args.y_stride, v[1], n);
          if (columns > 2) store_n(y + 2 * args.y_stride, v[2], n);
          if (columns > 3) store_n(y + 3 * args.y_stride, v[3], n);
        }
      }
    }
  }
}

}  // namespace
}  // namespace intaglio
