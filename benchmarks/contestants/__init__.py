"""The contestants, in the order of the tables. One file a runtime; a new peer is a file and a line here."""

from __future__ import annotations

from benchmarks.contestants.contestant import Contestant, Program
from benchmarks.contestants.convolutions import (
    IntaglioConv,
    IntaglioConvKernel,
    IntaglioDirectForm,
    LegacyConvFbgemm,
    LegacyConvOnednn,
)
from benchmarks.contestants.intaglio_dynamic import Intaglio, IntaglioKernel, IntaglioModules
from benchmarks.contestants.onnx_runtime import OnnxRuntimeDynamic
from benchmarks.contestants.openvino_int8 import OpenVinoDynamic, OpenVinoFloat, OpenVinoStatic
from benchmarks.contestants.torch_eager import LegacyFbgemm, LegacyOnednn, TorchFloat
from benchmarks.contestants.torchao_compiled import TorchaoCompiled

__all__ = [
    "CONTESTANTS",
    "Contestant",
    "Intaglio",
    "Program",
    "TorchFloat",
    "contestants_of",
    "describe_contestants",
]

CONTESTANTS: tuple[type[Contestant], ...] = (
    Intaglio,
    IntaglioModules,
    IntaglioKernel,
    TorchFloat,
    LegacyFbgemm,
    LegacyOnednn,
    OnnxRuntimeDynamic,
    OpenVinoStatic,
    OpenVinoDynamic,
    OpenVinoFloat,
    TorchaoCompiled,
)

# Of single convolutions, quantized statically.
CONVOLUTIONS: tuple[type[Contestant], ...] = (
    IntaglioConv,
    IntaglioConvKernel,
    IntaglioDirectForm,
    TorchFloat,
    LegacyConvFbgemm,
    LegacyConvOnednn,
)


def contestants_of(group: str) -> tuple[type[Contestant], ...]:
    """Those of a group of workloads, in the order of its tables."""
    if group == "convolutions":
        return CONVOLUTIONS
    return tuple(kind for kind in CONTESTANTS if group not in kind.skips)


def describe_contestants() -> dict[str, str]:
    """How each is set up, by name; convolutions have contestants of their own."""
    described = {kind.name: kind.configuration for kind in CONTESTANTS}
    for kind in CONVOLUTIONS:
        before = described.get(kind.name)
        if before is None:
            described[kind.name] = kind.configuration
        elif before != kind.configuration:
            described[kind.name] = f"{before}; for convolutions {kind.configuration}"
    return described
