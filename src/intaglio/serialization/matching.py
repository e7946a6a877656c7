"""Puts a file's modules into a copy of the user's float model, after comparing the two.

What a file holds whole (quantized modules, graphs, known layers in a graph) comes from the file; the user's
model gives what stayed Python: its own modules, and the functions and methods that graphs call. May import
python_code, walking, skeleton, recipe, graph_passes, nn and errors.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import fx, nn

from intaglio.eager.hooks import give_hooks, hooks_of
from intaglio.errors import ConversionError
from intaglio.files.recipe import (
    LayerRecord,
    MethodRecord,
    ModuleRecord,
    QuantizedRecord,
    Recipe,
    RegionRecord,
    SharedRecord,
)
from intaglio.graph_passes.method_calls import MethodCall
from intaglio.graph_passes.tracing import carry_attributes
from intaglio.nn.copying import copy_model, share_tensors
from intaglio.nn.quantized import QuantizedModule
from intaglio.serialization.container import TensorSpec
from intaglio.serialization.python_code import find_method, reachable_code
from intaglio.serialization.skeleton import build_graphs, build_known, check_owners, place_module
from intaglio.serialization.walking import Place, walk_modules

__all__ = ["replace_modules"]

_MOST_DIFFERENCES = 8


def replace_modules(
    model: nn.Module, recipe: Recipe, tensors: Mapping[str, TensorSpec]
) -> tuple[nn.Module, dict[str, nn.Module]]:
    """A copy of `model` with the recipe's quantized modules and graphs, still empty, and its modules by path.

    The copy shares the float tensors of `model`, for which the file's are put afterwards. Raises
    `ConversionError`, naming path, found and expected, if the structures differ.
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(f"load takes model=, an nn.Module, not {type(model).__name__}")
    places = list(walk_modules(model))
    users = _UserModules(recipe, {place.path: place.module for place in places})
    differences = [
        *_module_differences(users, recipe),
        *_method_differences(users, recipe),
        *_tensor_differences(users, places, recipe, tensors),
    ]
    if differences:
        raise ConversionError(_not_alike(differences))
    modules = _build_all(model, users, recipe, tensors)
    code = reachable_code(model)
    missing = [name for name in _python_names(recipe) if name not in code.functions]
    if missing:
        raise ConversionError(
            f"the saved model calls {', '.join(missing[:_MOST_DIFFERENCES])}, which the forwards of the "
            "given model do not name: pass an instance of the class that was saved, of the same version"
        )
    build_graphs(recipe, modules, code)
    check_owners(recipe, modules, tensors, given=users.given)
    return modules[""], modules


def _python_names(recipe: Recipe) -> Iterator[str]:
    graphs = (record.graph for record in recipe.modules if isinstance(record, RegionRecord))
    yield from dict.fromkeys(step.target for graph in graphs for step in graph.steps if step.kind == "python")


def _not_alike(differences: list[str]) -> str:
    more = len(differences) - _MOST_DIFFERENCES
    return (
        "the given model is not built like the saved one:\n  "
        + "\n  ".join(differences[:_MOST_DIFFERENCES])
        + (f"\n  and {more} more" if more > 0 else "")
        + "\nPass an instance of the same class, made with the same arguments"
    )


class _UserModules:
    """Which modules of the saved model are the user's, and where they stand in the model that is given.

    sources: for each path whose module has its like in the given model, its path there.
    given: of these, the paths of modules that come from the given model; `tops` are the outermost of them.
    methods: paths of the owners of methods.
    """

    def __init__(self, recipe: Recipe, found: Mapping[str, nn.Module]) -> None:
        self.found = found
        self.sources: dict[str, str] = {}
        self.given: set[str] = set()
        self.tops: list[str] = []
        self.methods: dict[str, MethodRecord] = {}
        for record in recipe.modules:
            parent, _, name = record.path.rpartition(".")
            if isinstance(record, MethodRecord):
                self.methods[record.path] = record
            if record.path and parent in self.given:
                self.sources[record.path] = f"{self.sources[parent]}.{name}".lstrip(".")
                if isinstance(record, LayerRecord):
                    self.given.add(record.path)
            elif parent in self.methods and record.path:
                self.sources[record.path] = self.methods[parent].owner
                self.given.add(record.path)
            elif isinstance(record, LayerRecord) and (not record.path or record.arguments is None):
                self.sources[record.path] = self._like(record)
                self.given.add(record.path)
                self.tops.append(record.path)
        if isinstance(recipe.modules[0], QuantizedRecord):
            self.sources[""] = ""

    def _like(self, record: LayerRecord) -> str:
        """Where the like of a user's module stands: one that is called twice became two."""
        path = record.path
        if path not in self.found or _is_other_class(record, self.found[path]):
            once = re.sub(r"_\d+$", "", path)
            return once if once in self.found else path
        return path

    def is_in_method(self, path: str) -> bool:
        """Whether a path is that of an owner of a method, or of what is in one."""
        return any(path.startswith(f"{method}.") for method in self.methods)


# ---- Building --------------------------------------------------------------------------------------------


def _build_all(
    model: nn.Module, users: _UserModules, recipe: Recipe, tensors: Mapping[str, TensorSpec]
) -> dict[str, nn.Module]:
    """Every module by path, each in its place: inner ones first, which copies of the user's take."""
    shared: dict[int, Any] = {}
    share_tensors(model, shared, attributes=False)
    built: dict[str, nn.Module] = {}
    for record in reversed(recipe.modules):
        module = _build(record, users, tensors, built, shared)
        if module is not None:
            built[record.path] = module
    modules: dict[str, nn.Module] = {}
    for record in recipe.modules:
        parent, _, name = record.path.rpartition(".")
        if isinstance(record, SharedRecord):
            modules[record.path] = modules[record.same_as]
        elif record.path in built:
            modules[record.path] = built[record.path]
        else:
            modules[record.path] = modules[parent].get_submodule(name)
        if record.path and (parent in users.given or parent in users.methods):
            modules[parent]._modules[name] = modules[record.path]
        elif record.path:
            place_module(modules[parent], name, modules[record.path], record.path)
        if isinstance(record, LayerRecord):
            modules[record.path].training = record.training
    return modules


def _build(
    record: ModuleRecord,
    users: _UserModules,
    tensors: Mapping[str, TensorSpec],
    built: Mapping[str, nn.Module],
    shared: Mapping[int, Any],
) -> nn.Module | None:
    """The module of a record, or None where it comes with the one around it."""
    path = record.path
    if isinstance(record, MethodRecord):
        owner = users.found[record.owner]
        method = find_method(owner, record.method)
        assert method is not None
        return MethodCall(copy_model(owner, dict(shared)), method, record.owner).train(record.training)
    if path in users.given:
        if path not in users.tops:
            return None
        memo = dict(shared)
        inside = [p for p in built if p in users.sources and (not path or p.startswith(f"{path}."))]
        memo.update((id(users.found[users.sources[p]]), built[p]) for p in inside)
        copied = copy_model(users.found[users.sources[path]], memo)
        for inner in inside:
            if isinstance(built[inner], QuantizedModule):
                hooks = hooks_of(users.found[users.sources[inner]])
                give_hooks(built[inner], copy.deepcopy(hooks, memo))
        return copied
    module = build_known(record, tensors)
    if isinstance(module, fx.GraphModule) and path in users.sources:
        carry_attributes(users.found[users.sources[path]], module)
    if isinstance(module, QuantizedModule) and path == "":
        give_hooks(module, copy.deepcopy(hooks_of(users.found[""]), dict(shared)))
    return module


# ---- Comparing -------------------------------------------------------------------------------------------


def _module_differences(users: _UserModules, recipe: Recipe) -> Iterator[str]:
    """Modules that are missing, shared otherwise, or not what was quantized; a line each."""
    owners: dict[int, str] = {}
    has_graphs = any(isinstance(record, RegionRecord) for record in recipe.modules)
    for record in recipe.modules:
        path = record.path
        if path not in users.sources or users.is_in_method(path):
            if isinstance(record, QuantizedRecord) and path in users.found:
                yield from _weight_differences(record, users.found[path])
            continue
        module = users.found.get(users.sources[path])
        if module is None:
            yield f"'{path}': found nothing, expected {_expected(record)}"
        elif not isinstance(record, SharedRecord):
            other = owners.setdefault(id(module), path)
            if other != path and users.sources[path] == path:
                yield f"'{path}': found the module that is also '{other}', expected one of its own"
            elif isinstance(record, QuantizedRecord):
                yield from _quantized_differences(record, module)
            elif isinstance(record, LayerRecord) and has_graphs and _is_other_class(record, module):
                yield f"'{path}': found {type(module).__name__}, expected {record.class_name}"


def _is_other_class(record: LayerRecord, module: nn.Module) -> bool:
    return type(module).__name__ != record.class_name.rpartition(".")[2]


def _expected(record: ModuleRecord) -> str:
    if isinstance(record, SharedRecord):
        return f"the module that is also '{record.same_as}'"
    if isinstance(record, LayerRecord):
        return record.class_name
    return record.kind if isinstance(record, QuantizedRecord) else "a module that became a graph"


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


def _weight_differences(record: QuantizedRecord, module: nn.Module) -> Iterator[str]:
    """For a module in a graph, into which others may have been folded: only what both have is compared."""
    for name, shape in (record.replaced or {}).items():
        parameter = getattr(module, name.rpartition(".")[2], None)
        if isinstance(parameter, nn.Parameter) and tuple(parameter.shape) != shape:
            yield f"'{record.path}.{name}': found {tuple(parameter.shape)}, expected {shape}"


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no parameters"


def _method_differences(users: _UserModules, recipe: Recipe) -> Iterator[str]:
    """Methods that graphs call and the given model has not, and parts of their owners; a line each."""
    for record in users.methods.values():
        owner = users.found.get(record.owner)
        if owner is None or find_method(owner, record.method) is None:
            found = "nothing" if owner is None else f"{type(owner).__name__} without it"
            yield f"'{record.owner}': found {found}, expected a module with the method {record.method}()"
    for record_in in recipe.modules:
        path = record_in.path
        if users.is_in_method(path) and users.sources.get(path) not in users.found:
            yield f"'{path}': found nothing, expected {_expected(record_in)}"


def _tensor_differences(
    users: _UserModules, places: Iterable[Place], recipe: Recipe, tensors: Mapping[str, TensorSpec]
) -> Iterator[str]:
    """Parameters and buffers that only one side has, or in another shape; a line each.

    Buffers that state dicts do not hold may differ: many are made as inputs of new sizes come.
    """
    compared = {path for path in users.given if not users.is_in_method(path)}
    there = {
        f"{place.path}.{name}".lstrip("."): tensor
        for place in places
        if place.same_as is None and _is_given(place.path, users)
        for name, tensor in (*place.module.named_parameters(recurse=False), *_kept_buffers(place.module))
    }
    seen: set[str] = set()
    for record in recipe.tensors:
        path, _, name = record.name.rpartition(".")
        if record.role == "constant" or not record.persistent or path not in compared:
            continue
        source = f"{users.sources[path]}.{name}".lstrip(".")
        seen.add(source)
        expected = tensors[record.tensor].shape if record.tensor in tensors else "a tensor of the file"
        found = tuple(there[source].shape) if source in there else "nothing"
        if found != expected:
            yield f"'{source}': found {found}, expected {expected}"
    for name, tensor in there.items():
        if name not in seen:
            yield f"'{name}': found {tuple(tensor.shape)}, expected nothing"


def _is_given(path: str, users: _UserModules) -> bool:
    """Whether a module of the given model comes to stand in the result: its nearest known parent does."""
    kept = {users.sources[p] for p in users.given if not users.is_in_method(p)}
    replaced = {source for p, source in users.sources.items() if p not in users.given}
    parts = path.split(".") if path else []
    for count in range(len(parts), -1, -1):
        at = ".".join(parts[:count])
        if at in kept or at in replaced:
            return at in kept
    return False


def _kept_buffers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, buffer in module.named_buffers(recurse=False):
        if name not in module._non_persistent_buffers_set:
            yield name, buffer
