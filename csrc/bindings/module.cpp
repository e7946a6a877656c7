// The Python module `intaglio._core`.
#include "driver.h"

NB_MODULE(_core, m) {
  // A program that lives until the interpreter ends is no leak.
  nanobind::set_leak_warnings(false);
  m.doc() = "The C++ core of intaglio: kernels behind raw addresses. Use intaglio.ops instead.";
  intaglio::bind_system(m);
  auto plan = intaglio::bind_plan(m);
  intaglio::Bindings b{m, plan};
  intaglio::bind_copy(b);
  intaglio::bind_gemm(b);
  intaglio::bind_half(b);
  intaglio::bind_recurrent(b);
  intaglio::bind_conv(b);
  intaglio::bind_conv_static(b);
  intaglio::bind_embedding(b);
  intaglio::bind_layout(b);
  intaglio::bind_elementwise(b);
  intaglio::bind_pooling(b);
  intaglio::bind_matmul(b);
  intaglio::bind_normalize(b);
  intaglio::bind_resize(b);
  intaglio::bind_fake_quantize(m);
  intaglio::bind_rows(b);
  intaglio::bind_float_tensors(b);
}
