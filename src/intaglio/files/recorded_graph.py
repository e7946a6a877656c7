"""A forward pass written down: the data that a file holds of it, and its JSON.

A graph is a list of steps in order; a step's arguments name earlier steps by number, the graph's inputs
being the first numbers. Optional inputs (`mask=None`) change what a forward does, so there is a variant
for each choice of the optional inputs that are given. A graph that is a module of the model's tree, from
`convert_fx`, is a `RegionGraph` instead. tracing.py and regions.py record graphs, recorded_model.py runs
them. May import strict_json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from intaglio.errors import FileFormatError
from intaglio.files.strict_json import Fields

__all__ = [
    "Argument",
    "Placeholder",
    "RecordedGraph",
    "RegionGraph",
    "Step",
    "Variant",
    "graph_from_fields",
    "graph_to_json",
    "region_from_fields",
    "region_to_json",
]

StepKind = Literal["module", "tensor", "function", "method", "attribute", "python"]
ArgumentKind = Literal["input", "optional", "fixed"]


@dataclass(frozen=True)
class Argument:
    """An argument of the forward: a tensor to be given, one that may be None, or fixed at its default.

    `default` is an encoded value (values.py), for a fixed argument only. `only_tensor` says that the forward
    asked whether the argument is a tensor: then it was recorded as for one.
    """

    name: str
    kind: ArgumentKind
    default: Any = None
    only_tensor: bool = False


@dataclass(frozen=True)
class Step:
    """One operation: a module's call, a tensor of the model, a function, a tensor's method or attribute.

    A step of the kind `python` calls a function or a class of the user's.
    `args` and `kwargs` are encoded values; the tensor whose method or attribute it is comes first.
    """

    kind: StepKind
    target: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Variant:
    """What the forward does when the optional arguments of `given` are given: steps and what they return."""

    given: tuple[str, ...]
    steps: tuple[Step, ...]
    output: Any


@dataclass(frozen=True)
class RecordedGraph:
    """A forward pass: its arguments, and a variant for each choice of optional arguments.

    `refused` has the choices that could not be recorded, with the reason.
    """

    arguments: tuple[Argument, ...]
    variants: tuple[Variant, ...]
    refused: tuple[tuple[tuple[str, ...], str], ...] = ()

    def inputs_of(self, variant: Variant) -> list[str]:
        """The names of a variant's inputs, in order: the graph's first numbers."""
        given = {argument.name for argument in self.arguments if argument.kind == "input"} | {*variant.given}
        return [argument.name for argument in self.arguments if argument.name in given]


@dataclass(frozen=True)
class Placeholder:
    """An argument of a region: a name, with stars for the rest, and an encoded default if it has one."""

    name: str
    has_default: bool = False
    default: Any = None


@dataclass(frozen=True)
class RegionGraph:
    """What a `torch.fx.GraphModule` computes: its arguments, its steps, and what they return."""

    inputs: tuple[Placeholder, ...]
    steps: tuple[Step, ...]
    output: Any


def region_to_json(graph: RegionGraph) -> dict[str, Any]:
    """The region as JSON values."""
    return {
        "inputs": [
            {"name": p.name} | ({"default": p.default} if p.has_default else {}) for p in graph.inputs
        ],
        "steps": [_step_to_json(step) for step in graph.steps],
        "output": graph.output,
    }


def region_from_fields(fields: Fields) -> RegionGraph:
    """Read a region; as for `graph_from_fields`."""
    if "output" not in fields.value:
        raise FileFormatError(f"{fields.what} lacks 'output'")
    inputs = fields.each(
        "inputs", lambda f: Placeholder(f.text("name"), "default" in f.value, f.value.get("default"))
    )
    return RegionGraph(inputs, fields.each("steps", _read_step), fields.value["output"])


def graph_to_json(graph: RecordedGraph) -> dict[str, Any]:
    """The graph as JSON values."""
    return {
        "arguments": [
            {"name": a.name, "kind": a.kind}
            | ({"default": a.default} if a.kind == "fixed" else {})
            | ({"only_tensor": True} if a.only_tensor else {})
            for a in graph.arguments
        ],
        "variants": [
            {"given": v.given, "steps": [_step_to_json(step) for step in v.steps], "output": v.output}
            for v in graph.variants
        ],
        "refused": [{"given": given, "reason": reason} for given, reason in graph.refused],
    }


def _step_to_json(step: Step) -> dict[str, Any]:
    value: dict[str, Any] = {"kind": step.kind, "target": step.target}
    if step.args:
        value["args"] = step.args
    if step.kwargs:
        value["kwargs"] = step.kwargs
    return value


def graph_from_fields(fields: Fields) -> RecordedGraph:
    """Read a graph; `FileFormatError` for what is none. Targets and values are checked when it is built."""
    arguments = fields.each("arguments", _read_argument)
    names = [argument.name for argument in arguments]
    if len(set(names)) < len(names):
        raise FileFormatError(f"{fields.what} names an argument twice")
    optional = {argument.name for argument in arguments if argument.kind == "optional"}
    variants = fields.each("variants", _read_variant)
    if not variants or any(not optional.issuperset(variant.given) for variant in variants):
        raise FileFormatError(f"{fields.what} has no variant, or one whose arguments are not optional ones")
    refused = fields.each("refused", lambda item: (_given(item), item.text("reason")))
    return RecordedGraph(arguments, variants, refused)


def _read_argument(fields: Fields) -> Argument:
    name, kind = fields.text("name"), fields.text("kind")
    if kind not in get_args(ArgumentKind):
        raise FileFormatError(f"{fields.what} has the unknown kind {kind[:40]!r}")
    only_tensor = fields.flag("only_tensor", default=False)
    return Argument(name, kind, fields.value.get("default"), only_tensor)  # type: ignore[arg-type]


def _read_variant(fields: Fields) -> Variant:
    if "output" not in fields.value:
        raise FileFormatError(f"{fields.what} lacks 'output'")
    return Variant(_given(fields), fields.each("steps", _read_step), fields.value["output"])


def _given(fields: Fields) -> tuple[str, ...]:
    given = fields.array("given")
    if not all(isinstance(name, str) for name in given):
        raise FileFormatError(f"{fields.what}: 'given' must be a list of names")
    return tuple(given)


def _read_step(fields: Fields) -> Step:
    kind = fields.text("kind")
    if kind not in get_args(StepKind):
        raise FileFormatError(f"{fields.what} has the unknown kind {kind[:40]!r}")
    return Step(kind, fields.text("target"), fields.array("args"), fields.mapping("kwargs"))  # type: ignore[arg-type]
