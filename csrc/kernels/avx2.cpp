// The kernels for AVX2 + FMA + F16C.
#include "kernels.h"
#include "vec_256-inl.h"

#define INTAGLIO_TABLE kAvx2Kernels
#define INTAGLIO_TABLE_NAME "avx2"
#include "table-inl.h"
