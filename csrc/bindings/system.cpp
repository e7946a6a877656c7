// Instruction sets, the list of kernels, and the machine's measured limits.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../kernels/kernels.h"
#include "../program/parallel.h"
#include "bindings.h"

namespace nb = nanobind;

namespace intaglio {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

const KernelTable& table_named(const std::string& isa) {
  const KernelTable* table = kernels_of(isa.c_str());
  if (table == nullptr) throw std::invalid_argument("this CPU has no instruction set '" + isa + "'");
  return *table;
}

// Operations a second of the best of many short runs that together take about `seconds`.
double best_rate(int64_t (*loop)(int64_t) noexcept, double seconds) {
  nb::gil_scoped_release release;
  double best = 0.0;
  const auto start = Clock::now();
  do {
    const auto begin = Clock::now();
    const int64_t operations = loop(20'000);
    best = std::max(best, static_cast<double>(operations) / seconds_since(begin));
  } while (seconds_since(start) < seconds);
  return best;
}

double measure_read_bandwidth(int64_t bytes, double seconds) {
  nb::gil_scoped_release release;
  Scratch scratch(bytes);
  uint8_t* data = scratch.take<uint8_t>(bytes);
  std::fill(data, data + bytes, uint8_t{1});
  const KernelTable& kernels = active_kernels();
  volatile int64_t sink = kernels.read_bytes(data, bytes);
  double best = 0.0;
  const auto start = Clock::now();
  do {
    const int64_t repeats = std::max<int64_t>(1, (int64_t{4} << 20) / bytes);
    const auto begin = Clock::now();
    for (int64_t i = 0; i < repeats; ++i) sink = kernels.read_bytes(data, bytes);
    best = std::max(best, static_cast<double>(bytes * repeats) / seconds_since(begin));
  } while (seconds_since(start) < seconds);
  (void)sink;
  return best;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (int i = 0; i < static_cast<int>(Isa::kCount); ++i)
    if (kernels_of(static_cast<Isa>(i)) != nullptr) names.emplace_back(isa_name(static_cast<Isa>(i)));
  return names;
}

// Weights that were freed between others that stay leave holes in the heap, which count as resident.
void release_free_memory() {
#ifdef __GLIBC__
  nb::gil_scoped_release release;
  malloc_trim(0);
#endif
}

}  // namespace

void bind_system(nb::module_& m) {
  m.def(
      "active_isa", [] { return std::string(active_kernels().name); }, "Name of the instruction set in use.");
  m.def(
      "force_isa", [](const std::string& name) { force_isa(name.c_str()); }, nb::arg("name"),
      "Use another instruction set from now on; weights packed before must be packed again.");
  m.def("available_isas", &available_isas, "Instruction sets compiled in that this CPU can run.");
  m.def(
      "kernel_names",
      [] {
        return std::vector<std::string>{
#define INTAGLIO_KERNEL(name, Args) #name,
#include "../kernels/kernels.inc"
#undef INTAGLIO_KERNEL
        };
      },
      "The list of kernels.");
  m.def("release_free_memory", &release_free_memory,
        "Give the heap's free pages back to the system, where the allocator can.");
  m.def("vector_lanes", [] { return active_kernels().lanes; }, "float32 lanes of a vector in use.");
  m.def(
      "measure_peak_int8",
      [](const std::string& isa, double seconds) { return best_rate(table_named(isa).peak_int8, seconds); },
      nb::arg("isa"), nb::arg("seconds") = 0.05,
      "Measured int8 multiply-add peak of one core, operations a second.");
  m.def(
      "measure_peak_f32",
      [](const std::string& isa, double seconds) { return best_rate(table_named(isa).peak_float, seconds); },
      nb::arg("isa"), nb::arg("seconds") = 0.05,
      "Measured float32 multiply-add peak of one core, operations a second.");
  m.def("measure_read_bandwidth", &measure_read_bandwidth, nb::arg("size"), nb::arg("seconds") = 0.05,
        "Measured rate at which one core reads a buffer of `size` bytes again and again, bytes a second.");
}

}  // namespace intaglio
