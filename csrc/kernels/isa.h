// The instruction sets that kernels are compiled for, in the order of preference.
//
// ARM (dotprod, i8mm) takes its place here, in dispatch.cpp and in CMakeLists.txt: one more Vec file
// and one more translation unit; no kernel's source changes.
#pragma once

namespace intaglio {

enum class Isa : int {
  kScalar = 0,
  kAvx2 = 1,         // AVX2 + FMA + F16C
  kAvxVnni = 2,      // VEX-encoded 256-bit vpdpbusd
  kAvxVnniEvex = 3,  // the source of kAvxVnni with EVEX encodings: proves it where VEX VNNI is missing
  kAvx512Vnni = 4,   // AVX-512 F/BW/DQ/VL + VNNI
  kCount = 5,
};

}  // namespace intaglio
