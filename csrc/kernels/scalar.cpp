// The kernels for any CPU. Here the K loop holds one product at a time; it is the fallback, not a rival.
#include "kernels.h"
#include "vec_scalar-inl.h"

#define INTAGLIO_TABLE kScalarKernels
#define INTAGLIO_TABLE_NAME "scalar"
#include "table-inl.h"
