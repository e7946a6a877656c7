// Chains of work in order, run by several threads at once.
//
// A stage does its items 0, 1, 2 ... one at a time. Item i may begin when the stage before has done item
// i, and at most `ahead` items further than the stage after it. Threads take whatever may begin, the
// latest stage first, so that what was written last is read while it is still near.
#pragma once

#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel.h"

namespace intaglio {

struct Stage {
  std::function<void(int64_t)> work;  // must not throw
  int64_t items;
  int before;     // index of the stage that feeds this one, or -1
  int64_t ahead;  // 0: no limit
  int64_t done = 0;
  bool is_running = false;
};

// Runs every item of every stage. A stage stands after the one that feeds it; `ahead` looks at the next.
class Pipeline {
 public:
  explicit Pipeline(std::vector<Stage> stages) : stages_(std::move(stages)) {}

  void run(int threads) {
    run_parallel(threads, [&](int, int) {
      while (!is_finished()) {
        Stage* stage = take();
        if (stage == nullptr) {
          std::this_thread::yield();
          continue;
        }
        stage->work(stage->done);
        const std::lock_guard<std::mutex> hold(lock_);
        ++stage->done;
        stage->is_running = false;
      }
    });
  }

 private:
  bool is_finished() {
    const std::lock_guard<std::mutex> hold(lock_);
    return std::all_of(stages_.begin(), stages_.end(), [](const Stage& s) { return s.done == s.items; });
  }

  Stage* take() {
    const std::lock_guard<std::mutex> hold(lock_);
    for (size_t i = stages_.size(); i-- > 0;) {
      Stage& stage = stages_[i];
      if (stage.is_running || stage.done == stage.items) continue;
      if (stage.before >= 0 && stages_[static_cast<size_t>(stage.before)].done <= stage.done) continue;
      if (stage.ahead > 0 && stage.done >= stages_[i + 1].done + stage.ahead) continue;
      stage.is_running = true;
      return &stage;
    }
    return nullptr;
  }

  std::mutex lock_;
  std::vector<Stage> stages_;
};

}  // namespace intaglio
