"""The tools that quantize a whole model, given calls of it: ours, the legacy FX mode, and torchao's PT2E.

Each is set up as its own documentation says, and may fail at any model in any way: `quantize` tells the step
that it is at. Neighbours: `measuring` calls them.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import fx, nn

import intaglio
from benchmarks.coverage.subjects import Subject
from intaglio.graph_passes.examples import Call
from intaglio.nn.quantized import QuantizedModule
from intaglio.quantize_fx import graph_record

__all__ = ["CANDIDATES", "OUR_NAME", "Candidate"]

OUR_NAME = "intaglio"

OnStep = Callable[[str], None]


class Candidate(ABC):
    """A tool.

    Attributes:
        name: its columns in the table.
        configuration: how it is set up, one line for the report.
        compiles: the form that is compared is not the one to time, and making that takes long.
    """

    name: ClassVar[str]
    configuration: ClassVar[str]
    compiles: ClassVar[bool] = False

    @abstractmethod
    def quantize(self, subject: Subject, *, is_dynamic: bool, on_step: OnStep) -> Any:
        """The quantized form of the subject's module, which stays as it is."""

    @abstractmethod
    def is_quantized(self, model: Any) -> bool:
        """Whether anything in a form computes in int8."""

    def compile(self, model: Any, call: Call) -> Any:
        """The form that is timed, for calls of the sizes of `call`."""
        return model

    def describe(self, model: Any) -> dict[str, Any]:
        """Fields of an `Outcome` that tell what was done with the model."""
        return {}


class Intaglio(Candidate):
    """Ours."""

    name = OUR_NAME
    configuration = (
        "`prepare_fx` with `get_default_qconfig_mapping()` (dynamic: `default_dynamic_qconfig`, of a "
        "language model `per_group_dynamic_qconfig`)"
    )

    def quantize(self, subject: Subject, *, is_dynamic: bool, on_step: OnStep) -> Any:
        """Prepare, calibrate, convert."""
        mapping = intaglio.get_default_qconfig_mapping()
        if is_dynamic:
            presets = (intaglio.default_dynamic_qconfig, intaglio.per_group_dynamic_qconfig)
            mapping = intaglio.QConfigMapping().set_global(presets[subject.in_groups])
        on_step("prepare")
        prepared = intaglio.prepare_fx(subject.module, mapping, subject.calibration[0])
        on_step("calibrate")
        _run_all(prepared, subject.calibration)
        on_step("convert")
        return intaglio.convert_fx(prepared)

    def is_quantized(self, model: Any) -> bool:
        """Look for our modules."""
        return any(isinstance(part, QuantizedModule) for part in model.modules())

    def describe(self, model: Any) -> dict[str, Any]:
        """What the model's own record says."""
        record = graph_record(model)
        if record is None:
            return {}
        return {
            "graphs": list(record.graphs),
            "left": dict(record.left),
            "floats": dict(record.floats),
            "macs": record.macs,
            "int8_macs": record.int8_macs,
        }


class Legacy(Candidate):
    """`torch.ao.quantization.quantize_fx`."""

    engine: ClassVar[str]

    def quantize(self, subject: Subject, *, is_dynamic: bool, on_step: OnStep) -> Any:
        """Prepare, calibrate, convert."""
        from torch.ao import quantization
        from torch.ao.quantization import quantize_fx

        torch.backends.quantized.engine = self.engine
        on_step("prepare")
        mapping = quantization.get_default_qconfig_mapping(self.engine)
        if is_dynamic:
            # Its recurrent layers know no weights per channel.
            mapping = quantization.QConfigMapping().set_global(quantization.per_channel_dynamic_qconfig)
            for kind in (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell):
                mapping.set_object_type(kind, quantization.default_dynamic_qconfig)
            mapping.set_object_type(nn.Embedding, quantization.float_qparams_weight_only_qconfig)
        example = subject.calibration[0]
        # It takes positional arguments alone as an example; calls may have others.
        prepared = quantize_fx.prepare_fx(subject.module, mapping, example.args)
        on_step("calibrate")
        _run_all(prepared, subject.calibration)
        on_step("convert")
        return quantize_fx.convert_fx(prepared)

    def is_quantized(self, model: Any) -> bool:
        """Look for modules and functions of its own."""
        modules = any(".quantized" in type(part).__module__ for part in model.modules())
        return modules or _calls(model, "quantized.")


class LegacyX86(Legacy):
    """PyTorch's default on x86."""

    name = "legacy FX, x86"
    configuration = (
        "`torch.ao.quantization.quantize_fx`, `get_default_qconfig_mapping('x86')` (dynamic: "
        "`per_channel_dynamic_qconfig`, recurrent layers `default_dynamic_qconfig`, embeddings weight only)"
    )
    engine = "x86"


class LegacyOnednn(Legacy):
    """Without the bit that the x86 default gives away."""

    name = "legacy FX, onednn"
    configuration = "the same with 'onednn'"
    engine = "onednn"


class Pt2e(Candidate):
    """torchao on an exported program, compiled by Inductor."""

    name = "torchao PT2E"
    configuration = (
        "`torch.export`, `X86InductorQuantizer` with its default configuration, `prepare_pt2e`, "
        "`convert_pt2e`, `torch.compile` with freezing; exported for the sizes of the example, as its "
        "documentation does"
    )
    compiles = True

    def quantize(self, subject: Subject, *, is_dynamic: bool, on_step: OnStep) -> Any:
        """Export, prepare, calibrate, convert; strict export where the program of the other kind fails."""
        try:
            return self._quantize(subject, is_dynamic, on_step, strict=False)
        except Exception as error:  # whatever is raised by a tool that is not ours
            try:
                return self._quantize(subject, is_dynamic, lambda step: None, strict=True)
            except Exception:
                raise error from None

    def _quantize(self, subject: Subject, is_dynamic: bool, on_step: OnStep, *, strict: bool) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao.quantization import pt2e
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        on_step("export")
        call = subject.calibration[0].copied()
        exported = torch.export.export(subject.module, call.args, call.kwargs, strict=strict).module()
        on_step("prepare")
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=is_dynamic))
        prepared = prepare_pt2e(exported, quantizer)
        on_step("calibrate")
        _run_all(prepared, subject.calibration)
        on_step("convert")
        converted = convert_pt2e(prepared)
        pt2e.move_exported_model_to_eval(converted)
        return converted

    def is_quantized(self, model: Any) -> bool:
        """Look for the operators that Inductor lowers to int8."""
        return _calls(model, "quantized_decomposed.", "torchao.quantize", "torchao.dequantize")

    def compile(self, model: Any, call: Call) -> Any:
        """Compile for exactly these sizes."""
        from torch._inductor import config

        config.freezing = True
        compiled = torch.compile(model)
        call.run(compiled)
        return compiled


CANDIDATES: tuple[type[Candidate], ...] = (Intaglio, LegacyX86, LegacyOnednn, Pt2e)


def _run_all(model: Any, calls: Sequence[Call]) -> None:
    for call in calls:
        call.run(model)


def _calls(model: Any, *names: str) -> bool:
    """Whether a graph in `model` calls an operator whose name has one of `names` in it."""
    graphs = [part.graph for part in model.modules() if isinstance(part, fx.GraphModule)]
    targets = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"}
    return any(name in target for target in targets for name in names)
