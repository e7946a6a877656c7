// What a process knows of its own forks.
#include "parallel.h"

#include <pthread.h>

#include <atomic>

namespace intaglio {
namespace {

std::atomic<bool> forked{false};

void note_fork() { forked.store(true, std::memory_order_relaxed); }

const int registered = pthread_atfork(nullptr, nullptr, &note_fork);

}  // namespace

bool is_forked() noexcept { return forked.load(std::memory_order_relaxed) && registered == 0; }

}  // namespace intaglio
