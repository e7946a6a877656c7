// The kernels for AVX-512 F/BW/DQ/VL + VNNI.
#include "kernels.h"
#include "vec_avx512-inl.h"

#define INTAGLIO_TABLE kAvx512VnniKernels
#define INTAGLIO_TABLE_NAME "avx512_vnni"
#include "table-inl.h"
