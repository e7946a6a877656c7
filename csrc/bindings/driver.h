// Drivers in Python: each is bound once, and is both a function of the module and a step of a plan.
//
// A driver is a function without captures whose operands are `Address`es and whose number of threads is a
// `Threads`. As a function it takes real addresses; `plan.<name>(label, ...)` takes places (program/plan.h)
// in their stead and no threads, and adds the call to the plan.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "../program/plan.h"
#include "bindings.h"

namespace intaglio {

struct Address {
  uintptr_t value = 0;
  Address() = default;
  Address(uintptr_t address) : value(address) {}  // NOLINT: where a driver's kernel is bound alone
  template <class T>
  operator T*() const {  // NOLINT: an operand is whatever its kernel takes
    return reinterpret_cast<T*>(value);
  }
};

template <class T>
T* pointer(Address address) {
  return address;
}

struct Threads {
  int count = 1;
  operator int() const { return count; }
};

}  // namespace intaglio

namespace nanobind::detail {

template <>
struct type_caster<intaglio::Address> {
  NB_TYPE_CASTER(intaglio::Address, const_name("int"))
  bool from_python(handle source, uint8_t flags, cleanup_list* cleanup) noexcept {
    make_caster<uintptr_t> caster;
    if (!caster.from_python(source, flags, cleanup)) return false;
    value.value = caster.value;
    return true;
  }
  static handle from_cpp(intaglio::Address address, rv_policy policy, cleanup_list* cleanup) noexcept {
    return make_caster<uintptr_t>::from_cpp(address.value, policy, cleanup);
  }
};

template <>
struct type_caster<intaglio::Threads> {
  NB_TYPE_CASTER(intaglio::Threads, const_name("int"))
  bool from_python(handle source, uint8_t flags, cleanup_list* cleanup) noexcept {
    make_caster<int> caster;
    if (!caster.from_python(source, flags, cleanup)) return false;
    value.count = caster.value;
    return true;
  }
};

}  // namespace nanobind::detail

namespace intaglio {

// An argument with its places turned into addresses, those in vectors and tuples too.
inline Address resolve(Address place, const Frame& frame) { return frame.address_of(place.value); }
template <class T, class = std::enable_if_t<!std::is_class_v<T> || std::is_same_v<T, std::string>>>
const T& resolve(const T& value, const Frame&) {
  return value;
}
template <class... Parts>
std::tuple<Parts...> resolve(const std::tuple<Parts...>& parts, const Frame& frame) {
  return std::apply([&](const Parts&... each) { return std::tuple<Parts...>(resolve(each, frame)...); },
                    parts);
}
template <class T>
std::vector<T> resolve(const std::vector<T>& items, const Frame& frame) {
  std::vector<T> found;
  found.reserve(items.size());
  for (const T& item : items) found.push_back(resolve(item, frame));
  return found;
}

template <class T>
std::vector<const T*> pointers_to(const std::vector<Address>& addresses) {
  return {addresses.begin(), addresses.end()};
}

// What binds drivers: the module, and the class of plans.
struct Bindings {
  nanobind::module_& module;
  nanobind::class_<Plan>& plan;

  // The driver's last parameter is its Threads; `names` has the names of all but that.
  template <class Driver, class... Names>
  void driver(const char* name, const Driver& driver, const Names&... names) {
    define(name, +driver, names...);
  }

 private:
  template <class... Arguments, class... Names>
  void define(const char* name, void (*driver)(Arguments...), const Names&... names) {
    module.def(
        name,
        [driver](const std::decay_t<Arguments>&... arguments) {
          const nanobind::gil_scoped_release release;
          driver(arguments...);
        },
        names..., nanobind::arg("threads") = 1);
    define_step(name, driver, std::make_index_sequence<sizeof...(Arguments) - 1>{}, names...);
  }

  template <class... Arguments, size_t... kIndex, class... Names>
  void define_step(const char* name, void (*driver)(Arguments...), std::index_sequence<kIndex...>,
                   const Names&... names) {
    using All = std::tuple<std::decay_t<Arguments>...>;
    plan.def(
        name,
        [driver](Plan& self, std::string label, const std::tuple_element_t<kIndex, All>&... arguments) {
          self.add(std::move(label), [driver, kept = std::make_tuple(arguments...)](const Frame& frame) {
            driver(resolve(std::get<kIndex>(kept), frame)..., Threads{frame.threads});
          });
        },
        nanobind::arg("label"), names...);
  }
};

}  // namespace intaglio
