"""From a recipe to modules without tensors, every claim of it checked against the tensors really in the file.

Nothing is allocated from a claim: float layers are built on the meta device, and a quantized module is built
for real only when the tensors in the file are the ones it needs. May import nn, known_layers, recorded_model,
recipe, container and errors.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from intaglio.errors import FileFormatError
from intaglio.nn.quantized import QuantizedModule, quantized_class
from intaglio.serialization.container import TensorSpec
from intaglio.serialization.known_layers import build_layer, holds_any_children
from intaglio.serialization.recipe import (
    LayerRecord,
    ModuleRecord,
    QuantizedRecord,
    Recipe,
    SharedRecord,
)
from intaglio.serialization.recorded_model import Part, RecordedModel

__all__ = ["build_model", "build_quantized", "check_owners", "check_tensors"]

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
    placed: set[tuple[int, str]] = set()
    for record in recipe.modules:
        module = _build_module(record, recipe, tensors, modules)
        modules[record.path] = module
        if record.path:
            parent, _, name = record.path.rpartition(".")
            _place(modules[parent], name, module, record.path)
            placed.add((id(modules[parent]), name))
    for path, module in modules.items():
        if isinstance(module, QuantizedModule):
            continue
        for name, child in module._modules.items():
            if child is not None and (id(module), name) not in placed:
                raise FileFormatError(f"module '{path}' lacks its child '{name}'")
    root = modules[""]
    if isinstance(root, RecordedModel):
        root.build(
            modules=frozenset(r.path for r in recipe.modules if _is_callable(r)),
            tensors=frozenset(t.name for t in recipe.tensors),
        )
    return root, modules


def _is_callable(record: ModuleRecord) -> bool:
    """Whether a graph may call the module: it is quantized, or a layer that was rebuilt."""
    return isinstance(record, QuantizedRecord) or (
        isinstance(record, LayerRecord) and record.arguments is not None
    )


def _build_module(
    record: ModuleRecord, recipe: Recipe, tensors: Tensors, modules: Mapping[str, nn.Module]
) -> nn.Module:
    if isinstance(record, SharedRecord):
        return modules[record.same_as]
    if isinstance(record, QuantizedRecord):
        return build_quantized(record, tensors)
    assert isinstance(record, LayerRecord)
    graph = recipe.structure.graph
    if graph is not None and record.path == "":
        constants = frozenset(tensor.name for tensor in recipe.tensors if tensor.role == "constant")
        return RecordedModel(record.class_name, graph, constants).train(record.training)
    if record.arguments is not None:
        return build_layer(record.class_name, record.arguments).train(record.training)
    if graph is not None:
        return Part(record.class_name).train(record.training)
    raise FileFormatError(f"module '{record.path}' has no description, though the recipe promises one")


def _place(parent: nn.Module, name: str, child: nn.Module, path: str) -> None:
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
    owners = {record.path for record in recipe.modules if isinstance(record, LayerRecord)}
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


def check_owners(recipe: Recipe, modules: Mapping[str, nn.Module], tensors: Tensors) -> None:
    """Raise `FileFormatError` unless every float tensor fits its module, and every module has its tensors."""
    for record in recipe.tensors:
        path, _, name = record.name.rpartition(".")
        owner, shape = modules[path], tensors[record.tensor].shape
        if isinstance(owner, Part):
            if hasattr(owner, name):
                raise FileFormatError(f"the tensor {record.name!r} has a name that no tensor can have")
            continue
        expected = (owner._parameters if record.role == "parameter" else owner._buffers).get(name)
        if expected is None or tuple(expected.shape) != shape:
            there = None if expected is None else tuple(expected.shape)
            raise FileFormatError(f"the tensor {record.name!r} has shape {shape}, its module takes {there}")
    listed = {record.name for record in recipe.tensors}
    layers = (record for record in recipe.modules if isinstance(record, LayerRecord))
    for layer in layers:
        module = modules[layer.path]
        for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if f"{layer.path}.{name}".lstrip(".") not in listed:
                raise FileFormatError(f"the file lacks the tensor '{name}' of module '{layer.path}'")
