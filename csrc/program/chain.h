// A chain: one layer in one direction over one block of the batch, chunk of time steps by chunk.
//
// Each chunk is two pieces of work: `project` quantizes the chunk's inputs and multiplies them by the
// input's weight, `recur` goes through its steps one after the other. A chunk is as long as its
// pre-activations fit in L2. Rows never meet, so how the batch is split does not change a bit.
#pragma once

#include <vector>

#include "packed_cell.h"
#include "parallel.h"

namespace intaglio {

// Parts of one allocation. Without memory it only measures how much there must be.
class Arena {
 public:
  explicit Arena(uint8_t* memory = nullptr) : memory_(memory) {}
  template <class T>
  T* take(int64_t count) {
    T* part = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += aligned_size(count * static_cast<int64_t>(sizeof(T)));
    most_ = std::max(most_, used_);
    return part;
  }
  // Going back gives the same memory out again, to what never runs at the same time.
  void go_to(int64_t used) { used_ = used; }
  int64_t used() const { return used_; }
  int64_t most() const { return most_; }

 private:
  uint8_t* memory_;
  int64_t used_ = 0, most_ = 0;
};

// Which rows each time step has.
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
  struct Quantized {
    uint8_t* q = nullptr;
    int64_t stride = 0;
    float* scale = nullptr;
    int32_t* zero_point = nullptr;
    void take(Arena& arena, int64_t rows, int64_t k_padded);
  };

  template <class Body>
  void each_step(int64_t chunk, const Body& body) const;
  void multiply(const Quantized& a, int64_t rows, const uint8_t* packed, float* out, int64_t out_stride);
  void quantize(const float* x, int64_t x_stride, int64_t rows, int64_t k, const Quantized& into,
                int64_t first = 0);
  void step(const float* pre, int64_t rows, float* y);

  const KernelTable* kernels_;
  const Timeline* timeline_;
  ChainTask task_;
  CellView cell_;
  int64_t block_, buffers_, chunk_steps_, input_depth_, state_depth_, full_depth_;
  bool is_backward_ = false;  // the order of panels in the next step
  Quantized input_, state_, full_;
  float* pre_ = nullptr;
  float* full_state_ = nullptr;  // (block, hidden) before the projection
  void* projecting_ = nullptr;   // scratch of the two pieces of work, which may run at once
  void* recurring_ = nullptr;
};

}  // namespace intaglio
