// One layer, one direction, one block of the batch: see chain.h.
#include "chain.h"

#include "gemm.h"

namespace intaglio {
namespace {

// Pre-activations of a chunk, beside the weights of the recurrence in L2.
constexpr int64_t kChunkBytes = 256 * 1024;

int64_t depth_of(int64_t k) { return (std::max<int64_t>(k, 1) + 3) / 4 * 4; }

}  // namespace

Timeline::Timeline(int64_t steps, int64_t batch, const int64_t* batch_sizes)
    : first_(static_cast<size_t>(steps) + 1) {
  for (int64_t t = 0; t < steps; ++t)
    first_[static_cast<size_t>(t) + 1] =
        first_[static_cast<size_t>(t)] + (batch_sizes == nullptr ? batch : batch_sizes[t]);
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
      input_depth_(depth_of(cell_.shape.input)),
      state_depth_(depth_of(cell_.shape.output())),
      full_depth_(depth_of(cell_.shape.hidden)) {}

void Chain::Quantized::take(Arena& arena, int64_t rows, int64_t k_padded) {
  q = arena.take<uint8_t>(rows * k_padded);
  stride = k_padded;
  scale = arena.take<float>(rows);
  zero_point = arena.take<int32_t>(rows);
}

void Chain::take_memory(Arena& arena) {
  const int64_t rows = block_ * chunk_steps_;
  input_.take(arena, rows, input_depth_);
  state_.take(arena, block_, state_depth_);
  pre_ = arena.take<float>(buffers_ * rows * cell_.columns);
  projecting_ = arena.take<uint8_t>(kernels_->gemm_scratch_bytes(rows, input_depth_));
  int64_t recurring = kernels_->gemm_scratch_bytes(block_, state_depth_);
  if (cell_.projection != nullptr) {
    full_.take(arena, block_, full_depth_);
    full_state_ = arena.take<float>(block_ * cell_.shape.hidden);
    recurring = std::max(recurring, kernels_->gemm_scratch_bytes(block_, full_depth_));
  }
  recurring_ = arena.take<uint8_t>(recurring);
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

void Chain::quantize(const float* x, int64_t x_stride, int64_t rows, int64_t k, const Quantized& into,
                     int64_t first) {
  kernels_->quantize_rows({x, x_stride, rows, k, into.q + first * into.stride, into.stride,
                           into.scale + first, into.zero_point + first});
}

void Chain::multiply(const Quantized& a, int64_t rows, const uint8_t* packed, float* out,
                     int64_t out_stride) {
  GemmArgs args{};
  args.a = a.q;
  args.a_stride = a.stride;
  args.m = rows;
  args.packed = packed;
  args.panel_end = panels_of(checked_layout(packed));
  args.row_scale = a.scale;
  args.row_zero_point = a.zero_point;
  args.row_param_stride = 1;
  args.c = out;
  args.c_stride = out_stride;
  args.scratch = packed == cell_.input ? projecting_ : recurring_;
  kernels_->gemm(args);
}

void Chain::project(int64_t chunk) noexcept {
  int64_t total = 0;
  each_step(chunk, [&](int64_t row, int64_t rows, int64_t before) {
    quantize(task_.x + row * task_.x_stride, task_.x_stride, rows, cell_.shape.input, input_, before);
    total = before + rows;
  });
  float* pre = pre_ + chunk % buffers_ * block_ * chunk_steps_ * cell_.columns;
  multiply(input_, total, cell_.input, pre, cell_.columns);
}

void Chain::recur(int64_t chunk) noexcept {
  const int64_t output = cell_.shape.output();
  if (chunk == 0) quantize(task_.h + task_.block.begin * output, output, block_, output, state_);
  const float* pre = pre_ + chunk % buffers_ * block_ * chunk_steps_ * cell_.columns;
  each_step(chunk, [&](int64_t row, int64_t rows, int64_t before) {
    step(pre + before * cell_.columns, rows, task_.y + row * task_.y_stride);
  });
}

void Chain::step(const float* pre, int64_t rows, float* y) {
  const int64_t hidden = cell_.shape.hidden, output = cell_.shape.output();
  float* h = task_.h + task_.block.begin * output;
  const bool projects = cell_.projection != nullptr;
  RecurrentStepArgs args{};
  args.q = state_.q;
  args.q_stride = state_.stride;
  args.m = rows;
  args.row_scale = state_.scale;
  args.row_zero_point = state_.zero_point;
  args.packed = cell_.hidden;
  args.pre = pre;
  args.pre_stride = cell_.columns;
  args.units = hidden;
  args.c = task_.c == nullptr ? nullptr : task_.c + task_.block.begin * hidden;
  args.h = projects ? full_state_ : h;
  args.y = projects ? nullptr : y;
  args.y_stride = task_.y_stride;
  args.relu = cell_.shape.kind == CellKind::kRelu;
  args.backward = is_backward_;
  args.scratch = recurring_;
  is_backward_ = !is_backward_;
  const auto kernel = cell_.shape.kind == CellKind::kLstm  ? kernels_->lstm_step
                      : cell_.shape.kind == CellKind::kGru ? kernels_->gru_step
                                                           : kernels_->rnn_step;
  kernel(args);
  if (projects) {
    quantize(full_state_, hidden, rows, hidden, full_);
    multiply(full_, rows, cell_.projection, h, output);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(h + r * output, output, y + r * task_.y_stride);
  }
  quantize(h, output, rows, output, state_);
}

}  // namespace intaglio
