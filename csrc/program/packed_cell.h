// The weights of one recurrent cell (one layer, one direction), packed into a single buffer.
//
// Contract: buffers are 64-byte aligned; one that was packed for another instruction set than the one in
// use raises std::invalid_argument. Plain weights are torch's: row-major int8 with a float scale for each
// row, or IEEE halves; the gates one below the other (LSTM i f g o, GRU r z n).
//
// Inside, the rows of both matrices are reordered so that the gates of `lanes` hidden units stand side by
// side, and the units are padded to whole vectors with zeros. The input's matrix carries the sum of both
// biases, except the GRU's n, which keeps them apart (docs/numerics.md, "Gates").
#pragma once

#include "../kernels/kernels.h"

namespace intaglio {

enum class CellKind : int32_t { kLstm = 0, kGru = 1, kTanh = 2, kRelu = 3 };
// kMixed: halves for the input, int8 for the rest.
enum class CellWeight : int32_t { kInt8 = 0, kHalf = 1, kMixed = 2 };

struct CellShape {
  CellKind kind;
  CellWeight weight;
  int64_t input, hidden;
  int64_t projection;  // of an LSTM with proj_size, else 0

  int64_t gates() const { return kind == CellKind::kLstm ? 4 : kind == CellKind::kGru ? 3 : 1; }
  int64_t output() const { return projection > 0 ? projection : hidden; }
  CellWeight input_weight() const { return weight == CellWeight::kMixed ? CellWeight::kHalf : weight; }
  CellWeight state_weight() const { return weight == CellWeight::kMixed ? CellWeight::kInt8 : weight; }
};

// The plain tensors. The scales of halves, the projection of a cell that has none, and the biases may be
// nullptr.
template <class Weight, class Float>
struct CellWeights {
  Weight* input;  // (gates * hidden, input)
  Float* input_scale;
  Weight* hidden;  // (gates * hidden, output)
  Float* hidden_scale;
  Weight* projection;  // (projection, hidden)
  Float* projection_scale;
  Float* input_bias;  // (gates * hidden) each
  Float* hidden_bias;
};
using PlainCell = CellWeights<const void, const float>;
using UnpackedCell = CellWeights<void, float>;

int64_t packed_cell_bytes(const CellShape& shape);
void pack_cell(const CellShape& shape, const PlainCell& plain, uint8_t* packed);
void unpack_cell(const uint8_t* packed, const UnpackedCell& plain);

// The parts of a packed cell as the kernels read them.
struct CellView {
  CellShape shape;
  const uint8_t* input;       // packed weight, gates * units columns
  const uint8_t* hidden;      // packed weight; int8 in panels of as many vectors as gates
  const uint8_t* projection;  // packed weight, or nullptr
  const float* hidden_bias;   // (columns): what `hidden` was packed with
  int64_t columns;            // gates * units, units being `hidden` rounded up to whole vectors
};
CellView view_cell(const uint8_t* packed);
// Shape and instruction set of a packed cell, whichever instruction set is in use.
CellShape packed_cell_shape(const uint8_t* packed, Isa* isa);

}  // namespace intaglio
