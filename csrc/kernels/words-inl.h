// Vectors of pairs of 16-bit words in memory: the operands of dot_words.
#pragma once

#include <cstdint>

namespace intaglio {
namespace {

inline I load_words(const int16_t* p) { return load_int(reinterpret_cast<const int32_t*>(p)); }
inline void store_words(int16_t* p, I v) { store_int(reinterpret_cast<int32_t*>(p), v); }

// The same two words in every lane.
inline I broadcast_words(const int16_t* p) {
  int32_t two;
  __builtin_memcpy(&two, p, 4);
  return set_int(two);
}

}  // namespace
}  // namespace intaglio
