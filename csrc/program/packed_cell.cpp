// Packing of recurrent cells: the order of the gates, and where the parts of a buffer begin.
#include "packed_cell.h"

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "gemm.h"
#include "half.h"
#include "parallel.h"

namespace intaglio {
namespace {

constexpr int32_t kCellMagic = 0x6c6c6563;

// First in the buffer; offsets are bytes from its start.
struct CellHeader {
  int32_t magic, isa;
  CellShape shape;
  int64_t lanes, hidden_offset, projection_offset, bias_offset, bytes;
};
constexpr int64_t kInputOffset = (sizeof(CellHeader) + 63) / 64 * 64;

// The RNN has one gate and takes the panels that a plain product would; the others one panel a unit block.
int panel_vectors(const CellShape& shape) { return shape.gates() == 1 ? 4 : static_cast<int>(shape.gates()); }

int64_t padded_units(const CellShape& shape, int64_t lanes) {
  return (shape.hidden + lanes - 1) / lanes * lanes;
}

int64_t part_bytes(CellWeight weight, int64_t n, int64_t k, int vectors) {
  return aligned_size(weight == CellWeight::kHalf ? packed_half_bytes(n, k)
                                                  : packed_weight_bytes(n, k, vectors));
}

CellHeader lay_out(const CellShape& shape) {
  const KernelTable& kernels = active_kernels();
  const int64_t columns = shape.gates() * padded_units(shape, kernels.lanes);
  CellHeader header{};
  header.magic = kCellMagic;
  header.isa = static_cast<int32_t>(kernels.isa);
  header.shape = shape;
  header.lanes = kernels.lanes;
  header.hidden_offset = kInputOffset + part_bytes(shape.input_weight(), columns, shape.input, 0);
  header.projection_offset =
      header.hidden_offset + part_bytes(shape.state_weight(), columns, shape.output(), panel_vectors(shape));
  header.bias_offset = header.projection_offset;
  if (shape.projection > 0)
    header.bias_offset += part_bytes(shape.state_weight(), shape.projection, shape.hidden, 0);
  header.bytes = header.bias_offset + aligned_size(shape.gates() * shape.hidden * 4);
  return header;
}

CellHeader header_of(const uint8_t* packed) {
  CellHeader header;
  std::memcpy(&header, packed, sizeof header);
  if (header.magic != kCellMagic) throw std::invalid_argument("not a packed recurrent cell");
  return header;
}

// A matrix in the order of the packed columns, on its way there or back. Rows move as bytes, whatever
// the weight's type.
struct Matrix {
  CellWeight type;
  int64_t rows, k, row_bytes;
  std::vector<uint8_t> weight;
  std::vector<float> scale, bias;

  Matrix(CellWeight type_, int64_t rows_, int64_t k_)
      : type(type_),
        rows(rows_),
        k(k_),
        row_bytes(k_ * (type_ == CellWeight::kHalf ? 2 : 1)),
        weight(static_cast<size_t>(rows_ * row_bytes)),
        scale(static_cast<size_t>(rows_)),
        bias(static_cast<size_t>(rows_)) {}

  void pack(int vectors, uint8_t* packed) const {
    if (type == CellWeight::kHalf)
      pack_half_weight(reinterpret_cast<const uint16_t*>(weight.data()), bias.data(), rows, k, packed);
    else
      pack_weight(reinterpret_cast<const int8_t*>(weight.data()), scale.data(), bias.data(), rows, k, vectors,
                  packed);
  }
  void unpack(const uint8_t* packed) {
    if (type == CellWeight::kHalf)
      unpack_half_weight(packed, reinterpret_cast<uint16_t*>(weight.data()), bias.data());
    else
      unpack_weight(packed, reinterpret_cast<int8_t*>(weight.data()), scale.data(), bias.data());
  }
  // Row `here` from or to row `there` of the plain tensors.
  void copy_in(int64_t here, const void* plain, const float* plain_scale, int64_t there) {
    std::memcpy(&weight[here * row_bytes], static_cast<const uint8_t*>(plain) + there * row_bytes, row_bytes);
    if (type == CellWeight::kInt8) scale[here] = plain_scale[there];
  }
  void copy_out(int64_t here, void* plain, float* plain_scale, int64_t there) const {
    std::memcpy(static_cast<uint8_t*>(plain) + there * row_bytes, &weight[here * row_bytes], row_bytes);
    if (type == CellWeight::kInt8) plain_scale[there] = scale[here];
  }
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
  std::memset(packed, 0, static_cast<size_t>(header.bytes));
  std::memcpy(packed, &header, sizeof header);
  Matrix input(shape.input_weight(), rows, shape.input);
  Matrix hidden(shape.state_weight(), rows, shape.output());
  auto* biases = reinterpret_cast<float*>(packed + header.bias_offset);
  const int64_t separate = shape.kind == CellKind::kGru ? 2 * shape.hidden : shape.gates() * shape.hidden;
  each_row(shape, lanes, [&](int64_t there, int64_t here) {
    input.copy_in(here, plain.input, plain.input_scale, there);
    hidden.copy_in(here, plain.hidden, plain.hidden_scale, there);
    if (plain.input_bias == nullptr) return;
    biases[there] = plain.input_bias[there];
    hidden.bias[here] = plain.hidden_bias[there];
    input.bias[here] = plain.input_bias[there] + (there < separate ? plain.hidden_bias[there] : 0.0f);
  });
  input.pack(0, packed + kInputOffset);
  hidden.pack(panel_vectors(shape), packed + header.hidden_offset);
  if (shape.projection > 0) {
    Matrix projection(shape.state_weight(), shape.projection, shape.hidden);
    for (int64_t row = 0; row < shape.projection; ++row)
      projection.copy_in(row, plain.projection, plain.projection_scale, row);
    projection.pack(0, packed + header.projection_offset);
  }
}

void unpack_cell(const uint8_t* packed, const UnpackedCell& plain) {
  const CellHeader header = header_of(packed);
  const CellShape& shape = header.shape;
  const int64_t rows = shape.gates() * padded_units(shape, header.lanes);
  Matrix input(shape.input_weight(), rows, shape.input);
  Matrix hidden(shape.state_weight(), rows, shape.output());
  input.unpack(packed + kInputOffset);
  hidden.unpack(packed + header.hidden_offset);
  const auto* biases = reinterpret_cast<const float*>(packed + header.bias_offset);
  each_row(shape, header.lanes, [&](int64_t there, int64_t here) {
    input.copy_out(here, plain.input, plain.input_scale, there);
    hidden.copy_out(here, plain.hidden, plain.hidden_scale, there);
    plain.input_bias[there] = biases[there];
    plain.hidden_bias[there] = hidden.bias[here];
  });
  if (shape.projection > 0) {
    Matrix projection(shape.state_weight(), shape.projection, shape.hidden);
    projection.unpack(packed + header.projection_offset);
    for (int64_t row = 0; row < shape.projection; ++row)
      projection.copy_out(row, plain.projection, plain.projection_scale, row);
  }
}

CellView view_cell(const uint8_t* packed) {
  const CellHeader header = header_of(packed);
  const KernelTable& kernels = active_kernels();
  if (header.isa != static_cast<int32_t>(kernels.isa))
    throw std::invalid_argument(std::string("a cell packed for ") + isa_name(static_cast<Isa>(header.isa)) +
                                " cannot be used by the " + kernels.name + " kernels: pack it again");
  PackedLayout hidden;
  std::memcpy(&hidden, packed + header.hidden_offset, sizeof hidden);
  return {header.shape,
          packed + kInputOffset,
          packed + header.hidden_offset,
          header.shape.projection > 0 ? packed + header.projection_offset : nullptr,
          reinterpret_cast<const float*>(packed + header.hidden_offset + hidden.bias_offset),
          header.shape.gates() * padded_units(header.shape, kernels.lanes)};
}

CellShape packed_cell_shape(const uint8_t* packed, Isa* isa) {
  const CellHeader header = header_of(packed);
  *isa = static_cast<Isa>(header.isa);
  return header.shape;
}

}  // namespace intaglio
