// A plan: kernel calls in order over one arena, run by a single call.
//
// A step's operands are places: a base and an offset behind it, 48 bits. Base 0 is address 0, so that a place
// may be an address or nullptr; base 1 is the arena; the others are addresses that the caller brings: inputs
// and outputs. Several threads may run one plan at once: each call has an arena of its own, and a few are
// kept for the next calls.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "parallel.h"

namespace intaglio {

constexpr int kOffsetBits = 48;

struct Frame {
  const uintptr_t* bases;
  int threads;

  uintptr_t address_of(uintptr_t place) const {
    return bases[place >> kOffsetBits] + (place & ((uintptr_t{1} << kOffsetBits) - 1));
  }
};

class Plan {
 public:
  using Work = std::function<void(const Frame&)>;

  // `keeps` arenas outlive the calls that used them.
  Plan(int64_t arena_bytes, int keeps) : arena_bytes_(arena_bytes), keeps_(keeps) {}
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // `label` begins the message of what `work` throws.
  void add(std::string label, Work work) { steps_.push_back({std::move(label), std::move(work)}); }
  int64_t size() const { return static_cast<int64_t>(steps_.size()); }

  // Steps first..last-1 with `bases` behind the arena's. std::invalid_argument for steps that are not there.
  void run(int64_t first, int64_t last, uint8_t* arena, const std::vector<uintptr_t>& bases,
           int threads) const;
  // The same, and the seconds that each step took.
  std::vector<double> time(int64_t first, int64_t last, uint8_t* arena, const std::vector<uintptr_t>& bases,
                           int threads) const;

  uint8_t* take_arena();
  void give_arena(uint8_t* arena) noexcept;
  int64_t arenas() const;  // kept or lent

 private:
  struct Step {
    std::string label;
    Work work;
  };

  template <class Around>
  void each(int64_t first, int64_t last, uint8_t* arena, const std::vector<uintptr_t>& bases, int threads,
            const Around& around) const;

  int64_t arena_bytes_;
  int keeps_;
  std::vector<Step> steps_;
  mutable std::mutex lock_;
  std::vector<uint8_t*> kept_;
  int64_t lent_ = 0;
};

// An arena for as long as a call lasts.
class LentArena {
 public:
  explicit LentArena(Plan& plan) : plan_(plan), memory_(plan.take_arena()) {}
  ~LentArena() { plan_.give_arena(memory_); }
  LentArena(const LentArena&) = delete;
  LentArena& operator=(const LentArena&) = delete;
  uint8_t* memory() const { return memory_; }

 private:
  Plan& plan_;
  uint8_t* memory_;
};

}  // namespace intaglio
