// Plans: kernel calls that one call runs.
#include "../program/plan.h"

#include "driver.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace intaglio {

nb::class_<Plan> bind_plan(nb::module_& m) {
  nb::class_<Plan> plan(m, "Plan",
                        "Kernel calls in order over one arena; a method for each driver adds one.");
  plan.def(nb::init<int64_t, int>(), "arena_bytes"_a, "keeps"_a);
  plan.def("__len__", &Plan::size);
  plan.def("arenas", &Plan::arenas, "Arenas that are kept or lent.");
  plan.def(
      "run",
      [](Plan& self, const std::vector<uintptr_t>& bases, int threads) {
        const nb::gil_scoped_release release;
        const LentArena arena(self);
        self.run(0, self.size(), arena.memory(), bases, threads);
      },
      "bases"_a, "threads"_a, "Run everything.");
  plan.def("take_arena", [](Plan& self) { return reinterpret_cast<uintptr_t>(self.take_arena()); });
  plan.def("give_arena",
           [](Plan& self, uintptr_t arena) { self.give_arena(reinterpret_cast<uint8_t*>(arena)); });
  plan.def(
      "run_part",
      [](Plan& self, int64_t first, int64_t last, uintptr_t arena, const std::vector<uintptr_t>& bases,
         int threads) {
        const nb::gil_scoped_release release;
        self.run(first, last, reinterpret_cast<uint8_t*>(arena), bases, threads);
      },
      "first"_a, "last"_a, "arena"_a, "bases"_a, "threads"_a, "Run steps first..last-1.");
  plan.def(
      "time_part",
      [](Plan& self, int64_t first, int64_t last, uintptr_t arena, const std::vector<uintptr_t>& bases,
         int threads) {
        const nb::gil_scoped_release release;
        return self.time(first, last, reinterpret_cast<uint8_t*>(arena), bases, threads);
      },
      "first"_a, "last"_a, "arena"_a, "bases"_a, "threads"_a, "The same, and the seconds of each step.");
  return plan;
}

}  // namespace intaglio
