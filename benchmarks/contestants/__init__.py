"""The contestants, in the order of the tables. One file a runtime; a new peer is a file and a line here."""

from __future__ import annotations

from benchmarks.contestants.contestant import Contestant, Program
from benchmarks.contestants.intaglio_dynamic import Intaglio, IntaglioKernel
from benchmarks.contestants.onnx_runtime import OnnxRuntimeDynamic
from benchmarks.contestants.openvino_int8 import OpenVinoDynamic, OpenVinoStatic
from benchmarks.contestants.torch_eager import LegacyFbgemm, LegacyOnednn, TorchFloat
from benchmarks.contestants.torchao_compiled import TorchaoCompiled

__all__ = ["CONTESTANTS", "Contestant", "Intaglio", "Program", "TorchFloat"]

CONTESTANTS: tuple[type[Contestant], ...] = (
    Intaglio,
    IntaglioKernel,
    TorchFloat,
    LegacyFbgemm,
    LegacyOnednn,
    OnnxRuntimeDynamic,
    OpenVinoStatic,
    OpenVinoDynamic,
    TorchaoCompiled,
)
