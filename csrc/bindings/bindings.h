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

void bind_system(nanobind::module_& m);
void bind_gemm(nanobind::module_& m);
void bind_half(nanobind::module_& m);
void bind_recurrent(nanobind::module_& m);
void bind_conv(nanobind::module_& m);
void bind_conv_static(nanobind::module_& m);
void bind_embedding(nanobind::module_& m);
void bind_layout(nanobind::module_& m);
void bind_elementwise(nanobind::module_& m);
void bind_pooling(nanobind::module_& m);
void bind_matmul(nanobind::module_& m);
void bind_normalize(nanobind::module_& m);
void bind_resize(nanobind::module_& m);
void bind_fake_quantize(nanobind::module_& m);
void bind_rows(nanobind::module_& m);
void bind_float_tensors(nanobind::module_& m);

}  // namespace intaglio
