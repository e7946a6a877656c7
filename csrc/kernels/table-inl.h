// Included last by each instruction set's source: its table, filled from the list of kernels.
//
// The including file defines INTAGLIO_TABLE (the variable) and INTAGLIO_TABLE_NAME (its name to users).
// Everything above this line stands in an anonymous namespace and uses no inline function of the
// standard library that could be emitted out of line: the linker keeps one copy of such a function,
// and it could be one that this CPU cannot run.
#pragma once

#include "attention-inl.h"
#include "conv-inl.h"
#include "conv_depthwise-inl.h"
#include "depthwise_static-inl.h"
#include "elementwise-inl.h"
#include "embedding-inl.h"
#include "fake_quantize-inl.h"
#include "finish_rows-inl.h"
#include "float_tensors-inl.h"
#include "gemm-inl.h"
#include "gemm_half-inl.h"
#include "gemm_static-inl.h"
#include "layout-inl.h"
#include "matmul-inl.h"
#include "normalize-inl.h"
#include "peak-inl.h"
#include "pooling-inl.h"
#include "quantize-inl.h"
#include "recurrent-inl.h"
#include "resize-inl.h"
#include "winograd-inl.h"

namespace intaglio {

extern const KernelTable INTAGLIO_TABLE;
const KernelTable INTAGLIO_TABLE = {
    kIsa,
    INTAGLIO_TABLE_NAME,
    kLanes,
#define INTAGLIO_KERNEL(name, Args) &name,
#include "kernels.inc"
#undef INTAGLIO_KERNEL
    &gemm_scratch_bytes,
    &depthwise_scratch_bytes,
    &winograd_scratch_bytes,
    &peak_int8,
    &peak_float,
    &read_bytes,
};

}  // namespace intaglio
