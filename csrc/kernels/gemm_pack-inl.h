// Packing of int8 weights into panels of whole vectors, and back (layout: PackedLayout, kernels.h).
#pragma once

namespace intaglio {
namespace {

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

inline PackedLayout layout_of(const uint8_t* packed) {
  PackedLayout layout;
  __builtin_memcpy(&layout, packed, sizeof layout);
  return layout;
}

// Where column j's first k stands; its groups of k_group k's follow every `*group_stride` bytes.
inline const int8_t* column_of(const PackedLayout& layout, const uint8_t* packed, int64_t j,
                               int64_t* group_stride) {
  const int64_t panel = j / layout.panel, first = panel * layout.panel;
  const int64_t width = layout.n_padded - first < layout.panel ? layout.n_padded - first : layout.panel;
  *group_stride = width * layout.k_group;
  return reinterpret_cast<const int8_t*>(packed) + layout.weight_offset + first * layout.k_padded +
         (j - first) * layout.k_group;
}

PackedLayout choose_layout(int64_t n, int64_t k, int panel_vectors, int64_t* bytes) {
  if (panel_vectors == 0) panel_vectors = choose_panel_vectors(n);
  PackedLayout layout{};
  layout.magic = kPackedMagic;
  layout.isa = static_cast<int32_t>(kIsa);
  layout.n = n;
  layout.k = k;
  layout.n_padded = round_up(n, kLanes);
  layout.k_padded = round_up(k > 0 ? k : 1, 4);
  layout.panel = panel_vectors * kLanes;
  layout.k_group = kGroup;
  const auto part = static_cast<int32_t>(round_up(layout.n_padded * 4, 64));
  layout.column_sum_offset = static_cast<int32_t>(sizeof(PackedLayout));
  layout.scale_offset = layout.column_sum_offset + part;
  layout.bias_offset = layout.scale_offset + part;
  layout.weight_offset = layout.bias_offset + part;
  *bytes = layout.weight_offset + round_up(layout.n_padded * layout.k_padded, 64);
  return layout;
}

void pack_gemm(const PackGemmArgs& args) noexcept {
  const PackedLayout layout = choose_layout(args.n, args.k, args.panel_vectors, args.bytes);
  *args.layout = layout;
  if (args.packed == nullptr) return;
  __builtin_memset(args.packed, 0, static_cast<size_t>(*args.bytes));
  __builtin_memcpy(args.packed, &layout, sizeof layout);
  auto* sums = reinterpret_cast<int32_t*>(args.packed + layout.column_sum_offset);
  auto* scales = reinterpret_cast<float*>(args.packed + layout.scale_offset);
  auto* biases = reinterpret_cast<float*>(args.packed + layout.bias_offset);
  for (int64_t j = 0; j < args.n; ++j) {
    int64_t stride;
    auto* column = const_cast<int8_t*>(column_of(layout, args.packed, j, &stride));
    const int8_t* row = args.weight + j * args.k;
    int32_t sum = 0;
    for (int64_t k = 0; k < args.k; ++k) {
      column[k / kGroup * stride + k % kGroup] = row[k];
      sum += row[k];
    }
    sums[j] = sum;
    scales[j] = args.scale == nullptr ? 0.0f : args.scale[j];
    biases[j] = args.bias == nullptr ? 0.0f : args.bias[j];
  }
}

void unpack_gemm(const UnpackGemmArgs& args) noexcept {
  const PackedLayout layout = layout_of(args.packed);
  const int64_t group = layout.k_group;
  const auto* scales = reinterpret_cast<const float*>(args.packed + layout.scale_offset);
  const auto* biases = reinterpret_cast<const float*>(args.packed + layout.bias_offset);
  for (int64_t j = 0; j < layout.n; ++j) {
    int64_t stride;
    const int8_t* column = column_of(layout, args.packed, j, &stride);
    int8_t* row = args.weight + j * layout.k;
    for (int64_t k = 0; k < layout.k; ++k) row[k] = column[k / group * stride + k % group];
    args.scale[j] = scales[j];
    args.bias[j] = biases[j];
  }
}

}  // namespace
}  // namespace intaglio
