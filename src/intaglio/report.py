"""What was done to a model, said: `summary`.

Each module with weights, quantized or not, why not, and its bytes before and after. May import nn and
below.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from intaglio.eager.dynamic_quantization import RECORD
from intaglio.errors import ConversionError
from intaglio.nn.quantized import QuantizedModule
from intaglio.quantize_fx import SCORES, graph_record

__all__ = ["LayerSummary", "Summary", "summary"]


@dataclass(frozen=True)
class LayerSummary:
    """One module: its path, its class, whether it is quantized, why or how, and its bytes.

    `float_bytes` is the size of its weights in float32, or their size as they are if it is not quantized;
    `bytes` is their size now. Weights that an earlier module holds as well count there alone.
    """

    path: str
    kind: str
    quantized: bool
    note: str
    float_bytes: int
    bytes: int


@dataclass(frozen=True)
class Summary:
    """A model, layer by layer; `str()` is a table.

    A module that stands at several paths is listed at the first.

    left: of a model from graph mode, what stayed Python, by place, with the reason.
    int8_share: of a model from graph mode, which part of the multiply-adds is made in int8.
    scores: what `auto_quantize(evaluate=)` found of the float model and of this one.
    """

    layers: tuple[LayerSummary, ...]
    left: dict[str, str] = field(default_factory=dict)
    int8_share: float | None = None
    scores: tuple[float, float] | None = None

    @property
    def float_bytes(self) -> int:
        """Bytes of the weights in float32."""
        return sum(layer.float_bytes for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes of the weights now."""
        return sum(layer.bytes for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "float_bytes": self.float_bytes,
            "bytes": self.bytes,
            "quantized_layers": sum(layer.quantized for layer in self.layers),
            "layers": [asdict(layer) for layer in self.layers],
            "left": dict(self.left),
            "int8_share": self.int8_share,
            "scores": None if self.scores is None else list(self.scores),
        }

    def __str__(self) -> str:
        rows = [("module", "class", "quantized", "float32", "now", "")]
        for layer in self.layers:
            mark = "yes" if layer.quantized else "no"
            sizes = (_readable(layer.float_bytes), _readable(layer.bytes))
            rows.append((layer.path or "(model)", layer.kind, mark, *sizes, layer.note))
        quantized = sum(layer.quantized for layer in self.layers)
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[5]]).rstrip()
            for row in rows
        ]
        ratio = self.float_bytes / self.bytes if self.bytes else 1.0
        total = (
            f"{quantized} of {len(self.layers)} layers quantized; weights {_readable(self.float_bytes)} -> "
            f"{_readable(self.bytes)} ({ratio:.2f} x smaller)"
        )
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], total, *self._of_the_graph()])

    def _of_the_graph(self) -> list[str]:
        found = []
        if self.int8_share is not None:
            found.append(f"{100 * self.int8_share:.1f} % of the multiply-adds in int8")
        found += [f"left to Python: {place} ({reason})" for place, reason in self.left.items()]
        if self.scores is not None:
            found.append(f"score: {self.scores[0]:.6g} in float, {self.scores[1]:.6g} now")
        return found


def summary(model: nn.Module) -> Summary:
    """What is quantized in `model`, what is not, and why.

    Raises `ConversionError` for what is not an `nn.Module`.

    >>> from intaglio import quantize_dynamic
    >>> summary(quantize_dynamic(nn.Sequential(nn.Linear(64, 64)))).to_dict()["quantized_layers"]
    1
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(f"summary takes an nn.Module, not {type(model).__name__}")
    kept: dict[str, str] = getattr(model, RECORD, {})
    layers: list[LayerSummary] = []
    inside: list[str] = []
    counted: dict[object, str] = {}
    for path, module in model.named_modules():
        if any(path.startswith(prefix) for prefix in inside):
            continue
        if isinstance(module, QuantizedModule):
            inside.append(path + "." if path else "")
            if module.float_bytes() > 0:  # what has no weights is no layer
                layers.append(_quantized(path, module, counted))
        elif any(True for _ in module.parameters(recurse=False)):
            layers.append(_kept(path, module, kept.get(path, "not converted by intaglio"), counted))
    record = graph_record(model)
    if record is None:
        return Summary(tuple(layers), scores=vars(model).get(SCORES))
    share = record.int8_macs / record.macs if record.macs else None
    left = {place or "(model)": reason for place, reason in record.left.items()}
    return Summary(tuple(layers), left, share, vars(model).get(SCORES))


def _quantized(path: str, module: QuantizedModule, counted: dict[object, str]) -> LayerSummary:
    holders = {counted.setdefault(id(tensor), path) for tensor in module.buffers()}
    kind, note = type(module).__name__, module.extra_repr()
    if holders and path not in holders:
        return LayerSummary(path, kind, True, f"{note}, shared with {_names(holders)}", 0, 0)
    float_bytes, now, weight = module.float_bytes(), module.plain_bytes(), module.weight_identity()
    holder = path if weight is None else counted.setdefault(weight, path)
    if holder != path:
        size = math.prod(module.state_spec()["weight"][0])
        note, float_bytes, now = f"{note}, weight shared with '{holder}'", float_bytes - 4 * size, now - size
    return LayerSummary(path, kind, True, note, float_bytes, now)


def _kept(path: str, module: nn.Module, note: str, counted: dict[object, str]) -> LayerSummary:
    size, holders = 0, set[str]()
    for parameter in module.parameters(recurse=False):
        holder = counted.setdefault(id(parameter), path)
        if holder == path:
            size += parameter.numel() * parameter.element_size()
        else:
            holders.add(holder)
    shared = f", shared with {_names(holders)}" if holders else ""
    name = module._get_name()  # type: ignore[no-untyped-call]  # a model loaded without its class still has it
    return LayerSummary(path, name, False, note + shared, size, size)


def _names(paths: set[str]) -> str:
    return " and ".join(f"'{path}'" for path in sorted(paths))


def _readable(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
