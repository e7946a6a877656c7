// Recurrent layers over sequences: how layers, directions and the batch are shared out to threads.
#include "recurrent.h"

#include <stdexcept>

#include "chain.h"
#include "pipeline.h"

namespace intaglio {
namespace {

// Below this many multiply-adds a second thread costs more than it brings.
constexpr int64_t kSmallestParallelWork = 1'500'000;
// A thread's own rows must be enough to repay reading all of the weights.
constexpr int64_t kSmallestRowShare = 4;

// The whole call: sizes, and where each layer reads and writes. Between layers two buffers take turns:
// a layer is never more than one chunk behind what the layer after the next writes.
class Network {
 public:
  explicit Network(const RecurrentCall& call)
      : call_(call), timeline_(call.steps, call.batch, call.batch_sizes) {
    if (timeline_.rows() != call.rows)
      throw std::invalid_argument("the batch sizes do not add up to the rows of the input");
    for (int64_t i = 0; i < call.layers * call.directions; ++i)
      shapes_.push_back(view_cell(call.cells[i]).shape);
    const CellShape& first = shapes_.front();
    width_ = call.directions * first.output();
    for (size_t i = 0; i < shapes_.size(); ++i) {
      const bool in_first_layer = static_cast<int64_t>(i) < call.directions;
      if (shapes_[i].output() != first.output() || shapes_[i].hidden != first.hidden ||
          shapes_[i].kind != first.kind || shapes_[i].state_weight() != first.state_weight() ||
          shapes_[i].input != (in_first_layer ? first.input : width_))
        throw std::invalid_argument("the packed cells do not make one network");
    }
  }

  const Timeline& timeline() const { return timeline_; }
  int64_t between_values() const { return call_.layers > 1 ? timeline_.rows() * width_ : 0; }
  void take_memory(Arena& arena) {
    between_[0] = arena.take<float>(between_values());
    between_[1] = arena.take<float>(call_.layers > 2 ? between_values() : 0);
  }

  int64_t work() const {
    int64_t total = 0;
    for (const CellShape& s : shapes_)
      total += s.gates() * s.hidden * (s.input + s.output()) + s.projection * s.hidden;
    return total * timeline_.rows();
  }

  ChainTask task(int64_t layer, int64_t direction, Share block) const {
    const int64_t i = layer * call_.directions + direction;
    const CellShape& shape = shapes_[static_cast<size_t>(i)];
    float* y = layer == call_.layers - 1 ? call_.y : between_[layer % 2];
    return {call_.cells[i],
            direction == 1,
            block,
            layer == 0 ? call_.x : between_[(layer - 1) % 2],
            shape.input,
            y + direction * shape.output(),
            width_,
            call_.h + i * call_.batch * shape.output(),
            call_.c == nullptr ? nullptr : call_.c + i * call_.batch * shape.hidden};
  }

 private:
  const RecurrentCall& call_;
  Timeline timeline_;
  std::vector<CellShape> shapes_;
  int64_t width_;
  float* between_[2] = {nullptr, nullptr};
};

// The chains of one block of the batch, in the order of their layers. If they run one after the other
// they share their memory.
std::vector<Chain> make_chains(const RecurrentCall& call, const Network& network, Share rows, int64_t buffers,
                               bool is_shared, Arena& arena) {
  std::vector<Chain> chains;
  const int64_t begin = arena.used();
  for (int64_t layer = 0; layer < call.layers; ++layer)
    for (int64_t direction = 0; direction < call.directions; ++direction) {
      chains.emplace_back(network.task(layer, direction, rows), network.timeline(), buffers);
      if (is_shared) arena.go_to(begin);
      chains.back().take_memory(arena);
    }
  arena.go_to(arena.most());
  return chains;
}

void run_in_order(std::vector<Chain>& chains) {
  for (Chain& chain : chains)
    for (int64_t chunk = 0; chunk < chain.chunks(); ++chunk) {
      chain.project(chunk);
      chain.recur(chunk);
    }
}

void append_stages(std::vector<Stage>& stages, Chain& chain, int before) {
  const int64_t ahead = chain.buffers();
  stages.push_back({[&chain](int64_t i) { chain.project(i); }, chain.chunks(), before, ahead});
  const int project = static_cast<int>(stages.size()) - 1;
  stages.push_back({[&chain](int64_t i) { chain.recur(i); }, chain.chunks(), project, 0});
}

// One block for all threads: layers follow each other chunk by chunk. The two directions of a layer run
// side by side, and the next layer needs the ends of both.
void run_as_pipeline(std::vector<Chain>& chains, int64_t directions, int threads) {
  if (directions == 1) {
    std::vector<Stage> stages;
    for (Chain& chain : chains) append_stages(stages, chain, static_cast<int>(stages.size()) - 1);
    Pipeline(std::move(stages)).run(threads);
    return;
  }
  for (size_t layer = 0; layer < chains.size(); layer += 2) {
    std::vector<Stage> stages;
    append_stages(stages, chains[layer], -1);
    append_stages(stages, chains[layer + 1], -1);
    Pipeline(std::move(stages)).run(threads);
  }
}

}  // namespace

void run_recurrent(const RecurrentCall& call) {
  if (call.layers <= 0 || call.batch <= 0 || call.steps <= 0) return;
  Network network(call);
  const int threads = network.work() < kSmallestParallelWork ? 1 : call.threads;
  const bool by_rows = threads == 1 || call.batch >= kSmallestRowShare * threads;
  const std::vector<Share> shares = network.timeline().split(call.batch, by_rows ? threads : 1);
  std::vector<std::vector<Chain>> blocks;
  const auto assemble = [&](Arena arena) {
    blocks.clear();
    network.take_memory(arena);
    for (const Share& rows : shares)
      blocks.push_back(make_chains(call, network, rows, by_rows ? 1 : 2, by_rows, arena));
    return arena.most();
  };
  const int64_t bytes = assemble(Arena());
  Scratch scratch(bytes);
  assemble(Arena(scratch.take<uint8_t>(bytes)));
  if (!by_rows) {
    run_as_pipeline(blocks.front(), call.directions, threads);
    return;
  }
  run_parallel(threads, [&](int thread, int count) {
    for (size_t i = static_cast<size_t>(thread); i < blocks.size(); i += static_cast<size_t>(count))
      run_in_order(blocks[i]);
  });
}

}  // namespace intaglio
