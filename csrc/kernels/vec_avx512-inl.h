// Vectors of sixteen lanes: AVX-512 F/BW/DQ/VL and VNNI.
//
// The names that kernels are written in; every vec_*-inl.h defines the same ones:
//   F, I                    kLanes floats, kLanes int32
//   load_n, store_n         the first n lanes (0 <= n <= kLanes); the others read as zero
//   min, max                the SECOND operand where either is NaN, so max(bound, x) keeps a NaN of x
//   load_n_or               as load_n, where the other lanes are those of `other`
//   Mask                    a truth for each lane: same_or_nan is a == b or NaN, not_at_most !(a <= b),
//                           not_at_least !(a >= b), unordered: either is NaN; lane l is bit l of to_bits,
//                           and keep(m, v) is v where m, else 0
//   load_half               kLanes IEEE halves, widened exactly
//   minus_abs               -|a|: the sign set
//   round, to_int           to nearest, ties to even; to_int makes INT32_MIN of a NaN
//   as_int, as_float        the same bits
//   scale_by_power_of_2     p * 2^n by adding to the exponent: p and the result must be normal
//   store_u8                saturated to 0..255
//   store_u8_four           4 * kLanes bytes: saturated v[j] + zero, zero in -32768..32767
//   Bytes, pack_bytes       the bytes of up to four vectors, lane after lane: saturated v[j] + zero, a zero
//                           of set_words; bytes_from begins with the bytes of a later vector; store_bytes
//                           writes the bytes of so many vectors, store_bytes_n the first n
//   widen                   n bytes as Act
//   interleave_taps         t[0..3]: kGroup neighbouring taps of 4 * kLanes channels, one in each 32 bits;
//                           t[q] holds the channels 4 * q .. 4 * q + 3 of every sixteen, an order which
//                           pack_interleaved undoes
//   add_int, mul_int ...    modulo 2^32; min_int, max_int are signed, shifts are logical
//   load_u8_int             kLanes bytes, zero-extended
//   load_u4                 nibbles i, i + 1, ... of p, the first of each byte its low one; i is a
//                           multiple of kLanes, and load_u4_n reads no byte beyond the n it is asked for
//   load_quads              v[c] lane l = p[l * stride + c]: four columns of kLanes rows
//   store_quads             its inverse for bytes: lane l of v[0..3], 16 bytes, to p + l * stride, l
//                           ascending; load_byte_quads reads what it stored
//   load_u8s, max_u8s ...   whole vectors of 4 * kLanes bytes (kBytes); the others of load_u8s_n read as zero
//   pack_u8_four            what store_u8_four stores
//   interleave_u8_four      lane l = bytes of lane l of v[0..3], saturated v[j] + zero
//   squeeze_triples         the low three bytes of every lane side by side, at the vector's beginning
//   spread_triples          its inverse; the fourth byte of a lane is zero
//   ByteTable               y = table[x] for whole vectors of bytes; `kPermutes` where the CPU has vpermi2b
//   dot_words               products of signed 16-bit halves, two and two added
//   to_steps                v[j] = float(byte j of each lane - zero), times 256 where j is odd; `zeros` are
//                           those of step_zeros(zero)
//   byte_of                 byte kByte of each lane, zero-extended
//   broadcast, load_weights, dot, kGroup   acc[j] += sum over kGroup k's of a[k] * w[j][k], exact
//   pin                     keeps an accumulator in its register: without it GCC 12 spills the K
//                           loop's accumulators as soon as the epilogue is heavy
//   sum_chains              the sum of sixteen values: i and i + 8 first, then i and i + 4, 2, 1
//   words                   2 * kLanes int16 in an I, modulo 2^16; dot_words: acc[j] += two products of
//   words;
//                           narrow_words: the low halves of the lanes, side by side
#pragma once

#include <immintrin.h>

#include <cstring>

namespace intaglio {
namespace {

constexpr Isa kIsa = Isa::kAvx512Vnni;
constexpr int kLanes = 16;
constexpr int kBytes = 4 * kLanes;
constexpr bool kHasBytePermutes = true;
constexpr int kRegisters = 32;
using F = __m512;
using I = __m512i;

inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline F load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
inline void store_n(float* p, F v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
inline F set(float v) { return _mm512_set1_ps(v); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F minus_abs(F a) { return _mm512_or_ps(a, _mm512_set1_ps(-0.0f)); }
inline F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline I to_int(F a) { return _mm512_cvtps_epi32(a); }
inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }
inline I as_int(F a) { return _mm512_castps_si512(a); }
inline F as_float(I a) { return _mm512_castsi512_ps(a); }
inline F scale_by_power_of_2(F p, I n) {
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(n, 23)));
}
inline F load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline float reduce_min(F a) { return _mm512_reduce_min_ps(a); }
inline float reduce_max(F a) { return _mm512_reduce_max_ps(a); }
inline bool any_nan(F a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0; }
inline F load_n_or(const float* p, int n, F other) { return _mm512_mask_loadu_ps(other, first(n), p); }

using Mask = __mmask16;
inline Mask same_or_nan(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_UQ); }
inline Mask not_at_most(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ); }
inline Mask not_at_least(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_NGE_UQ); }
inline Mask unordered(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
inline Mask no_lanes() { return 0; }
inline Mask both(Mask a, Mask b) { return _kand_mask16(a, b); }
inline Mask either(Mask a, Mask b) { return _kor_mask16(a, b); }
inline uint32_t to_bits(Mask m) { return m; }
inline Mask from_bits(uint32_t bits) { return static_cast<Mask>(bits); }
inline F keep(Mask m, F v) { return _mm512_maskz_mov_ps(m, v); }
inline F choose(Mask m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }

inline I set_int(int32_t v) { return _mm512_set1_epi32(v); }
inline I load_int(const int32_t* p) { return _mm512_loadu_si512(p); }
inline void store_int(int32_t* p, I v) { _mm512_storeu_si512(p, v); }
inline I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
inline I sub_int(I a, I b) { return _mm512_sub_epi32(a, b); }
inline I mul_int(I a, I b) { return _mm512_mullo_epi32(a, b); }
inline I and_int(I a, I b) { return _mm512_and_si512(a, b); }
inline I min_int(I a, I b) { return _mm512_min_epi32(a, b); }
inline I max_int(I a, I b) { return _mm512_max_epi32(a, b); }
inline int32_t reduce_max_int(I a) { return _mm512_reduce_max_epi32(a); }
inline int32_t reduce_add_int(I a) { return _mm512_reduce_add_epi32(a); }
inline void narrow_words(int16_t* p, I v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v));
}
template <int kBits>
inline I shift_left(I v) {
  return _mm512_slli_epi32(v, kBits);
}
template <int kBits>
inline I shift_right(I v) {
  return _mm512_srli_epi32(v, kBits);
}
template <int kBits>
inline I shift_right_signed(I v) {
  return _mm512_srai_epi32(v, kBits);
}
inline I load_u8_int(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline __m128i saturate(I v) { return _mm512_cvtusepi32_epi8(_mm512_max_epi32(v, _mm512_setzero_si512())); }
inline void store_u8(uint8_t* p, I v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), saturate(v)); }
inline void store_u8_n(uint8_t* p, I v, int n) { _mm_mask_storeu_epi8(p, first(n), saturate(v)); }
inline I load_u8s(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline I load_u8s_n(const uint8_t* p, int n) {
  return _mm512_maskz_loadu_epi8(n < 64 ? (uint64_t{1} << n) - 1 : ~uint64_t{0}, p);
}
inline void store_u8s(uint8_t* p, I v) { _mm512_storeu_si512(p, v); }
inline void store_u8s_n(uint8_t* p, I v, int n) {
  _mm512_mask_storeu_epi8(p, n < 64 ? (uint64_t{1} << n) - 1 : ~uint64_t{0}, v);
}
inline I set_u8s(int32_t v) { return _mm512_set1_epi8(static_cast<char>(v)); }
inline I max_u8s(I a, I b) { return _mm512_max_epu8(a, b); }
inline I min_u8s(I a, I b) { return _mm512_min_epu8(a, b); }
// Lane by 128-bit lane: four bytes of v[0], four of v[1], of v[2], of v[3].
inline I pack_quarters(const I (&v)[4], int32_t zero) {
  const I z = _mm512_set1_epi16(static_cast<int16_t>(zero));
  const I low = _mm512_adds_epi16(_mm512_packs_epi32(v[0], v[1]), z);
  const I high = _mm512_adds_epi16(_mm512_packs_epi32(v[2], v[3]), z);
  return _mm512_packus_epi16(low, high);
}
inline I pack_u8_four(const I (&v)[4], int32_t zero) {
  const I order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, pack_quarters(v, zero));
}
inline void store_u8_four(uint8_t* p, const I (&v)[4], int32_t zero) { store_u8s(p, pack_u8_four(v, zero)); }
inline I interleave_u8_four(const I (&v)[4], int32_t zero) {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_shuffle_epi8(pack_quarters(v, zero), _mm512_broadcast_i32x4(order));
}
inline I squeeze_triples(I v) {
  const __m128i order = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  const I joined = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(joined, _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(order)));
}
inline I spread_triples(I v) {
  const __m128i order = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
  const I parted = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
  return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(parted, v), _mm512_broadcast_i32x4(order));
}
// The bytes become mantissas of 2^23 + byte, from which 2^23 + zero is taken: no conversion is needed.
struct StepZeros {
  F even, odd;
};
inline StepZeros step_zeros(int32_t zero) {
  return {set(0x1p23f + static_cast<float>(zero)), set(0x1p23f + 256.0f * static_cast<float>(zero))};
}
inline void to_steps(I bytes, const StepZeros& zeros, F (&v)[4]) {
  const I exponent = _mm512_set1_epi32(0x4b000000), even = _mm512_set1_epi32(0xff),
          odd = _mm512_set1_epi32(0xff00);
  const I upper = _mm512_srli_epi32(bytes, 16);
  constexpr int kAndOr = 0xea;  // (a & b) | c
  v[0] = sub(_mm512_castsi512_ps(_mm512_ternarylogic_epi32(bytes, even, exponent, kAndOr)), zeros.even);
  v[1] = sub(_mm512_castsi512_ps(_mm512_ternarylogic_epi32(bytes, odd, exponent, kAndOr)), zeros.odd);
  v[2] = sub(_mm512_castsi512_ps(_mm512_ternarylogic_epi32(upper, even, exponent, kAndOr)), zeros.even);
  v[3] = sub(_mm512_castsi512_ps(_mm512_ternarylogic_epi32(upper, odd, exponent, kAndOr)), zeros.odd);
}
inline I dot_words(I a, I b) { return _mm512_madd_epi16(a, b); }
inline I sub_u8s(I a, I b) { return _mm512_sub_epi8(a, b); }
inline int32_t reduce_max_u8s(I v) {
  const __m256i half = _mm256_max_epu8(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
  __m128i most = _mm_max_epu8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  most = _mm_max_epu8(most, _mm_srli_epi16(most, 8));
  // The smallest 16-bit word of the complement: the low bytes are what counts.
  most = _mm_andnot_si128(most, _mm_set1_epi16(255));
  return 255 - _mm_extract_epi16(_mm_minpos_epu16(most), 0);
}
template <int kByte>
inline I byte_of(I v) {
  return _mm512_and_si512(_mm512_srli_epi32(v, 8 * kByte), _mm512_set1_epi32(255));
}
using Bytes = __m512i;
inline I set_words(int32_t v) { return _mm512_set1_epi16(static_cast<int16_t>(v)); }
inline Bytes set_bytes(int32_t v) { return _mm512_set1_epi8(static_cast<char>(v)); }
inline Bytes clamp_bytes(Bytes v, Bytes lower, Bytes upper) {
  return _mm512_min_epu8(_mm512_max_epu8(v, lower), upper);
}
// Words of two vectors, saturated; kShifts: plus `zero`.
template <bool kShifts>
inline I pack_words(I a, I b, I zero) {
  const I words = _mm512_packs_epi32(a, b);
  return kShifts ? _mm512_adds_epi16(words, zero) : words;
}
template <int NV, bool kShifts = true>
inline Bytes pack_bytes(const I (&v)[NV], I zero) {
  const I order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const I low = pack_words<kShifts>(v[0], v[NV > 1 ? 1 : 0], zero);
  I high = low;
  if constexpr (NV > 2) high = pack_words<kShifts>(v[2], v[NV - 1], zero);
  return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
}
template <int kVector>
inline Bytes bytes_from(Bytes v) {
  if constexpr (kVector == 0) return v;
  if constexpr (kVector == 2) return _mm512_castsi256_si512(_mm512_extracti64x4_epi64(v, 1));
  return _mm512_castsi128_si512(_mm512_extracti32x4_epi32(v, kVector));
}
template <bool kShifts = true>
inline Bytes pack_interleaved(const I (&v)[4], I zero) {
  return _mm512_packus_epi16(pack_words<kShifts>(v[0], v[1], zero), pack_words<kShifts>(v[2], v[3], zero));
}
template <int NV>
inline void store_bytes(uint8_t* p, Bytes v) {
  if constexpr (NV == 4) {
    _mm512_storeu_si512(p, v);
  } else if constexpr (NV == 1) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_castsi512_si128(v));
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(v));
    if constexpr (NV == 3)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 32), _mm512_extracti32x4_epi32(v, 2));
  }
}
inline void store_bytes_n(uint8_t* p, Bytes v, int n) {
  _mm512_mask_storeu_epi8(p, n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1, v);
}
inline F load_u8(const uint8_t* p) {
  return to_float(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline F load_u8_n(const uint8_t* p, int n) {
  return to_float(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(n), p)));
}
inline F load_s8(const int8_t* p) {
  return to_float(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline F split_nibbles(__m128i bytes) {
  const __m128i words = _mm_cvtepu8_epi16(bytes);
  const __m128i nibbles = _mm_and_si128(_mm_or_si128(words, _mm_slli_epi16(words, 4)), _mm_set1_epi8(15));
  return to_float(_mm512_cvtepu8_epi32(nibbles));
}
inline F load_u4(const uint8_t* p, int64_t i) {
  return split_nibbles(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + (i >> 1))));
}
inline F load_u4_n(const uint8_t* p, int64_t i, int n) {
  return split_nibbles(_mm_maskz_loadu_epi8(first((n + 1) / 2), p + (i >> 1)));
}

// ---- Transposition by fours: each 128-bit lane j holds rows 4j..4j+3 -------------------------------
inline void transpose_fours(F (&v)[4]) {
  const F a = _mm512_unpacklo_ps(v[0], v[1]), b = _mm512_unpackhi_ps(v[0], v[1]);
  const F c = _mm512_unpacklo_ps(v[2], v[3]), d = _mm512_unpackhi_ps(v[2], v[3]);
  v[0] = _mm512_shuffle_ps(a, c, 0x44);
  v[1] = _mm512_shuffle_ps(a, c, 0xEE);
  v[2] = _mm512_shuffle_ps(b, d, 0x44);
  v[3] = _mm512_shuffle_ps(b, d, 0xEE);
}
template <class Address>
inline void load_quads_at(const Address& address, F (&v)[4]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm512_castps128_ps512(_mm_loadu_ps(address(i)));
    v[i] = _mm512_insertf32x4(v[i], _mm_loadu_ps(address(4 + i)), 1);
    v[i] = _mm512_insertf32x4(v[i], _mm_loadu_ps(address(8 + i)), 2);
    v[i] = _mm512_insertf32x4(v[i], _mm_loadu_ps(address(12 + i)), 3);
  }
  transpose_fours(v);
}
inline void load_quads(const float* p, int64_t stride, F (&v)[4]) {
  load_quads_at([p, stride](int l) { return p + l * stride; }, v);
}
inline void load_byte_quads(const uint8_t* p, int64_t stride, I (&v)[4]) {
  F t[4];
  load_quads_at([p, stride](int l) { return reinterpret_cast<const float*>(p + l * stride); }, t);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) v[i] = _mm512_castps_si512(t[i]);
}
inline void store_quads(uint8_t* p, int64_t stride, const I (&v)[4]) {
  F t[4] = {_mm512_castsi512_ps(v[0]), _mm512_castsi512_ps(v[1]), _mm512_castsi512_ps(v[2]),
            _mm512_castsi512_ps(v[3])};
  transpose_fours(t);
  const auto put = [p, stride](int l, __m128 bytes) {
    _mm_storeu_ps(reinterpret_cast<float*>(p + l * stride), bytes);
  };
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) put(i, _mm512_castps512_ps128(t[i]));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) put(4 + i, _mm512_extractf32x4_ps(t[i], 1));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) put(8 + i, _mm512_extractf32x4_ps(t[i], 2));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) put(12 + i, _mm512_extractf32x4_ps(t[i], 3));
}

// ---- Tables of 256 bytes --------------------------------------------------------------------------
inline I saturating_sub_s8(I a, I b) { return _mm512_subs_epi8(a, b); }
inline I xor_bits(I a, I b) { return _mm512_xor_si512(a, b); }
inline I shuffle_u8s(I table, I index) { return _mm512_shuffle_epi8(table, index); }
inline I repeat_16(const uint8_t* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

}  // namespace
}  // namespace intaglio

#include "byte_table-inl.h"

namespace intaglio {
namespace {

// With AVX-512 VBMI: two permutations of 128 entries each, chosen between by the index's highest bit.
template <>
class ByteTable<true> {
 public:
  explicit ByteTable(const uint8_t* table) {
    for (int i = 0; i < 4; ++i) part_[i] = load_u8s(table + 64 * i);
  }
  I look_up(I x) const {
    I low = x, high = x;
    __asm__("vpermi2b %2, %1, %0" : "+v"(low) : "v"(part_[0]), "v"(part_[1]));
    __asm__("vpermi2b %2, %1, %0" : "+v"(high) : "v"(part_[2]), "v"(part_[3]));
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
  }

 private:
  I part_[4];
};

// ---- int8 dot products: four k's at a time --------------------------------------------------------
using Act = uint8_t;
constexpr int kGroup = 4;
constexpr int kMaxVectors = 4;
constexpr int kTileRows[kMaxVectors + 1] = {0, 12, 12, 8, 6};

inline I broadcast(const Act* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}
inline I load_weights(const int8_t* p) { return _mm512_loadu_si512(p); }
// As inline assembly: GCC 12 spills the accumulators around _mm512_dpbusd_epi32.
// Four k's of a vector of columns, where pack_gemm would put them.
inline void store_weights(int8_t* p, int64_t, I four) { _mm512_storeu_si512(p, four); }
inline I dot(I acc, I a, I w) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(w));
  return acc;
}
inline void interleave_taps(const uint8_t* p, int64_t tap_bytes, I (&t)[4]) {
  const I a = _mm512_loadu_si512(p), b = _mm512_loadu_si512(p + tap_bytes);
  const I c = _mm512_loadu_si512(p + 2 * tap_bytes), d = _mm512_loadu_si512(p + 3 * tap_bytes);
  const I ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
  const I ab_high = _mm512_unpackhi_epi8(a, b), cd_high = _mm512_unpackhi_epi8(c, d);
  t[0] = _mm512_unpacklo_epi16(ab, cd);
  t[1] = _mm512_unpackhi_epi16(ab, cd);
  t[2] = _mm512_unpacklo_epi16(ab_high, cd_high);
  t[3] = _mm512_unpackhi_epi16(ab_high, cd_high);
}
inline I load_u8_words(const uint8_t* p) {
  return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline I add_words(I a, I b) { return _mm512_add_epi16(a, b); }
inline I sub_words(I a, I b) { return _mm512_sub_epi16(a, b); }
template <int kBits>
inline I shift_words_left(I v) {
  return _mm512_slli_epi16(v, kBits);
}
inline I dot_words(I acc, I a, I w) {
  __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(w));
  return acc;
}
constexpr int kWinogradTiles = 14;  // with two vectors of channels: 28 accumulators
inline void pin(I& acc) { __asm__ volatile("" : "+v"(acc)); }
inline void pin_float(F& v) { __asm__ volatile("" : "+v"(v)); }

inline void widen(Act* to, const uint8_t* from, int64_t n) { std::memcpy(to, from, static_cast<size_t>(n)); }

// 8 x 48 tiles divide both common row counts and common widths; 6 x 64 serves the rest.
inline int choose_panel_vectors(int64_t n) { return n % 48 == 0 ? 3 : 4; }

// ---- float32 products: a vector of accumulators for each row and vector of columns ---------------
constexpr int kFloatTileRows[kMaxVectors + 1] = {0, 12, 12, 8, 6};
constexpr int kFloatPanelVectors = 4;
inline float sum_chains(const F (&v)[1]) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v[0]), _mm512_extractf32x8_ps(v[0], 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

}  // namespace
}  // namespace intaglio
