// One layer, one direction, one block of the batch: see chain.h.
#include "chain.h"

#include <stdexcept>

namespace intaglio {
namespace {

// Pre-activations of a chunk, beside the weights of the recurrence in L2.
constexpr int64_t kChunkBytes = 256 * 1024;

}  // namespace

Timeline::Timeline(int64_t steps, int64_t batch, const int64_t* batch_sizes)
    : first_(static_cast<size_t>(steps) + 1) {
  int64_t most = batch;
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t size = batch_sizes == nullptr ? batch : batch_sizes[t];
    if (size < 1 || size > most || (t == 0 && size != batch))
      throw std::invalid_argument("the batch sizes must begin with the whole batch and never rise");
    most = size;
    first_[static_cast<size_t>(t) + 1] = first_[static_cast<size_t>(t)] + size;
  }
}

std::vector<Share> Timeline::split(int64_t batch, int parts) const {
  std::vector<Share> blocks;
  int64_t begin = 0, done = 0, length = steps();
  for (int64_t row = 0; row < batch; ++row) {
    while (length > 0 && rows_of(length - 1) <= row) --length;
    done += length;
    const auto closed = static_cast<int64_t>(blocks.size());
    if (row == batch - 1 || (closed < parts - 1 && done * parts >= rows() * (closed + 1))) {
      blocks.push_back({begin, row + 1});
      begin = row + 1;
    }
  }
  return blocks;
}

Chain::Chain(const ChainTask& task, const Timeline& timeline, int64_t buffers)
    : kernels_(&active_kernels()),
      timeline_(&timeline),
      task_(task),
      cell_(view_cell(task.cell)),
      block_(task.block.end - task.block.begin),
      buffers_(buffers),
      chunk_steps_(std::clamp<int64_t>(kChunkBytes / std::max<int64_t>(1, block_ * cell_.columns * 4), 1,
                                       std::max<int64_t>(1, timeline.steps()))),
      input_(cell_.shape.input_weight(), cell_.shape.input),
      state_(cell_.shape.state_weight(), cell_.shape.output()),
      whole_state_(cell_.shape.state_weight(), cell_.shape.hidden) {}

void Chain::take_memory(Arena& arena) {
  const int64_t rows = block_ * chunk_steps_;
  input_.take_memory(arena, rows);
  state_.take_memory(arena, block_);
  pre_ = arena.take<float>(buffers_ * rows * cell_.columns);
  if (cell_.shape.state_weight() == CellWeight::kHalf) gates_ = arena.take<float>(block_ * cell_.columns);
  if (cell_.projection == nullptr) return;
  whole_state_.take_memory(arena, block_);
  whole_ = arena.take<float>(block_ * cell_.shape.hidden);
}

float* Chain::pre_of(int64_t chunk) const {
  return pre_ + chunk % buffers_ * block_ * chunk_steps_ * cell_.columns;
}

// body(first row of the step's part of the block, its rows, rows of the chunk before it).
template <class Body>
void Chain::each_step(int64_t chunk, const Body& body) const {
  const int64_t steps = timeline_->steps();
  const int64_t end = std::min(steps, (chunk + 1) * chunk_steps_);
  int64_t before = 0;
  for (int64_t i = chunk * chunk_steps_; i < end; ++i) {
    const int64_t t = task_.is_reversed ? steps - 1 - i : i;
    const int64_t rows = std::min(timeline_->rows_of(t), task_.block.end) - task_.block.begin;
    if (rows <= 0) continue;
    body(timeline_->first_row(t) + task_.block.begin, rows, before);
    before += rows;
  }
}

void Chain::project(int64_t chunk) noexcept {
  int64_t total = 0;
  each_step(chunk, [&](int64_t row, int64_t rows, int64_t before) {
    input_.set(task_.x + row * task_.x_stride, task_.x_stride, rows, before);
    total = before + rows;
  });
  input_.multiply(total, cell_.input, nullptr, pre_of(chunk), cell_.columns);
}

void Chain::recur(int64_t chunk) noexcept {
  const int64_t output = cell_.shape.output();
  if (chunk == 0) state_.set(task_.h + task_.block.begin * output, output, block_);
  const float* pre = pre_of(chunk);
  each_step(chunk, [&](int64_t row, int64_t rows, int64_t before) {
    step(pre + before * cell_.columns, rows, task_.y + row * task_.y_stride);
  });
}

void Chain::step(const float* pre, int64_t rows, float* y) {
  const int64_t output = cell_.shape.output();
  float* h = task_.h + task_.block.begin * output;
  const bool projects = cell_.projection != nullptr;
  const auto step_type =
      cell_.shape.state_weight() == CellWeight::kHalf ? &Chain::step_half : &Chain::step_int8;
  (this->*step_type)(pre, rows, projects ? whole_ : h, projects ? nullptr : y);
  if (projects) {
    whole_state_.set(whole_, cell_.shape.hidden, rows);
    whole_state_.multiply(rows, cell_.projection, nullptr, h, output);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(h + r * output, output, y + r * task_.y_stride);
  }
  state_.set(h, output, rows);
}

void Chain::step_int8(const float* pre, int64_t rows, float* h, float* y) {
  RecurrentStepArgs args{};
  args.q = state_.quantized();
  args.q_stride = state_.stride();
  args.m = rows;
  args.row_scale = state_.scale();
  args.row_zero_point = state_.zero_point();
  args.packed = cell_.hidden;
  args.pre = pre;
  args.pre_stride = cell_.columns;
  args.units = cell_.shape.hidden;
  args.c = task_.c == nullptr ? nullptr : task_.c + task_.block.begin * cell_.shape.hidden;
  args.h = h;
  args.y = y;
  args.y_stride = task_.y_stride;
  args.relu = cell_.shape.kind == CellKind::kRelu;
  args.backward = is_backward_;
  args.scratch = state_.scratch();
  is_backward_ = !is_backward_;
  const auto kernel = cell_.shape.kind == CellKind::kLstm  ? kernels_->lstm_step
                      : cell_.shape.kind == CellKind::kGru ? kernels_->gru_step
                                                           : kernels_->rnn_step;
  kernel(args);
}

// The product is a kernel of its own here: float arithmetic outweighs what a second pass costs.
void Chain::step_half(const float* pre, int64_t rows, float* h, float* y) {
  const int64_t columns = cell_.columns;
  const bool is_gru = cell_.shape.kind == CellKind::kGru;
  const float* base = pre;
  if (is_gru) {
    start_gru_gates(pre, rows);
    base = gates_;
  }
  state_.multiply(rows, cell_.hidden, base, gates_, columns);
  ApplyGatesArgs args{};
  args.gates = gates_;
  args.gates_stride = columns;
  args.pre = pre;
  args.pre_stride = columns;
  args.m = rows;
  args.units = cell_.shape.hidden;
  args.c = task_.c == nullptr ? nullptr : task_.c + task_.block.begin * cell_.shape.hidden;
  args.h = h;
  args.y = y;
  args.y_stride = task_.y_stride;
  args.relu = cell_.shape.kind == CellKind::kRelu;
  const auto kernel = cell_.shape.kind == CellKind::kLstm ? kernels_->lstm_gates
                      : is_gru                            ? kernels_->gru_gates
                                                          : kernels_->rnn_gates;
  kernel(args);
}

// r and z go on from the input's part, n from its own bias.
void Chain::start_gru_gates(const float* pre, int64_t rows) {
  const float* bias = cell_.hidden_bias;
  const int64_t lanes = kernels_->lanes, columns = cell_.columns;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t at = 0; at < columns; at += 3 * lanes) {
      std::copy_n(pre + r * columns + at, 2 * lanes, gates_ + r * columns + at);
      std::copy_n(bias + at + 2 * lanes, lanes, gates_ + r * columns + at + 2 * lanes);
    }
}

}  // namespace intaglio
