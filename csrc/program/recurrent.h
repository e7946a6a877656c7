// Driver of recurrent layers over sequences: LSTM, GRU and RNN of any depth, one or two directions.
#pragma once

#include "packed_cell.h"

namespace intaglio {

// Sequences stand step by step: the rows of step 0, then those of step 1, ... Where their lengths differ
// they are sorted, longest first, and step t has its first batch_sizes[t] rows (a PackedSequence).
struct RecurrentCall {
  const float* x;  // (rows, input)
  int64_t rows;
  int64_t steps, batch;
  const int64_t* batch_sizes;   // (steps), never rising, the first one `batch`; nullptr: `batch` everywhere
  const uint8_t* const* cells;  // (layers * directions) packed cells
  int64_t layers, directions;
  float* y;  // (rows, directions * output)
  float* h;  // (layers * directions, batch, output): the first states, then the last
  float* c;  // (layers * directions, batch, hidden) of an LSTM, else nullptr
  int threads;
};

// Each row's hidden state is quantized at every step, its input once (docs/numerics.md, "Recurrent
// layers"). Throws std::invalid_argument where the cells do not fit together, or the batch sizes the rows.
void run_recurrent(const RecurrentCall& call);

}  // namespace intaglio
