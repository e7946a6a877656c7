// The kernels for AVX-VNNI: 256-bit vpdpbusd with VEX encoding.
#include "kernels.h"

#define INTAGLIO_VNNI "vex"
#define INTAGLIO_VNNI_ISA Isa::kAvxVnni
#include "vec_256-inl.h"

#define INTAGLIO_TABLE kAvxVnniKernels
#define INTAGLIO_TABLE_NAME "avx_vnni"
#include "table-inl.h"
