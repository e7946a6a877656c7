// The limits that results are compared with: the dot instruction, the FMA and reading, each alone.
#pragma once

namespace intaglio {
namespace {

int64_t peak_int8(int64_t iterations) noexcept {
  constexpr int kChains = 12;
  I acc[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) acc[i] = set_int(i);
  I a = set_int(0x01020304), w = set_int(0x01010101);
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) {
      pin(a);  // opaque: no product may be shared or hoisted
      acc[i] = dot(acc[i], a, w);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) pin(acc[i]);
  return iterations * kChains * kLanes * kGroup * 2;
}

int64_t peak_float(int64_t iterations) noexcept {
  constexpr int kChains = 12;
  F acc[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) acc[i] = set(static_cast<float>(i));
  F a = set(0.5f);
  const F b = set(0.25f);
  for (int64_t n = 0; n < iterations; ++n) {
    pin_float(a);
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = fma(a, b, acc[i]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) pin_float(acc[i]);
  return iterations * kChains * kLanes * 2;
}

int64_t read_bytes(const uint8_t* p, int64_t bytes) noexcept {
  constexpr int kStreams = 4;
  const auto* words = reinterpret_cast<const int32_t*>(p);
  I sum[kStreams];
#pragma GCC unroll 4
  for (int s = 0; s < kStreams; ++s) sum[s] = set_int(0);
  const int64_t count = bytes / 4;
  for (int64_t i = 0; i + kStreams * kLanes <= count; i += kStreams * kLanes)
#pragma GCC unroll 4
    for (int s = 0; s < kStreams; ++s) sum[s] = add_int(sum[s], load_int(words + i + s * kLanes));
  int32_t lanes[kLanes];
  store_int(lanes, add_int(add_int(sum[0], sum[1]), add_int(sum[2], sum[3])));
  int64_t total = 0;
  for (const int32_t lane : lanes) total += lane;
  return total;
}

}  // namespace
}  // namespace intaglio
