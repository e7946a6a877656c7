// The Python module `intaglio._core`.
#include "bindings.h"

NB_MODULE(_core, m) {
  m.doc() = "The C++ core of intaglio: kernels behind raw addresses. Use intaglio.ops instead.";
  intaglio::bind_system(m);
  intaglio::bind_gemm(m);
  intaglio::bind_half(m);
  intaglio::bind_recurrent(m);
  intaglio::bind_conv(m);
  intaglio::bind_conv_static(m);
  intaglio::bind_embedding(m);
  intaglio::bind_layout(m);
  intaglio::bind_elementwise(m);
  intaglio::bind_pooling(m);
  intaglio::bind_matmul(m);
  intaglio::bind_normalize(m);
  intaglio::bind_resize(m);
  intaglio::bind_fake_quantize(m);
  intaglio::bind_rows(m);
  intaglio::bind_float_tensors(m);
}
