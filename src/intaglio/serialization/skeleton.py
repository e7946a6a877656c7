"""From a recipe to modules without tensors, every claim of it checked against the tensors really in the file.

Nothing is allocated from a claim: float layers are built on the meta device, and a quantized module is built
for real only when the tensors in the file are the ones it needs. May import nn, known_layers, recorded_model,
recipe, container and errors.
"""

from __future__ import annotations

import typing
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import fx, nn

from intaglio.errors import FileFormatError
from intaglio.files.recipe import (
    LayerRecord,
    MethodRecord,
    ModuleRecord,
    QuantizedRecord,
    Recipe,
    RegionRecord,
    SharedRecord,
)
from intaglio.nn.quantized import QuantizedModule, quantized_class
from intaglio.serialization.container import TensorSpec
from intaglio.serialization.known_layers import build_layer, holds_any_children, holds_any_tensors
from intaglio.serialization.recorded_model import Part, PythonCode, RecordedModel, build_region

__all__ = [
    "build_graphs",
    "build_known",
    "build_model",
    "build_quantized",
    "check_children",
    "check_owners",
    "check_tensors",
    "place_module",
]

Tensors = Mapping[str, TensorSpec]

_MOST_LAYERS = 1000


def build_quantized(record: QuantizedRecord, tensors: Tensors) -> QuantizedModule:
    """The quantized module of a record, empty, after the file's tensors have been found to fit it."""
    kind = quantized_class(record.kind)
    if kind is None:
        raise FileFormatError(
            f"module '{record.path}' is of the kind {record.kind[:80]!r}, which this intaglio does not know: "
            "install the version that wrote the file, or import the package that defines the kind"
        )
    what = f"module '{record.path}' ({record.kind})"
    _check_config(kind, record.config, what)
    try:
        with torch.device("meta"):
            spec = kind.from_config(dict(record.config)).state_spec()
        wrong = _what_differs(record, spec, tensors)
        module = None if wrong else kind.from_config(dict(record.config))
    except Exception as error:  # whatever absurd arguments make a constructor raise
        raise FileFormatError(
            f"{what} cannot be built from its config {str(dict(record.config))[:200]}: {error}"
        ) from None
    if module is None:
        raise FileFormatError(f"{what} does not fit its tensors: {wrong}")
    module.set_path(record.path)
    module.replaced = None if record.replaced is None else dict(record.replaced)
    return module.train(record.training)


def _check_config(kind: type[QuantizedModule], config: Mapping[str, Any], what: str) -> None:
    """Refuse values of other types than the constructor names, and counts that would keep it busy."""
    hints = typing.get_type_hints(kind.__init__)
    for name, value in config.items():
        expected = hints.get(name)
        if expected in (bool, int, float, str) and type(value) is not expected:
            raise FileFormatError(f"{what}: {name} is {value!r:.60}, not of type {expected.__name__}")
        if isinstance(value, dict):
            _check_parts(value, what)
        if name == "num_layers" and not (type(value) is int and 0 < value <= _MOST_LAYERS):
            raise FileFormatError(f"{what}: {name} is {value!r:.60}, not between 1 and {_MOST_LAYERS}")


def _check_parts(parts: Mapping[str, Any], what: str) -> None:
    """The same for the quantized modules that a config is made of."""
    for name, part in parts.items():
        kind = quantized_class(str(part.get("kind"))) if isinstance(part, dict) else None
        if kind is not None and isinstance(part.get("config"), dict):
            _check_config(kind, part["config"], f"{what}: {name}")


def _what_differs(record: QuantizedRecord, spec: Mapping[str, Any], tensors: Tensors) -> str | None:
    if spec.keys() != record.state.keys():
        return f"it needs {sorted(spec)}, the recipe names {sorted(record.state)[:20]}"
    for name, (shape, dtype) in spec.items():
        found = tensors.get(record.state[name])
        if found is None:
            return f"the tensor {record.state[name][:80]!r} is not in the file"
        if (found.shape, found.dtype) != (tuple(shape), dtype):
            return f"{name} must be {tuple(shape)} {dtype}, the file has {found.shape} {found.dtype}"
    return None


def build_model(recipe: Recipe, tensors: Tensors) -> tuple[nn.Module, dict[str, nn.Module]]:
    """The whole model without its tensors, and its modules by path: for a recipe that holds the structure.

    Float parameters and buffers are on the meta device, or, in a `Part`, not there yet.
    """
    modules: dict[str, nn.Module] = {}
    for record in recipe.modules:
        module = _build_module(record, recipe, tensors, modules)
        modules[record.path] = module
        if record.path:
            parent, _, name = record.path.rpartition(".")
            place_module(modules[parent], name, module, record.path)
    check_children(modules)
    build_graphs(recipe, modules)
    root = modules[""]
    if isinstance(root, RecordedModel):
        root.build(
            modules=frozenset(r.path for r in recipe.modules if _is_callable(r)),
            tensors=frozenset(t.name for t in recipe.tensors),
        )
    return root, modules


def check_children(modules: Mapping[str, nn.Module]) -> None:
    """Raise `FileFormatError` if a module that was rebuilt has a child that no record put there."""
    placed = {(id(modules[parent]), name) for parent, _, name in (p.rpartition(".") for p in modules if p)}
    for path, module in modules.items():
        if isinstance(module, QuantizedModule):
            continue
        for name, child in module._modules.items():
            if child is not None and (id(module), name) not in placed:
                raise FileFormatError(f"module '{path}' lacks its child '{name}'")


def build_graphs(recipe: Recipe, modules: Mapping[str, nn.Module], code: PythonCode | None = None) -> None:
    """Give the graph modules among `modules` their graphs, which may use `code` and modules with code."""
    callables = {r.path for r in recipe.modules if code is not None or _is_callable(r)}
    callables |= {r.path for r in recipe.modules if isinstance(r, SharedRecord) and r.same_as in callables}
    for record in recipe.modules:
        if not isinstance(record, RegionRecord):
            continue
        module, prefix = modules[record.path], f"{record.path}." if record.path else ""
        assert isinstance(module, fx.GraphModule)
        inside = frozenset(path[len(prefix) :] for path in callables if path.startswith(prefix) and path)
        tensors = frozenset(t.name[len(prefix) :] for t in recipe.tensors if t.name.startswith(prefix))
        what = f"module '{record.path}'"
        try:
            module.graph = build_region(
                record.graph, modules=inside, tensors=tensors, code=code or PythonCode()
            )
        except FileFormatError as error:
            raise FileFormatError(f"{what}: {error}") from None
        except Exception as error:  # a name that torch.fx cannot write as Python
            raise FileFormatError(f"{what} is no program: {type(error).__name__}: {error}") from None


def _is_callable(record: ModuleRecord) -> bool:
    """Whether a graph may call the module: it is quantized, a graph, or a layer that was rebuilt."""
    return isinstance(record, (QuantizedRecord, RegionRecord)) or (
        isinstance(record, LayerRecord) and record.arguments is not None
    )


def build_known(record: ModuleRecord, tensors: Tensors) -> nn.Module | None:
    """The module of a record: quantized, a graph, or a layer that files know; None for any other."""
    if isinstance(record, QuantizedRecord):
        return build_quantized(record, tensors)
    if isinstance(record, RegionRecord):
        module = fx.GraphModule(nn.Module(), fx.Graph())
        module.train(record.training)
        return module
    if isinstance(record, LayerRecord) and record.arguments is not None:
        return build_layer(record.class_name, record.arguments).train(record.training)
    return None


def _build_module(
    record: ModuleRecord, recipe: Recipe, tensors: Tensors, modules: Mapping[str, nn.Module]
) -> nn.Module:
    if isinstance(record, SharedRecord):
        return modules[record.same_as]
    if isinstance(record, MethodRecord):
        raise FileFormatError(f"module '{record.path}' calls a method, which takes a model to find it in")
    graph = recipe.structure.graph
    if graph is not None and record.path == "" and isinstance(record, LayerRecord):
        constants = frozenset(tensor.name for tensor in recipe.tensors if tensor.role == "constant")
        return RecordedModel(record.class_name, graph, constants).train(record.training)
    module = build_known(record, tensors)
    if module is not None:
        return module
    if graph is not None and isinstance(record, LayerRecord):
        return Part(record.class_name).train(record.training)
    raise FileFormatError(f"module '{record.path}' has no description, though the recipe promises one")


def place_module(parent: nn.Module, name: str, child: nn.Module, path: str) -> None:
    """Put `child` where its parent has a place: a name that a constructor made, or any in a container."""
    if name in parent._modules:
        parent._modules[name] = child
        return
    if not (isinstance(parent, Part) or holds_any_children(parent)):
        raise FileFormatError(f"module '{path}' stands in a {type(parent).__name__}, which has no such child")
    try:
        parent.add_module(name, child)
    except (KeyError, TypeError) as error:
        raise FileFormatError(f"module '{path}' has a name that no module can have: {error}") from None


def check_tensors(recipe: Recipe, tensors: Tensors) -> None:
    """Raise `FileFormatError` unless the recipe's float tensors are in the file and in float modules."""
    seen: set[str] = set()
    owners = {record.path for record in recipe.modules if isinstance(record, (LayerRecord, RegionRecord))}
    for record in recipe.tensors:
        what = f"the tensor {record.name!r}"
        entry = tensors.get(record.tensor)
        if entry is None or record.name in seen or record.name.rpartition(".")[0] not in owners:
            raise FileFormatError(
                f"{what} is not in the file, is listed twice, or belongs to no float module"
            )
        seen.add(record.name)
        if record.requires_grad and not (entry.dtype.is_floating_point or entry.dtype.is_complex):
            raise FileFormatError(f"{what} of dtype {entry.dtype} cannot require a gradient")
        if record.dim_order is not None and sorted(record.dim_order) != list(range(len(entry.shape))):
            raise FileFormatError(f"{what} of shape {entry.shape} cannot have dim_order {record.dim_order}")
        if record.role == "constant" and "." in record.name:
            raise FileFormatError(f"{what} has a name that no constant can have")


def check_owners(
    recipe: Recipe, modules: Mapping[str, nn.Module], tensors: Tensors, given: Container[str] = ()
) -> None:
    """Raise `FileFormatError` unless every float tensor fits its module, and every module has its tensors.

    `given` are the paths of modules that are not the file's.
    """
    for record in recipe.tensors:
        path, _, name = record.name.rpartition(".")
        owner, shape = modules[path], tensors[record.tensor].shape
        if path in given:
            continue
        if isinstance(owner, Part) or holds_any_tensors(owner):
            if hasattr(owner, name):
                raise FileFormatError(f"the tensor {record.name!r} has a name that no tensor can have")
            continue
        expected = (owner._parameters if record.role == "parameter" else owner._buffers).get(name)
        if expected is None or tuple(expected.shape) != shape:
            there = None if expected is None else tuple(expected.shape)
            raise FileFormatError(f"the tensor {record.name!r} has shape {shape}, its module takes {there}")
    listed = {record.name for record in recipe.tensors}
    layers = (r for r in recipe.modules if isinstance(r, LayerRecord) and r.path not in given)
    for layer in layers:
        module = modules[layer.path]
        for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if f"{layer.path}.{name}".lstrip(".") not in listed:
                raise FileFormatError(f"the file lacks the tensor '{name}' of module '{layer.path}'")
