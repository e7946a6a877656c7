"""What a program is made of: a model's layers, its graphs, and how it is called.

May import graph, files, errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from intaglio.errors import InputError
from intaglio.files.recorded_graph import RecordedGraph
from intaglio.runtime.graph import Graph, Layer, Node, Value, decode_steps

__all__ = ["Layers", "Model", "Parameter", "model_of_layer", "model_of_recorded", "model_of_region"]


class Layers(dict[str, Layer]):
    """Layers by path; a path below another name of a shared layer finds what is below the first."""

    def __init__(self, layers: Mapping[str, Layer], aliases: Mapping[str, str]) -> None:
        super().__init__(layers)
        self.aliases = aliases

    def __missing__(self, path: str) -> Layer:
        for alias, first in self.aliases.items():
            if path == alias or path.startswith(f"{alias}."):
                found = first + path[len(alias) :]
                if found in self:
                    return self[found]
        raise KeyError(path)


@dataclass(frozen=True)
class Parameter:
    """An argument of the model's forward; without `needed` it may be left out and is `default` then."""

    name: str
    needed: bool = True
    default: Any = None
    fixed: bool = False


@dataclass(frozen=True)
class Model:
    """Layers, graphs by the path of the module that each is, and the graph of each way to call the whole.

    `variants` has a graph for every set of optional arguments that may be given.
    """

    name: str
    layers: Layers
    graphs: Mapping[str, Graph]
    parameters: tuple[Parameter, ...]
    variants: Mapping[frozenset[str], Graph]
    refused: Mapping[frozenset[str], str] = field(default_factory=dict)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Graph, list[Any]]:
        """The graph of a call and its inputs, in order; `InputError` for a call that cannot be."""
        values = self._named(args, kwargs)
        for parameter in self.parameters:
            value = values.get(parameter.name, parameter.default)
            if parameter.needed and parameter.name not in values:
                raise InputError(f"{self.name} needs a value for {parameter.name!r}")
            if parameter.fixed and parameter.name in values and value != parameter.default:
                raise InputError(
                    f"{self.name} was recorded with {parameter.name}={parameter.default!r}, "
                    f"which cannot be {value!r:.60} now"
                )
            values[parameter.name] = value
        optional = {p.name for p in self.parameters if not p.needed and not p.fixed}
        given = frozenset(name for name in optional if values[name] is not None)
        graph = self.variants.get(given) or self.variants.get(frozenset(optional))
        if graph is None:
            reason = self.refused.get(given)
            raise InputError(
                f"{self.name} was not recorded with "
                f"{', '.join(sorted(given)) or 'no optional argument'} given"
                + (f" ({reason})" if reason else "")
            )
        return graph, [values[name] for name in graph.inputs]

    def _named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name; what is beyond the names goes to those with stars."""
        names = [p.name for p in self.parameters if not p.name.startswith("*")]
        rest = next((p.name for p in self.parameters if p.name[:1] == "*" != p.name[1:2]), None)
        named = next((p.name for p in self.parameters if p.name.startswith("**")), None)
        unknown = {name: value for name, value in kwargs.items() if name not in names[len(args) :]}
        if (len(args) > len(names) and rest is None) or (unknown and named is None):
            raise InputError(f"{self.name} takes ({', '.join(names)}), not {len(args)} and {sorted(kwargs)}")
        values = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k not in unknown}
        beyond = {} if rest is None else {rest: tuple(args[len(names) :])}
        return values | beyond | ({} if named is None else {named: unknown})


def model_of_recorded(
    name: str, layers: Layers, graphs: Mapping[str, Graph], recorded: RecordedGraph
) -> Model:
    """The model whose forward was recorded."""
    parameters = tuple(
        Parameter(a.name, a.kind == "input", a.default, a.kind == "fixed") for a in recorded.arguments
    )
    variants = {
        frozenset(v.given): decode_steps(recorded.inputs_of(v), v.steps, v.output, "the graph")
        for v in recorded.variants
    }
    refused = {frozenset(given): reason for given, reason in recorded.refused}
    return Model(name, layers, graphs, parameters, variants, refused)


def model_of_region(name: str, layers: Layers, graphs: Mapping[str, Graph]) -> Model:
    """The model whose root is a graph."""
    graph = graphs[""]
    parameters = tuple(Parameter(n, n not in graph.defaults, graph.defaults.get(n)) for n in graph.inputs)
    optional = frozenset(p.name for p in parameters if not p.needed)
    return Model(name, layers, graphs, parameters, {optional: graph})


def model_of_layer(name: str, layers: Layers, graphs: Mapping[str, Graph]) -> Model:
    """The model that is one layer, or layers in a row, of one input."""
    graph = Graph(("input",), (Node("module", "", (Value(0),)),), Value(1))
    return Model(name, layers, graphs, (Parameter("input"),), {frozenset(): graph})
