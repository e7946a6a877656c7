// A table of 256 bytes, read by shuffles of sixteen: included by the vec_*-inl.h that have no better way.
//
// A shuffle gives zero where its index is negative as a signed byte, and looks at no more than the low four
// bits otherwise. So of tables D[i] = T[i] ^ T[i - 1] those with 16 * i <= x add up (exclusive or) to T[x /
// 16]. The upper half, indices from 128 on, is the same again: with the highest bit flipped, and negative
// before.
#pragma once

namespace intaglio {
namespace {

template <bool>
class ByteTable {
 public:
  explicit ByteTable(const uint8_t* table) {
    for (int i = 0; i < 16; ++i) {
      part_[i] = repeat_16(table + 16 * i);
      if (i % 8 != 0) part_[i] = xor_bits(part_[i], repeat_16(table + 16 * (i - 1)));
    }
  }
  I look_up(I x) const {
    const I step = set_u8s(16);
    I low = x, high = xor_bits(x, set_u8s(0x80));
    I y = xor_bits(shuffle_u8s(part_[0], low), shuffle_u8s(part_[8], high));
#pragma GCC unroll 8
    for (int i = 1; i < 8; ++i) {
      low = saturating_sub_s8(low, step);
      high = saturating_sub_s8(high, step);
      y = xor_bits(y, xor_bits(shuffle_u8s(part_[i], low), shuffle_u8s(part_[8 + i], high)));
    }
    return y;
  }

 private:
  I part_[16];
};

}  // namespace
}  // namespace intaglio
