// Packing of recurrent cells: the order of the gates, and where the parts of a buffer begin.
#include "packed_cell.h"

#include <stdexcept>
#include <vector>

#include "gemm.h"
#include "parallel.h"

namespace intaglio {
namespace {

constexpr int32_t kCellMagic = 0x6c6c6563;

// First in the buffer; offsets are bytes from its start.
struct CellHeader {
  int32_t magic, isa;
  CellShape shape;
  int64_t hidden_offset, projection_offset, bias_offset, bytes;
};
constexpr int64_t kInputOffset = (sizeof(CellHeader) + 63) / 64 * 64;

// The RNN has one gate and takes the panels that a plain product would; the others one panel a unit block.
int panel_vectors(const CellShape& shape) { return shape.gates() == 1 ? 4 : static_cast<int>(shape.gates()); }

int64_t padded_units(const CellShape& shape, int64_t lanes) {
  return (shape.hidden + lanes - 1) / lanes * lanes;
}

CellHeader lay_out(const CellShape& shape) {
  const KernelTable& kernels = active_kernels();
  const int64_t columns = shape.gates() * padded_units(shape, kernels.lanes);
  CellHeader header{};
  header.magic = kCellMagic;
  header.isa = static_cast<int32_t>(kernels.isa);
  header.shape = shape;
  header.hidden_offset = kInputOffset + aligned_size(packed_weight_bytes(columns, shape.input, 0));
  header.projection_offset =
      header.hidden_offset + aligned_size(packed_weight_bytes(columns, shape.output(), panel_vectors(shape)));
  header.bias_offset = header.projection_offset;
  if (shape.projection > 0)
    header.bias_offset += aligned_size(packed_weight_bytes(shape.projection, shape.hidden, 0));
  header.bytes = header.bias_offset + aligned_size(shape.gates() * shape.hidden * 4);
  return header;
}

CellHeader header_of(const uint8_t* packed) {
  CellHeader header;
  __builtin_memcpy(&header, packed, sizeof header);
  if (header.magic != kCellMagic) throw std::invalid_argument("not a packed recurrent cell");
  return header;
}

// A matrix whose rows are in the order of the packed columns, or on its way back to the plain order.
struct Interleaved {
  std::vector<int8_t> weight;
  std::vector<float> scale, bias;
  int64_t rows, k;

  Interleaved(int64_t rows_, int64_t k_)
      : weight(static_cast<size_t>(rows_ * k_)),
        scale(static_cast<size_t>(rows_)),
        bias(static_cast<size_t>(rows_)),
        rows(rows_),
        k(k_) {}
};

// body(plain row, interleaved row) for each gate of each unit.
template <class Body>
void each_row(const CellShape& shape, int64_t lanes, const Body& body) {
  const int64_t gates = shape.gates();
  for (int64_t gate = 0; gate < gates; ++gate)
    for (int64_t unit = 0; unit < shape.hidden; ++unit)
      body(gate * shape.hidden + unit, (unit / lanes * gates + gate) * lanes + unit % lanes);
}

}  // namespace

int64_t packed_cell_bytes(const CellShape& shape) { return lay_out(shape).bytes; }

void pack_cell(const CellShape& shape, const PlainCell& plain, uint8_t* packed) {
  const CellHeader header = lay_out(shape);
  const int64_t lanes = active_kernels().lanes, rows = shape.gates() * padded_units(shape, lanes);
  __builtin_memset(packed, 0, static_cast<size_t>(header.bytes));
  __builtin_memcpy(packed, &header, sizeof header);
  Interleaved input(rows, shape.input), hidden(rows, shape.output());
  auto* biases = reinterpret_cast<float*>(packed + header.bias_offset);
  const int64_t separate = shape.kind == CellKind::kGru ? 2 * shape.hidden : shape.gates() * shape.hidden;
  each_row(shape, lanes, [&](int64_t from, int64_t to) {
    __builtin_memcpy(&input.weight[to * input.k], plain.input + from * input.k, input.k);
    __builtin_memcpy(&hidden.weight[to * hidden.k], plain.hidden + from * hidden.k, hidden.k);
    input.scale[to] = plain.input_scale[from];
    hidden.scale[to] = plain.hidden_scale[from];
    if (plain.input_bias == nullptr) return;
    biases[from] = plain.input_bias[from];
    hidden.bias[to] = plain.hidden_bias[from];
    input.bias[to] = plain.input_bias[from] + (from < separate ? plain.hidden_bias[from] : 0.0f);
  });
  pack_weight(input.weight.data(), input.scale.data(), input.bias.data(), rows, input.k, 0,
              packed + kInputOffset);
  pack_weight(hidden.weight.data(), hidden.scale.data(), hidden.bias.data(), rows, hidden.k,
              panel_vectors(shape), packed + header.hidden_offset);
  if (shape.projection > 0)
    pack_weight(plain.projection, plain.projection_scale, nullptr, shape.projection, shape.hidden, 0,
                packed + header.projection_offset);
}

void unpack_cell(const uint8_t* packed, const UnpackedCell& plain) {
  const CellHeader header = header_of(packed);
  const CellShape& shape = header.shape;
  const KernelTable* kernels = kernels_of(static_cast<Isa>(header.isa));
  if (kernels == nullptr) throw std::invalid_argument("not a cell packed for an instruction set of this CPU");
  const int64_t rows = shape.gates() * padded_units(shape, kernels->lanes);
  Interleaved input(rows, shape.input), hidden(rows, shape.output());
  unpack_weight(packed + kInputOffset, input.weight.data(), input.scale.data(), input.bias.data());
  unpack_weight(packed + header.hidden_offset, hidden.weight.data(), hidden.scale.data(), hidden.bias.data());
  const auto* biases = reinterpret_cast<const float*>(packed + header.bias_offset);
  each_row(shape, kernels->lanes, [&](int64_t to, int64_t from) {
    __builtin_memcpy(plain.input + to * input.k, &input.weight[from * input.k], input.k);
    __builtin_memcpy(plain.hidden + to * hidden.k, &hidden.weight[from * hidden.k], hidden.k);
    plain.input_scale[to] = input.scale[from];
    plain.hidden_scale[to] = hidden.scale[from];
    plain.input_bias[to] = biases[to];
    plain.hidden_bias[to] = hidden.bias[from];
  });
  if (shape.projection > 0) {
    std::vector<float> no_bias(static_cast<size_t>(shape.projection));
    unpack_weight(packed + header.projection_offset, plain.projection, plain.projection_scale,
                  no_bias.data());
  }
}

CellView view_cell(const uint8_t* packed) {
  const CellHeader header = header_of(packed);
  const PackedLayout input = checked_layout(packed + kInputOffset);
  return {header.shape, packed + kInputOffset, packed + header.hidden_offset,
          header.shape.projection > 0 ? packed + header.projection_offset : nullptr, input.n};
}

CellShape packed_cell_shape(const uint8_t* packed, Isa* isa) {
  const CellHeader header = header_of(packed);
  *isa = static_cast<Isa>(header.isa);
  return header.shape;
}

}  // namespace intaglio
