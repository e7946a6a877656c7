// The parts of the Python module `intaglio._core`; each file binds one family of drivers.
//
// Tensors cross as addresses (`data_ptr()`), sizes and scalars: no torch header, and 0.1 us a call.
// The Python faces in intaglio.ops check shapes and dtypes before an address is taken.
#pragma once

#include <nanobind/nanobind.h>

namespace intaglio {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

struct Bindings;

nanobind::class_<class Plan> bind_plan(nanobind::module_& m);
void bind_copy(Bindings& b);
void bind_system(nanobind::module_& m);
void bind_gemm(Bindings& b);
void bind_half(Bindings& b);
void bind_recurrent(Bindings& b);
void bind_conv(Bindings& b);
void bind_conv_static(Bindings& b);
void bind_embedding(Bindings& b);
void bind_layout(Bindings& b);
void bind_elementwise(Bindings& b);
void bind_pooling(Bindings& b);
void bind_matmul(Bindings& b);
void bind_normalize(Bindings& b);
void bind_resize(Bindings& b);
void bind_fake_quantize(nanobind::module_& m);
void bind_rows(Bindings& b);
void bind_float_tensors(Bindings& b);

}  // namespace intaglio
