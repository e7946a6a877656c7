"""Puts a file's quantized modules into a copy of the user's float model, after comparing the two.

May import walking, skeleton, recipe, nn and errors.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from intaglio.eager.hooks import give_hooks, hooks_of
from intaglio.errors import ConversionError
from intaglio.nn.copying import copy_model, share_tensors
from intaglio.nn.quantized import QuantizedModule
from intaglio.serialization.container import TensorSpec
from intaglio.serialization.recipe import LayerRecord, QuantizedRecord, Recipe, SharedRecord
from intaglio.serialization.skeleton import build_quantized
from intaglio.serialization.walking import Place, walk_modules

__all__ = ["replace_modules"]

_MOST_DIFFERENCES = 8


def replace_modules(
    model: nn.Module, recipe: Recipe, tensors: Mapping[str, TensorSpec]
) -> tuple[nn.Module, dict[str, nn.Module]]:
    """A copy of `model` with the recipe's quantized modules, still empty, and its modules by path.

    The copy shares the float tensors of `model`, for which the file's are put afterwards. Raises
    `ConversionError`, naming path, found and expected, if the structures differ.
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(f"load takes model=, an nn.Module, not {type(model).__name__}")
    places = list(walk_modules(model))
    found = {place.path: place.module for place in places}
    differences = [*_module_differences(found, recipe), *_tensor_differences(places, recipe, tensors)]
    if differences:
        more = len(differences) - _MOST_DIFFERENCES
        raise ConversionError(
            "the given model is not built like the saved one:\n  "
            + "\n  ".join(differences[:_MOST_DIFFERENCES])
            + (f"\n  and {more} more" if more > 0 else "")
            + "\nPass an instance of the same class, made with the same arguments"
        )
    memo: dict[int, Any] = {}
    share_tensors(model, memo, attributes=False)
    built: dict[str, QuantizedModule] = {}
    for record in recipe.quantized():
        built[record.path] = build_quantized(record, tensors)
        memo[id(found[record.path])] = built[record.path]
    root = built[""] if "" in built else copy_model(model, memo)
    for path, module in built.items():
        give_hooks(module, copy.deepcopy(hooks_of(found[path]), memo))
    return root, _put_in_place(root, recipe, built)


def _put_in_place(
    root: nn.Module, recipe: Recipe, built: Mapping[str, QuantizedModule]
) -> dict[str, nn.Module]:
    """The modules of the recipe by path, those that the file shares being shared."""
    modules: dict[str, nn.Module] = {"": root}
    for record in recipe.modules:
        parent, _, name = record.path.rpartition(".")
        if isinstance(record, SharedRecord):
            modules[record.path] = modules[record.same_as]
        elif record.path:
            modules[record.path] = built.get(record.path) or modules[parent]._modules[name]  # type: ignore[assignment]
        if record.path:
            modules[parent]._modules[name] = modules[record.path]
        if isinstance(record, LayerRecord):
            modules[record.path].training = record.training
    return modules


def _module_differences(found: Mapping[str, nn.Module], recipe: Recipe) -> Iterator[str]:
    """Modules that are missing, shared otherwise, or not what was quantized; a line each."""
    owners: dict[int, str] = {}
    for record in recipe.modules:
        module = found.get(record.path)
        if module is None:
            yield f"'{record.path}': found nothing, expected {_expected(record)}"
        elif not isinstance(record, SharedRecord):
            other = owners.setdefault(id(module), record.path)
            if other != record.path:
                yield f"'{record.path}': found the module that is also '{other}', expected one of its own"
            elif isinstance(record, QuantizedRecord):
                yield from _quantized_differences(record, module)


def _expected(record: Any) -> str:
    if isinstance(record, SharedRecord):
        return f"the module that is also '{record.same_as}'"
    return record.kind if isinstance(record, QuantizedRecord) else str(record.class_name)


def _quantized_differences(record: QuantizedRecord, module: nn.Module) -> Iterator[str]:
    if isinstance(module, QuantizedModule):
        if (module.kind, module.config()) != (record.kind, dict(record.config)):
            yield (
                f"'{record.path}': found {module.kind} {module.config()}, "
                f"expected {record.kind} {dict(record.config)}"
            )
        return
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    if record.replaced is not None and shapes != record.replaced:
        yield (
            f"'{record.path}': found {type(module).__name__} with {_shapes(shapes)}, "
            f"expected a module with {_shapes(record.replaced)} (saved as {record.kind})"
        )


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no parameters"


def _tensor_differences(
    places: Iterable[Place], recipe: Recipe, tensors: Mapping[str, TensorSpec]
) -> Iterator[str]:
    """Parameters and buffers that only one side has, or in another shape; a line each.

    Buffers that state dicts do not hold may differ: many are made as inputs of new sizes come.
    """
    taken = {r.path for r in recipe.modules if isinstance(r, (QuantizedRecord, SharedRecord))}
    there = {
        f"{place.path}.{name}".lstrip("."): tensor
        for place in places
        if place.same_as is None and not _is_within(place.path, taken)
        for name, tensor in (*place.module.named_parameters(recurse=False), *_kept_buffers(place.module))
    }
    for record in recipe.tensors:
        if record.role == "constant" or not record.persistent:
            continue
        expected = tensors[record.tensor].shape if record.tensor in tensors else "a tensor of the file"
        found = tuple(there.pop(record.name).shape) if record.name in there else "nothing"
        if found != expected:
            yield f"'{record.name}': found {found}, expected {expected}"
    for name, tensor in there.items():
        yield f"'{name}': found {tuple(tensor.shape)}, expected nothing"


def _is_within(path: str, places: set[str]) -> bool:
    """Whether `path` or one of its parents is among `places`."""
    parts = path.split(".")
    return "" in places or any(".".join(parts[:count]) in places for count in range(1, len(parts) + 1))


def _kept_buffers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, buffer in module.named_buffers(recurse=False):
        if name not in module._non_persistent_buffers_set:
            yield name, buffer
