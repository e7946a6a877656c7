// The AVX-VNNI kernels with EVEX encodings (AVX-512 VL + VNNI): the same source, so that a CPU without
// VEX VNNI can prove it. Never chosen by itself.
#include "kernels.h"

#define INTAGLIO_VNNI "evex"
#define INTAGLIO_VNNI_ISA Isa::kAvxVnniEvex
#include "vec_256-inl.h"

#define INTAGLIO_TABLE kAvxVnniEvexKernels
#define INTAGLIO_TABLE_NAME "avx_vnni_evex"
#include "table-inl.h"
