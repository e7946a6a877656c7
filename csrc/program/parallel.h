// The one place where work is split over threads, and the scratch memory that drivers use.
//
// Threads are OpenMP's: torch's wheel carries libgomp under its plain SONAME, so both share one pool.
// The number comes from the caller (torch.get_num_threads()), because OpenMP keeps its own setting for
// each calling thread. Starting and joining costs about a microsecond.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace intaglio {

// Whether this process was forked from one that had loaded the library. OpenMP's threads are not there then,
// and GCC's runtime would wait for them for ever: such a process works on one thread.
bool is_forked() noexcept;

// body(thread, threads) on each of up to `threads` threads; it must not throw.
template <class Body>
void run_parallel(int threads, const Body& body) {
  if (threads <= 1 || is_forked()) {
    body(0, 1);
    return;
  }
#pragma omp parallel num_threads(threads)
  body(omp_get_thread_num(), omp_get_num_threads());
}

struct Share {
  int64_t begin, end;
};

// The part of `count` items, in whole multiples of `grain`, that falls to `thread`.
inline Share share_of(int64_t count, int64_t grain, int thread, int threads) {
  const int64_t grains = (count + grain - 1) / grain;
  return {std::min(count, grains * thread / threads * grain),
          std::min(count, grains * (thread + 1) / threads * grain)};
}

inline int64_t aligned_size(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// 64-byte aligned memory that each calling thread keeps from call to call, up to a limit.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : owned_(bytes > kKept) {
    Kept& kept = mine();
    owned_ = owned_ || kept.lent;
    if (owned_) {
      data_ = allocate(bytes);
      return;
    }
    if (bytes > kept.size) {
      std::free(kept.data);
      kept.data = nullptr;
      kept.size = 0;
      kept.data = allocate(bytes);
      kept.size = bytes;
    }
    kept.lent = true;
    data_ = kept.data;
  }
  ~Scratch() {
    if (owned_)
      std::free(data_);
    else
      mine().lent = false;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // The next `count` values of T, 64-byte aligned.
  template <class T>
  T* take(int64_t count) {
    T* part = reinterpret_cast<T*>(data_ + used_);
    used_ += aligned_size(count * static_cast<int64_t>(sizeof(T)));
    return part;
  }

 private:
  static constexpr int64_t kKept = int64_t{8} << 20;
  struct Kept {
    uint8_t* data = nullptr;
    int64_t size = 0;
    bool lent = false;
    ~Kept() { std::free(data); }
  };
  static Kept& mine() {
    thread_local Kept kept;
    return kept;
  }
  static uint8_t* allocate(int64_t bytes) {
    void* p = std::aligned_alloc(64, static_cast<size_t>(aligned_size(std::max<int64_t>(bytes, 64))));
    if (p == nullptr) throw std::bad_alloc();
    return static_cast<uint8_t*>(p);
  }
  uint8_t* data_ = nullptr;
  int64_t used_ = 0;
  bool owned_;
};

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

}  // namespace intaglio
