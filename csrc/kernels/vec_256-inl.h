// Vectors of eight lanes: AVX2 + FMA, with the dot products of AVX2 or of AVX-VNNI.
//
// INTAGLIO_VNNI is undefined for AVX2, "vex" for AVX-VNNI, "evex" for the same source with the EVEX
// encodings of AVX-512 VL. See vec_avx512-inl.h for the meaning of every name.
#pragma once

#include <immintrin.h>

#include <cstring>

namespace intaglio {
namespace {

constexpr int kLanes = 8;
constexpr int kBytes = 4 * kLanes;
constexpr bool kHasBytePermutes = false;
constexpr int kRegisters = 16;
using F = __m256;
using I = __m256i;

inline I first(int n) {
  alignas(32) static const int32_t kLadder[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
  return _mm256_loadu_si256(reinterpret_cast<const I*>(kLadder + 8 - n));
}
inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline F load_n(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
inline void store(float* p, F v) { _mm256_storeu_ps(p, v); }
inline void store_n(float* p, F v, int n) { _mm256_maskstore_ps(p, first(n), v); }
inline F set(float v) { return _mm256_set1_ps(v); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F div(F a, F b) { return _mm256_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F minus_abs(F a) { return _mm256_or_ps(a, _mm256_set1_ps(-0.0f)); }
inline F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline I to_int(F a) { return _mm256_cvtps_epi32(a); }
inline I as_int(F a) { return _mm256_castps_si256(a); }
inline F as_float(I a) { return _mm256_castsi256_ps(a); }
inline F to_float(I a) { return _mm256_cvtepi32_ps(a); }
inline F scale_by_power_of_2(F p, I n) {
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(n, 23)));
}
inline F load_half(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline float reduce_min(F a) {
  __m128 v = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  v = _mm_min_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_min_ss(v, _mm_movehdup_ps(v)));
}
inline float reduce_max(F a) {
  __m128 v = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  v = _mm_max_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
}
inline bool any_nan(F a) { return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)) != 0; }
inline F load_n_or(const float* p, int n, F other) {
  return _mm256_blendv_ps(other, load_n(p, n), _mm256_castsi256_ps(first(n)));
}

using Mask = __m256;
inline Mask same_or_nan(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_EQ_UQ); }
inline Mask not_at_most(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_NLE_UQ); }
inline Mask not_at_least(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_NGE_UQ); }
inline Mask unordered(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
inline Mask no_lanes() { return _mm256_setzero_ps(); }
inline Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
inline Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
inline uint32_t to_bits(Mask m) { return static_cast<uint32_t>(_mm256_movemask_ps(m)); }
inline Mask from_bits(uint32_t bits) {
  const I lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const I all = _mm256_set1_epi32(static_cast<int32_t>(bits));
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, lane), lane));
}
inline F keep(Mask m, F v) { return _mm256_and_ps(m, v); }
inline F choose(Mask m, F a, F b) { return _mm256_blendv_ps(b, a, m); }

inline I set_int(int32_t v) { return _mm256_set1_epi32(v); }
inline I load_int(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const I*>(p)); }
inline void store_int(int32_t* p, I v) { _mm256_storeu_si256(reinterpret_cast<I*>(p), v); }
inline I add_int(I a, I b) { return _mm256_add_epi32(a, b); }
inline I sub_int(I a, I b) { return _mm256_sub_epi32(a, b); }
inline I mul_int(I a, I b) { return _mm256_mullo_epi32(a, b); }
inline I and_int(I a, I b) { return _mm256_and_si256(a, b); }
inline I min_int(I a, I b) { return _mm256_min_epi32(a, b); }
inline I max_int(I a, I b) { return _mm256_max_epi32(a, b); }
inline int32_t reduce_max_int(I a) {
  __m128i most = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1)));
}
inline int32_t reduce_add_int(I a) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}
inline void narrow_words(int16_t* p, I v) {
  const __m128i low = _mm256_castsi256_si128(v), high = _mm256_extracti128_si256(v, 1);
  const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_unpacklo_epi64(_mm_shuffle_epi8(low, order), _mm_shuffle_epi8(high, order)));
}
template <int kBits>
inline I shift_left(I v) {
  return _mm256_slli_epi32(v, kBits);
}
template <int kBits>
inline I shift_right(I v) {
  return _mm256_srli_epi32(v, kBits);
}
template <int kBits>
inline I shift_right_signed(I v) {
  return _mm256_srai_epi32(v, kBits);
}
inline I load_u8_int(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline __m128i saturate(I v) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  return _mm_packus_epi16(words, words);
}
inline void store_u8(uint8_t* p, I v) { _mm_storel_epi64(reinterpret_cast<__m128i*>(p), saturate(v)); }
inline void store_u8_n(uint8_t* p, I v, int n) {
  uint8_t bytes[8];
  store_u8(bytes, v);
  std::memcpy(p, bytes, static_cast<size_t>(n));
}
inline I load_u8s(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const I*>(p)); }
inline I load_u8s_n(const uint8_t* p, int n) {
  alignas(32) uint8_t bytes[kBytes] = {};
  std::memcpy(bytes, p, static_cast<size_t>(n));
  return load_u8s(bytes);
}
inline void store_u8s(uint8_t* p, I v) { _mm256_storeu_si256(reinterpret_cast<I*>(p), v); }
inline void store_u8s_n(uint8_t* p, I v, int n) {
  alignas(32) uint8_t bytes[kBytes];
  store_u8s(bytes, v);
  std::memcpy(p, bytes, static_cast<size_t>(n));
}
inline I set_u8s(int32_t v) { return _mm256_set1_epi8(static_cast<char>(v)); }
inline I max_u8s(I a, I b) { return _mm256_max_epu8(a, b); }
inline I min_u8s(I a, I b) { return _mm256_min_epu8(a, b); }
// Lane by 128-bit lane: four bytes of v[0], four of v[1], of v[2], of v[3].
inline I pack_quarters(const I (&v)[4], int32_t zero) {
  const I z = _mm256_set1_epi16(static_cast<int16_t>(zero));
  const I low = _mm256_adds_epi16(_mm256_packs_epi32(v[0], v[1]), z);
  const I high = _mm256_adds_epi16(_mm256_packs_epi32(v[2], v[3]), z);
  return _mm256_packus_epi16(low, high);
}
inline I pack_u8_four(const I (&v)[4], int32_t zero) {
  const I order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return _mm256_permutevar8x32_epi32(pack_quarters(v, zero), order);
}
inline void store_u8_four(uint8_t* p, const I (&v)[4], int32_t zero) { store_u8s(p, pack_u8_four(v, zero)); }
inline I interleave_u8_four(const I (&v)[4], int32_t zero) {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm256_shuffle_epi8(pack_quarters(v, zero), _mm256_broadcastsi128_si256(order));
}
inline I squeeze_triples(I v) {
  const __m128i order = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  const I joined = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7);
  return _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(order)), joined);
}
inline I spread_triples(I v) {
  const __m128i order = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
  const I parted = _mm256_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5);
  return _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(v, parted), _mm256_broadcastsi128_si256(order));
}
// The bytes become mantissas of 2^23 + byte, from which 2^23 + zero is taken: no conversion is needed.
struct StepZeros {
  F even, odd;
};
inline StepZeros step_zeros(int32_t zero) {
  return {set(0x1p23f + static_cast<float>(zero)), set(0x1p23f + 256.0f * static_cast<float>(zero))};
}
inline F mantissas(I bits, I mask) {
  return _mm256_castsi256_ps(_mm256_or_si256(_mm256_and_si256(bits, mask), _mm256_set1_epi32(0x4b000000)));
}
inline void to_steps(I bytes, const StepZeros& zeros, F (&v)[4]) {
  const I even = _mm256_set1_epi32(0xff), odd = _mm256_set1_epi32(0xff00);
  const I upper = _mm256_srli_epi32(bytes, 16);
  v[0] = sub(mantissas(bytes, even), zeros.even);
  v[1] = sub(mantissas(bytes, odd), zeros.odd);
  v[2] = sub(mantissas(upper, even), zeros.even);
  v[3] = sub(mantissas(upper, odd), zeros.odd);
}
inline I dot_words(I a, I b) { return _mm256_madd_epi16(a, b); }
inline I sub_u8s(I a, I b) { return _mm256_sub_epi8(a, b); }
inline int32_t reduce_max_u8s(I v) {
  __m128i most = _mm_max_epu8(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  most = _mm_max_epu8(most, _mm_srli_epi16(most, 8));
  // The smallest 16-bit word of the complement: the low bytes are what counts.
  most = _mm_andnot_si128(most, _mm_set1_epi16(255));
  return 255 - _mm_extract_epi16(_mm_minpos_epu16(most), 0);
}
template <int kByte>
inline I byte_of(I v) {
  return _mm256_and_si256(_mm256_srli_epi32(v, 8 * kByte), _mm256_set1_epi32(255));
}
using Bytes = __m256i;
inline I set_words(int32_t v) { return _mm256_set1_epi16(static_cast<int16_t>(v)); }
inline Bytes set_bytes(int32_t v) { return _mm256_set1_epi8(static_cast<char>(v)); }
inline Bytes clamp_bytes(Bytes v, Bytes lower, Bytes upper) {
  return _mm256_min_epu8(_mm256_max_epu8(v, lower), upper);
}
// Words of two vectors, saturated; kShifts: plus `zero`.
template <bool kShifts>
inline I pack_words(I a, I b, I zero) {
  const I words = _mm256_packs_epi32(a, b);
  return kShifts ? _mm256_adds_epi16(words, zero) : words;
}
template <int NV, bool kShifts = true>
inline Bytes pack_bytes(const I (&v)[NV], I zero) {
  const I order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const I low = pack_words<kShifts>(v[0], v[NV > 1 ? 1 : 0], zero);
  I high = low;
  if constexpr (NV > 2) high = pack_words<kShifts>(v[2], v[NV - 1], zero);
  return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
}
template <int kVector>
inline Bytes bytes_from(Bytes v) {
  __m128i half = _mm256_castsi256_si128(v);
  if constexpr (kVector >= 2) half = _mm256_extracti128_si256(v, 1);
  if constexpr (kVector % 2 == 1) half = _mm_srli_si128(half, 8);
  return kVector == 0 ? v : _mm256_castsi128_si256(half);
}
template <bool kShifts = true>
inline Bytes pack_interleaved(const I (&v)[4], I zero) {
  return _mm256_packus_epi16(pack_words<kShifts>(v[0], v[1], zero), pack_words<kShifts>(v[2], v[3], zero));
}
template <int NV>
inline void store_bytes(uint8_t* p, Bytes v) {
  if constexpr (NV == 4) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  } else if constexpr (NV == 1) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(v));
  } else {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(v));
    if constexpr (NV == 3)
      _mm_storel_epi64(reinterpret_cast<__m128i*>(p + 16), _mm256_extracti128_si256(v, 1));
  }
}
inline void store_bytes_n(uint8_t* p, Bytes v, int n) {
  uint8_t bytes[sizeof v];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), v);
  std::memcpy(p, bytes, static_cast<size_t>(n));
}
inline F load_u8(const uint8_t* p) {
  return to_float(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
// The first n bytes in a register, without a detour through the stack: loops that load tails are hot.
inline __m128i load_bytes(const uint8_t* p, int n) {
  uint64_t bytes = 0;
  for (int i = 0; i < n; ++i) bytes |= static_cast<uint64_t>(p[i]) << 8 * i;
  return _mm_cvtsi64_si128(static_cast<int64_t>(bytes));
}
inline F load_u8_n(const uint8_t* p, int n) { return to_float(_mm256_cvtepu8_epi32(load_bytes(p, n))); }
inline F load_s8(const int8_t* p) {
  return to_float(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline F split_nibbles(__m128i bytes) {
  const __m128i words = _mm_cvtepu8_epi16(bytes);
  const __m128i nibbles = _mm_and_si128(_mm_or_si128(words, _mm_slli_epi16(words, 4)), _mm_set1_epi8(15));
  return to_float(_mm256_cvtepu8_epi32(nibbles));
}
inline F load_u4(const uint8_t* p, int64_t i) {
  int32_t bytes;
  std::memcpy(&bytes, p + (i >> 1), 4);
  return split_nibbles(_mm_cvtsi32_si128(bytes));
}
inline F load_u4_n(const uint8_t* p, int64_t i, int n) {
  return split_nibbles(load_bytes(p + (i >> 1), (n + 1) / 2));
}

// ---- Transposition by fours: each 128-bit lane j holds rows 4j..4j+3 -------------------------------
inline void transpose_fours(F (&v)[4]) {
  const F a = _mm256_unpacklo_ps(v[0], v[1]), b = _mm256_unpackhi_ps(v[0], v[1]);
  const F c = _mm256_unpacklo_ps(v[2], v[3]), d = _mm256_unpackhi_ps(v[2], v[3]);
  v[0] = _mm256_shuffle_ps(a, c, 0x44);
  v[1] = _mm256_shuffle_ps(a, c, 0xEE);
  v[2] = _mm256_shuffle_ps(b, d, 0x44);
  v[3] = _mm256_shuffle_ps(b, d, 0xEE);
}
template <class Address>
inline void load_quads_at(const Address& address, F (&v)[4]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    v[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(address(i))),
                                _mm_loadu_ps(address(4 + i)), 1);
  transpose_fours(v);
}
inline void load_quads(const float* p, int64_t stride, F (&v)[4]) {
  load_quads_at([p, stride](int l) { return p + l * stride; }, v);
}
inline void load_byte_quads(const uint8_t* p, int64_t stride, I (&v)[4]) {
  F t[4];
  load_quads_at([p, stride](int l) { return reinterpret_cast<const float*>(p + l * stride); }, t);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) v[i] = _mm256_castps_si256(t[i]);
}
inline void store_quads(uint8_t* p, int64_t stride, const I (&v)[4]) {
  F t[4] = {_mm256_castsi256_ps(v[0]), _mm256_castsi256_ps(v[1]), _mm256_castsi256_ps(v[2]),
            _mm256_castsi256_ps(v[3])};
  transpose_fours(t);
  const auto put = [p, stride](int l, __m128 bytes) {
    _mm_storeu_ps(reinterpret_cast<float*>(p + l * stride), bytes);
  };
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) put(i, _mm256_castps256_ps128(t[i]));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) put(4 + i, _mm256_extractf128_ps(t[i], 1));
}

// ---- Tables of 256 bytes --------------------------------------------------------------------------
inline I saturating_sub_s8(I a, I b) { return _mm256_subs_epi8(a, b); }
inline I xor_bits(I a, I b) { return _mm256_xor_si256(a, b); }
inline I shuffle_u8s(I table, I index) { return _mm256_shuffle_epi8(table, index); }
inline I repeat_16(const uint8_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline I load_u8_words(const uint8_t* p) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline I add_words(I a, I b) { return _mm256_add_epi16(a, b); }
inline I sub_words(I a, I b) { return _mm256_sub_epi16(a, b); }
template <int kBits>
inline I shift_words_left(I v) {
  return _mm256_slli_epi16(v, kBits);
}
constexpr int kWinogradTiles = 6;

constexpr int kMaxVectors = 4;
inline void pin(I& acc) { __asm__ volatile("" : "+x"(acc)); }
inline void pin_float(F& v) { __asm__ volatile("" : "+x"(v)); }

// ---- float32 products ----------------------------------------------------------------------------
constexpr int kFloatTileRows[kMaxVectors + 1] = {0, 8, 6, 4, 2};
constexpr int kFloatPanelVectors = 2;
inline float sum_chains(const F (&v)[2]) {
  const F half = add(v[0], v[1]);
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

#ifdef INTAGLIO_VNNI
// ---- int8 dot products: four k's at a time --------------------------------------------------------
constexpr Isa kIsa = INTAGLIO_VNNI_ISA;
using Act = uint8_t;
constexpr int kGroup = 4;
constexpr int kTileRows[kMaxVectors + 1] = {0, 8, 6, 4, 2};

inline I broadcast(const Act* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}
inline I load_weights(const int8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const I*>(p)); }
// Four k's of a vector of columns, where pack_gemm would put them.
inline void store_weights(int8_t* p, int64_t, I four) { _mm256_storeu_si256(reinterpret_cast<I*>(p), four); }
inline I dot(I acc, I a, I w) {
  __asm__("%{" INTAGLIO_VNNI "%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(a), "x"(w));
  return acc;
}
inline I dot_words(I acc, I a, I w) {
  __asm__("%{" INTAGLIO_VNNI "%} vpdpwssd %2, %1, %0" : "+x"(acc) : "x"(a), "x"(w));
  return acc;
}
inline void widen(Act* to, const uint8_t* from, int64_t n) { std::memcpy(to, from, static_cast<size_t>(n)); }
inline void interleave_taps(const uint8_t* p, int64_t tap_bytes, I (&t)[4]) {
  const auto tap = [p, tap_bytes](int i) {
    return _mm256_loadu_si256(reinterpret_cast<const I*>(p + i * tap_bytes));
  };
  const I a = tap(0), b = tap(1), c = tap(2), d = tap(3);
  const I ab = _mm256_unpacklo_epi8(a, b), cd = _mm256_unpacklo_epi8(c, d);
  const I ab_high = _mm256_unpackhi_epi8(a, b), cd_high = _mm256_unpackhi_epi8(c, d);
  t[0] = _mm256_unpacklo_epi16(ab, cd);
  t[1] = _mm256_unpackhi_epi16(ab, cd);
  t[2] = _mm256_unpacklo_epi16(ab_high, cd_high);
  t[3] = _mm256_unpackhi_epi16(ab_high, cd_high);
}
// 4 x 24 and 6 x 16 fill the sixteen registers; wider tiles spill.
inline int choose_panel_vectors(int64_t n) { return n % 24 == 0 ? 3 : 2; }
#else
// ---- int8 dot products: two k's at a time, widened to 16 bits ---------------------------------------
// vpmaddubsw would be twice as fast but saturates its 16-bit sums; vpmaddwd is exact.
constexpr Isa kIsa = Isa::kAvx2;
using Act = int16_t;
constexpr int kGroup = 2;
constexpr int kTileRows[kMaxVectors + 1] = {0, 8, 6, 3, 2};

inline I broadcast(const Act* p) {
  int32_t two;
  std::memcpy(&two, p, 4);
  return _mm256_set1_epi32(two);
}
inline I load_weights(const int8_t* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// Four k's of a vector of columns, where pack_gemm would put them: two of each column, then two more.
inline void store_weights(int8_t* p, int64_t stride, I four) {
  const __m128i pairs = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  const I parted =
      _mm256_permute4x64_epi64(_mm256_shuffle_epi8(four, _mm256_broadcastsi128_si256(pairs)), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(parted));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + stride), _mm256_extracti128_si256(parted, 1));
}
inline I dot(I acc, I a, I w) {
  I product;
  __asm__("vpmaddwd %2, %1, %0" : "=x"(product) : "x"(a), "x"(w));
  __asm__("vpaddd %1, %0, %0" : "+x"(acc) : "x"(product));
  return acc;
}
inline I dot_words(I acc, I a, I w) { return dot(acc, a, w); }
inline int choose_panel_vectors(int64_t) { return 2; }
inline void interleave_taps(const uint8_t* p, int64_t tap_bytes, I (&t)[4]) {
  const I a = _mm256_loadu_si256(reinterpret_cast<const I*>(p)), none = _mm256_setzero_si256();
  const I b = _mm256_loadu_si256(reinterpret_cast<const I*>(p + tap_bytes));
  const I low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
  t[0] = _mm256_unpacklo_epi8(low, none);
  t[1] = _mm256_unpackhi_epi8(low, none);
  t[2] = _mm256_unpacklo_epi8(high, none);
  t[3] = _mm256_unpackhi_epi8(high, none);
}
inline void widen(Act* to, const uint8_t* from, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    _mm256_storeu_si256(reinterpret_cast<I*>(to + i),
                        _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  for (; i < n; ++i) to[i] = from[i];
}
#endif

}  // namespace
}  // namespace intaglio

#include "byte_table-inl.h"
