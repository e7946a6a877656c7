// A chain: one layer in one direction over one block of the batch, chunk of time steps by chunk.
//
// Each chunk is two pieces of work: `project` multiplies the chunk's inputs by the input's weight, `recur`
// goes through its steps one after the other. A chunk is as long as its
// pre-activations fit in L2. Rows never meet, so how the batch is split does not change a bit.
#pragma once

#include <vector>

#include "operand.h"

namespace intaglio {

// Which rows each time step has. Throws std::invalid_argument if they could not be those of a batch.
class Timeline {
 public:
  Timeline(int64_t steps, int64_t batch, const int64_t* batch_sizes);
  int64_t steps() const { return static_cast<int64_t>(first_.size()) - 1; }
  int64_t rows() const { return first_.back(); }
  int64_t first_row(int64_t step) const { return first_[static_cast<size_t>(step)]; }
  int64_t rows_of(int64_t step) const { return first_row(step + 1) - first_row(step); }
  // Blocks of the batch with about the same number of steps in all, which are not empty.
  std::vector<Share> split(int64_t batch, int parts) const;

 private:
  std::vector<int64_t> first_;
};

// Where a chain reads and writes. The pointers are those of the whole batch.
struct ChainTask {
  const uint8_t* cell;
  bool is_reversed;
  Share block;  // rows of the batch
  const float* x;
  int64_t x_stride;
  float* y;
  int64_t y_stride;
  float* h;  // (batch, output)
  float* c;  // (batch, hidden), or nullptr
};

class Chain {
 public:
  // `buffers` chunks may be projected before the first of them is recurred.
  Chain(const ChainTask& task, const Timeline& timeline, int64_t buffers);
  void take_memory(Arena& arena);
  int64_t chunks() const { return (timeline_->steps() + chunk_steps_ - 1) / chunk_steps_; }
  int64_t buffers() const { return buffers_; }
  void project(int64_t chunk) noexcept;
  void recur(int64_t chunk) noexcept;

 private:
  template <class Body>
  void each_step(int64_t chunk, const Body& body) const;
  float* pre_of(int64_t chunk) const;
  void step(const float* pre, int64_t rows, float* y);
  void step_int8(const float* pre, int64_t rows, float* h, float* y);
  void step_half(const float* pre, int64_t rows, float* h, float* y);
  void start_gru_gates(const float* pre, int64_t rows);

  const KernelTable* kernels_;
  const Timeline* timeline_;
  ChainTask task_;
  CellView cell_;
  int64_t block_, buffers_, chunk_steps_;
  bool is_backward_ = false;  // the order of panels in the next step
  Operand input_, state_, whole_state_;
  float* pre_ = nullptr;
  float* whole_ = nullptr;  // (block, hidden) before the projection
  float* gates_ = nullptr;  // (block, columns), of halves
};

}  // namespace intaglio
