// Vectors of one lane: the portable instruction set, and the plainest statement of what each
// operation must compute. See vec_avx512-inl.h for the meaning of every name.
#pragma once

#include <cmath>
#include <cstring>

namespace intaglio {
namespace {

constexpr Isa kIsa = Isa::kScalar;
constexpr int kLanes = 1;
constexpr int kBytes = 4 * kLanes;
constexpr bool kHasBytePermutes = false;
constexpr int kRegisters = 16;
using F = float;
using I = int32_t;

inline F load(const float* p) { return *p; }
inline F load_n(const float* p, int n) { return n > 0 ? *p : 0.0f; }
inline void store(float* p, F v) { *p = v; }
inline void store_n(float* p, F v, int n) {
  if (n > 0) *p = v;
}
inline F set(float v) { return v; }
inline F add(F a, F b) { return a + b; }
inline F sub(F a, F b) { return a - b; }
inline F mul(F a, F b) { return a * b; }
inline F div(F a, F b) { return a / b; }
inline F fma(F a, F b, F c) { return std::fma(a, b, c); }
inline F min(F a, F b) { return a < b ? a : b; }
inline F max(F a, F b) { return a > b ? a : b; }
inline F minus_abs(F a) { return -__builtin_fabsf(a); }
inline F round(F a) { return std::nearbyint(a); }
// Out of range and NaN give the smallest integer, as the x86 conversions do.
inline I to_int(F a) { return a >= -0x1p31f && a < 0x1p31f ? static_cast<I>(std::nearbyint(a)) : INT32_MIN; }
inline F to_float(I a) { return static_cast<F>(a); }
inline I as_int(F a) {
  I bits;
  std::memcpy(&bits, &a, 4);
  return bits;
}
inline F as_float(I a) {
  F value;
  std::memcpy(&value, &a, 4);
  return value;
}
inline F scale_by_power_of_2(F p, I n) {
  uint32_t bits;
  std::memcpy(&bits, &p, 4);
  bits += static_cast<uint32_t>(n) << 23;
  std::memcpy(&p, &bits, 4);
  return p;
}
inline F load_half(const uint16_t* p) {
  const uint32_t sign = static_cast<uint32_t>(*p & 0x8000u) << 16, magnitude = *p & 0x7fffu;
  uint32_t bits;
  if (magnitude < 0x0400u) {  // zero and the subnormals
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    std::memcpy(&bits, &value, 4);
  } else {
    bits = (magnitude << 13) + ((magnitude < 0x7c00u ? 112u : 224u) << 23);  // or infinity and NaN
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline float reduce_min(F a) { return a; }
inline float reduce_max(F a) { return a; }
inline bool any_nan(F a) { return a != a; }
inline F load_n_or(const float* p, int n, F other) { return n > 0 ? *p : other; }

using Mask = bool;
inline Mask same_or_nan(F a, F b) { return !(a < b || a > b); }
inline Mask not_at_most(F a, F b) { return !(a <= b); }
inline Mask not_at_least(F a, F b) { return !(a >= b); }
inline Mask unordered(F a, F b) { return a != a || b != b; }
inline Mask no_lanes() { return false; }
inline Mask both(Mask a, Mask b) { return a && b; }
inline Mask either(Mask a, Mask b) { return a || b; }
inline uint32_t to_bits(Mask m) { return m ? 1 : 0; }
inline Mask from_bits(uint32_t bits) { return (bits & 1) != 0; }
inline F keep(Mask m, F v) { return m ? v : 0.0f; }
inline F choose(Mask m, F a, F b) { return m ? a : b; }

inline I set_int(int32_t v) { return v; }
inline I load_int(const int32_t* p) { return *p; }
inline void store_int(int32_t* p, I v) { *p = v; }
inline I add_int(I a, I b) { return static_cast<I>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b)); }
inline I sub_int(I a, I b) { return static_cast<I>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b)); }
inline I mul_int(I a, I b) { return static_cast<I>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b)); }
inline I and_int(I a, I b) { return a & b; }
inline I xor_bits(I a, I b) { return a ^ b; }
inline I min_int(I a, I b) { return a < b ? a : b; }
inline I max_int(I a, I b) { return a > b ? a : b; }
inline int32_t reduce_max_int(I a) { return a; }
inline int32_t reduce_add_int(I a) { return a; }
inline void narrow_words(int16_t* p, I v) { *p = static_cast<int16_t>(v & 0xffff); }
template <int kBits>
inline I shift_left(I v) {
  return static_cast<I>(static_cast<uint32_t>(v) << kBits);
}
template <int kBits>
inline I shift_right(I v) {
  return static_cast<I>(static_cast<uint32_t>(v) >> kBits);
}
template <int kBits>
inline I shift_right_signed(I v) {
  return v >> kBits;
}
inline I load_u8_int(const uint8_t* p) { return *p; }
inline void load_quads(const float* p, int64_t, F (&v)[4]) { std::memcpy(v, p, sizeof v); }
inline void load_byte_quads(const uint8_t* p, int64_t, I (&v)[4]) { std::memcpy(v, p, sizeof v); }
inline void store_quads(uint8_t* p, int64_t, const I (&v)[4]) { std::memcpy(p, v, sizeof v); }
inline uint8_t saturate(I v) { return static_cast<uint8_t>(v < 0 ? 0 : v > 255 ? 255 : v); }
inline void store_u8(uint8_t* p, I v) { *p = saturate(v); }
inline I load_u8s(const uint8_t* p) {
  I v;
  std::memcpy(&v, p, 4);
  return v;
}
inline I load_u8s_n(const uint8_t* p, int n) {
  I v = 0;
  std::memcpy(&v, p, static_cast<size_t>(n));
  return v;
}
inline void store_u8s(uint8_t* p, I v) { std::memcpy(p, &v, 4); }
inline void store_u8s_n(uint8_t* p, I v, int n) { std::memcpy(p, &v, static_cast<size_t>(n)); }
template <class Op>
inline I for_each_byte(const Op& op) {
  uint8_t bytes[4];
  for (int i = 0; i < 4; ++i) bytes[i] = static_cast<uint8_t>(op(i));
  return load_u8s(bytes);
}
inline int32_t byte_at(I v, int i) { return static_cast<int32_t>(static_cast<uint32_t>(v) >> 8 * i & 255); }
inline I set_u8s(int32_t v) {
  return for_each_byte([v](int) { return v; });
}
inline I max_u8s(I a, I b) {
  return for_each_byte([a, b](int i) { return max_int(byte_at(a, i), byte_at(b, i)); });
}
inline I min_u8s(I a, I b) {
  return for_each_byte([a, b](int i) { return min_int(byte_at(a, i), byte_at(b, i)); });
}
inline I pack_u8_four(const I (&v)[4], int32_t zero) {
  return for_each_byte([&v, zero](int i) { return saturate(add_int(v[i], zero)); });
}
inline void store_u8_four(uint8_t* p, const I (&v)[4], int32_t zero) { store_u8s(p, pack_u8_four(v, zero)); }
inline I interleave_u8_four(const I (&v)[4], int32_t zero) { return pack_u8_four(v, zero); }
inline I squeeze_triples(I v) { return v; }
inline I spread_triples(I v) { return v & 0xffffff; }
using StepZeros = int32_t;
inline StepZeros step_zeros(int32_t zero) { return zero; }
inline void to_steps(I bytes, StepZeros zero, F (&v)[4]) {
  for (int i = 0; i < 4; ++i) v[i] = static_cast<F>((byte_at(bytes, i) - zero) * (i % 2 == 0 ? 1 : 256));
}
inline I dot_words(I a, I b) {
  const auto word = [](I v, int i) {
    return static_cast<int32_t>(static_cast<int16_t>(static_cast<uint32_t>(v) >> 16 * i));
  };
  return word(a, 0) * word(b, 0) + word(a, 1) * word(b, 1);
}
inline I sub_u8s(I a, I b) {
  return for_each_byte([a, b](int i) { return byte_at(a, i) - byte_at(b, i); });
}
inline int32_t reduce_max_u8s(I v) {
  return max_int(max_int(byte_at(v, 0), byte_at(v, 1)), max_int(byte_at(v, 2), byte_at(v, 3)));
}
template <int kByte>
inline I byte_of(I v) {
  return byte_at(v, kByte);
}
inline void store_u8_n(uint8_t* p, I v, int n) {
  if (n > 0) *p = saturate(v);
}
struct Bytes {
  uint8_t at[4];
};
inline I set_words(int32_t v) { return v; }
inline Bytes set_bytes(int32_t v) {
  const auto b = static_cast<uint8_t>(v);
  return {{b, b, b, b}};
}
inline Bytes clamp_bytes(Bytes v, Bytes lower, Bytes upper) {
  for (int i = 0; i < 4; ++i) {
    const uint8_t b = v.at[i] > lower.at[i] ? v.at[i] : lower.at[i];
    v.at[i] = b < upper.at[i] ? b : upper.at[i];
  }
  return v;
}
template <int NV, bool kShifts = true>
inline Bytes pack_bytes(const I (&v)[NV], I zero) {
  Bytes bytes{};
  for (int j = 0; j < NV; ++j) bytes.at[j] = saturate((v[j] < 0x10000 ? v[j] : 0x10000) + zero);
  return bytes;
}
template <int kVector>
inline Bytes bytes_from(Bytes v) {
  for (int i = 0; i + kVector < 4; ++i) v.at[i] = v.at[i + kVector];
  return v;
}
template <bool kShifts = true>
inline Bytes pack_interleaved(const I (&v)[4], I zero) {
  return pack_bytes<4, kShifts>(v, zero);
}
template <int NV>
inline void store_bytes(uint8_t* p, Bytes v) {
  std::memcpy(p, v.at, NV);
}
inline void store_bytes_n(uint8_t* p, Bytes v, int n) { std::memcpy(p, v.at, static_cast<size_t>(n)); }
inline F load_u8(const uint8_t* p) { return static_cast<F>(*p); }
inline F load_u8_n(const uint8_t* p, int n) { return n > 0 ? static_cast<F>(*p) : 0.0f; }
inline F load_s8(const int8_t* p) { return static_cast<F>(*p); }
inline F load_u4(const uint8_t* p, int64_t i) { return static_cast<F>(p[i / 2] >> 4 * (i % 2) & 15); }
inline F load_u4_n(const uint8_t* p, int64_t i, int n) { return n > 0 ? load_u4(p, i) : 0.0f; }

template <bool>
class ByteTable {
 public:
  explicit ByteTable(const uint8_t* table) : bytes_(table) {}
  I look_up(I x) const {
    return for_each_byte([this, x](int i) { return bytes_[byte_at(x, i)]; });
  }

 private:
  const uint8_t* bytes_;
};

// ---- int8 dot products: one k at a time ---------------------------------------------------------
using Act = uint8_t;
constexpr int kGroup = 1;
constexpr int kMaxVectors = 4;
constexpr int kTileRows[kMaxVectors + 1] = {0, 4, 4, 4, 4};

inline I broadcast(const Act* p) { return *p; }
inline I load_weights(const int8_t* p) { return *p; }
// Four k's of a vector of columns, where pack_gemm would put them.
inline void store_weights(int8_t* p, int64_t stride, I four) {
  for (int i = 0; i < 4; ++i) p[i * stride] = static_cast<int8_t>(byte_at(four, i));
}
inline I dot(I acc, I a, I w) { return add_int(acc, a * w); }
// Two words in an int32, the first one low.
inline I join_words(int32_t low, int32_t high) {
  return static_cast<I>((static_cast<uint32_t>(high) << 16) | (static_cast<uint32_t>(low) & 0xffffu));
}
inline int32_t low_word(I v) { return static_cast<int16_t>(v & 0xffff); }
inline int32_t high_word(I v) { return v >> 16; }
inline I load_u8_words(const uint8_t* p) { return join_words(p[0], p[1]); }
inline I add_words(I a, I b) { return join_words(low_word(a) + low_word(b), high_word(a) + high_word(b)); }
inline I sub_words(I a, I b) { return join_words(low_word(a) - low_word(b), high_word(a) - high_word(b)); }
template <int kBits>
inline I shift_words_left(I v) {
  return join_words(low_word(v) * (1 << kBits), high_word(v) * (1 << kBits));
}
inline I dot_words(I acc, I a, I w) {
  return add_int(add_int(acc, low_word(a) * low_word(w)), high_word(a) * high_word(w));
}
constexpr int kWinogradTiles = 4;
inline void pin(I& acc) { __asm__ volatile("" : "+r"(acc)); }
inline void pin_float(F& v) { __asm__ volatile("" : "+m"(v)); }
inline void interleave_taps(const uint8_t* p, int64_t, I (&t)[4]) {
  for (int q = 0; q < 4; ++q) t[q] = p[q];
}
inline void widen(Act* to, const uint8_t* from, int64_t n) { std::memcpy(to, from, static_cast<size_t>(n)); }

inline int choose_panel_vectors(int64_t) { return 4; }

// ---- float32 products ----------------------------------------------------------------------------
constexpr int kFloatTileRows[kMaxVectors + 1] = {0, 4, 4, 4, 4};
constexpr int kFloatPanelVectors = 4;
inline float sum_chains(const F (&v)[16]) {
  float sum[16];
  std::memcpy(sum, v, sizeof sum);
  for (int step = 8; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) sum[i] += sum[i + step];
  return sum[0];
}

}  // namespace
}  // namespace intaglio
