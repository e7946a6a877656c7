// Running a plan's steps, and the arenas that its calls borrow.
#include "plan.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace intaglio {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kBasesBefore = 2;  // address 0 and the arena

}  // namespace

Plan::~Plan() {
  for (uint8_t* arena : kept_) std::free(arena);
}

template <class Around>
void Plan::each(int64_t first, int64_t last, uint8_t* arena, const std::vector<uintptr_t>& bases, int threads,
                const Around& around) const {
  if (first < 0 || first > last || last > size()) throw std::invalid_argument("the plan has no such steps");
  std::vector<uintptr_t> all(kBasesBefore + bases.size());
  all[1] = reinterpret_cast<uintptr_t>(arena);
  std::copy(bases.begin(), bases.end(), all.begin() + kBasesBefore);
  const Frame frame{all.data(), threads};
  for (int64_t i = first; i < last; ++i) {
    const Step& step = steps_[static_cast<size_t>(i)];
    try {
      around([&] { step.work(frame); });
    } catch (const std::out_of_range& error) {
      throw std::out_of_range(step.label + ": " + error.what());
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(step.label + ": " + error.what());
    }
  }
}

void Plan::run(int64_t first, int64_t last, uint8_t* arena, const std::vector<uintptr_t>& bases,
               int threads) const {
  each(first, last, arena, bases, threads, [](const auto& work) { work(); });
}

std::vector<double> Plan::time(int64_t first, int64_t last, uint8_t* arena,
                               const std::vector<uintptr_t>& bases, int threads) const {
  std::vector<double> seconds;
  each(first, last, arena, bases, threads, [&](const auto& work) {
    const Clock::time_point start = Clock::now();
    work();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  });
  return seconds;
}

uint8_t* Plan::take_arena() {
  {
    const std::lock_guard<std::mutex> hold(lock_);
    ++lent_;
    if (!kept_.empty()) {
      uint8_t* arena = kept_.back();
      kept_.pop_back();
      return arena;
    }
  }
  const auto bytes = static_cast<size_t>(aligned_size(std::max<int64_t>(arena_bytes_, 1)));
  void* memory = std::aligned_alloc(64, bytes);
  if (memory == nullptr) {
    const std::lock_guard<std::mutex> hold(lock_);
    --lent_;
    throw std::bad_alloc();
  }
  return static_cast<uint8_t*>(memory);
}

void Plan::give_arena(uint8_t* arena) noexcept {
  {
    const std::lock_guard<std::mutex> hold(lock_);
    --lent_;
    if (kept_.size() < static_cast<size_t>(keeps_)) {
      kept_.push_back(arena);
      return;
    }
  }
  std::free(arena);
}

int64_t Plan::arenas() const {
  const std::lock_guard<std::mutex> hold(lock_);
  return lent_ + static_cast<int64_t>(kept_.size());
}

}  // namespace intaglio
