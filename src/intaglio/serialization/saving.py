"""`save`: from a model to a file, tensor by tensor.

First an inventory of modules and tensors, then the ways in which the model could be loaded without its class,
each tried before it is promised; then the file, in which quantized modules are unpacked one at a time. May
import regions, tracing, skeleton, recipe, container, graph_passes, nn and errors.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from intaglio.eager.dynamic_quantization import RECORD
from intaglio.errors import ConversionError, FileFormatError
from intaglio.files.recipe import (
    FORMAT_VERSION,
    RECIPE,
    RECIPE_CHECKSUM,
    GraphAccount,
    LayerRecord,
    MethodRecord,
    ModuleRecord,
    QuantizedRecord,
    Recipe,
    RegionRecord,
    SharedRecord,
    Structure,
    TensorRecord,
    checksum_of_recipe,
    recipe_from_text,
    recipe_to_text,
)
from intaglio.graph_passes.method_calls import MethodCall
from intaglio.graph_passes.record import SCORES, graph_record
from intaglio.nn.quantized import QuantizedModule, quantized_class
from intaglio.serialization.atomic_write import write_atomically
from intaglio.serialization.container import TensorSpec, TensorWriter, storable
from intaglio.serialization.description import FileDescription
from intaglio.serialization.known_layers import describe_layer, qualified_name
from intaglio.serialization.recorded_model import Part, RecordedModel
from intaglio.serialization.regions import record_region
from intaglio.serialization.skeleton import build_model, check_owners, check_tensors
from intaglio.serialization.tracing import record_forward
from intaglio.serialization.values import UnstorableError
from intaglio.serialization.walking import Place, walk_modules

__all__ = ["save"]


class SavedAs(Protocol):
    """What stands for a model that is written in its place: a program."""

    @property
    def saved_as(self) -> nn.Module:
        """The model."""


def save(model: nn.Module | SavedAs, path: str | os.PathLike[str]) -> FileDescription:
    """Write a quantized model to one file, a safetensors file with a recipe in its metadata; no pickle.

    The file takes the place of `path` only when it is whole and on the disk. Where the model's structure can
    be written down, `load(path)` needs nothing else: all modules are layers of torch.nn, quantized ones and
    graphs, or `torch.fx` can trace the forward (then no other thread should call models while this runs).
    Where it cannot, a `UserWarning` says why, and `load(path, model=...)` takes a float model of the class.

    Parameters
    ----------
    model : nn.Module or Program
        A model with at least one quantized module, in eval mode or not; or a program, whose model is written.
    path : str or path
        Where to write.

    Returns
    -------
    FileDescription
        What the file holds and how it can be loaded, as `read_recipe(path)` gives it.

    Raises
    ------
    ConversionError
        Nothing in `model` is quantized, or it holds a tensor, or a graph, that no file can hold.
    OSError
        The file could not be written; what was at `path` is untouched.

    Examples
    --------
    See `load`.
    """
    model = getattr(model, "saved_as", model)
    if not isinstance(model, nn.Module):
        raise ConversionError(f"save takes an nn.Module, not {type(model).__name__}")
    inventory = _take_inventory(model)
    structure = _choose_structure(model, inventory)
    recipe, text = _finish_recipe(model, inventory, structure)
    metadata = {"format": "pt", RECIPE: text, RECIPE_CHECKSUM: checksum_of_recipe(text)}
    with write_atomically(path) as file, torch.no_grad():
        writer = TensorWriter(file, inventory.specs(), metadata)
        _write_tensors(inventory, writer)
        entries, file_bytes = writer.finish()
    if recipe.structure.way == "none":
        warnings.warn(
            f"'{os.fspath(path)}' can only be loaded with load(path, model=...), a float model of the same "
            f"class: {recipe.structure.reason}",
            UserWarning,
            stacklevel=2,
        )
    return FileDescription(recipe, entries, file_bytes)


# ---- Inventory -------------------------------------------------------------------------------------------


@dataclass
class _Inventory:
    """What a model holds: records for the recipe, tensors and modules for the writer.

    `why_not` says of each layer without description why it has none, and `python` which graphs need code of
    the user's; `hooked` are the quantized modules with forward hooks, which are code. A graph of a model that
    is `from_graph_mode` has no other form that could be loaded.
    """

    from_graph_mode: bool
    modules: list[ModuleRecord] = field(default_factory=list)
    tensors: list[TensorRecord] = field(default_factory=list)
    quantized: list[tuple[QuantizedRecord, QuantizedModule]] = field(default_factory=list)
    floats: dict[str, Tensor] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    why_not: dict[str, str] = field(default_factory=dict)
    python: dict[str, str] = field(default_factory=dict)
    hooked: list[str] = field(default_factory=list)

    def specs(self) -> list[TensorSpec]:
        """Every tensor of the file."""
        found = {name: TensorSpec(name, t.dtype, tuple(t.shape)) for name, t in self.floats.items()}
        for record, module in self.quantized:
            for name, (shape, dtype) in module.state_spec().items():
                found[record.state[name]] = TensorSpec(record.state[name], dtype, tuple(shape))
        return list(found.values())

    def add_tensor(self, name: str, tensor: Tensor, **role: Any) -> None:
        """A float module's tensor; one that was met before is stored once."""
        _check_storable(name, tensor)
        known = self.names.setdefault(id(tensor), name)
        self.floats.setdefault(known, tensor)
        self.tensors.append(TensorRecord(name, known, dim_order=_unusual_dim_order(tensor), **role))


def _take_inventory(model: nn.Module) -> _Inventory:
    inventory = _Inventory(graph_record(model) is not None)
    states: dict[Any, Mapping[str, str]] = {}
    weights: dict[object, str] = {}
    for place in walk_modules(model):
        path, module, same_as = place
        if same_as is not None:
            inventory.modules.append(SharedRecord(path, same_as))
        elif isinstance(module, QuantizedModule):
            _check_registered(path, module)
            own = {name: f"{path}.{name}" if path else name for name in module.state_spec()}
            key = (module.kind, repr(module.config()), module.weights_identity())
            if module.weight_identity() is not None:  # others may have the same weight and another scale
                own["weight"] = weights.setdefault(module.weight_identity(), own["weight"])
            record = _quantized_record(path, module, states.setdefault(key, own))
            inventory.modules.append(record)
            inventory.quantized.append((record, module))
            if module._forward_hooks or module._forward_pre_hooks:
                inventory.hooked.append(path)
        elif not _add_graph(inventory, place):
            _add_float(inventory, place)
    if not inventory.quantized:
        raise ConversionError(
            "nothing to save: no module of the model is quantized. Convert it first "
            "(intaglio.quantize_dynamic), or write a float model with torch.save or safetensors"
        )
    return inventory


def _check_registered(path: str, module: QuantizedModule) -> None:
    if quantized_class(getattr(module, "kind", "")) is not type(module):
        raise ConversionError(
            f"'{path}' is a {type(module).__name__}, which files do not know: give the class a kind of its "
            "own and decorate it with intaglio.nn.quantized.register_quantized"
        )


def _quantized_record(path: str, module: QuantizedModule, state: Mapping[str, str]) -> QuantizedRecord:
    return QuantizedRecord(
        path, module.kind, module.config(), state, replaced=module.replaced, training=module.training
    )


def _add_graph(inventory: _Inventory, place: Place) -> bool:
    """Add a module that graph mode made, if it is one: a graph, or a call of a method that stayed Python."""
    path, module, _ = place
    if isinstance(module, MethodCall):
        name = module.method.__qualname__
        inventory.modules.append(MethodRecord(path, module.owner_path, name, module.training))
        inventory.python[path] = f"'{path}' calls the method {name}(), which stayed Python"
        return True
    if not isinstance(module, fx.GraphModule):
        return False
    try:
        recorded = record_region(module)
    except UnstorableError as error:
        if inventory.from_graph_mode:
            where = f"the graph at '{path}'" if path else "the graph"
            raise ConversionError(
                f"{where} cannot be written to a file: {error}. Or keep the class whose forward it is out "
                "of graphs: PrepareCustomConfig().set_non_traceable_module_classes([...])"
            ) from None
        return False
    inventory.modules.append(RegionRecord(path, recorded.graph, module.training))
    if recorded.python is not None:
        where = f"the graph at '{path}'" if path else "the graph"
        inventory.python[path] = f"{where}: {recorded.python}"
    _add_tensors(inventory, path, module)
    return True


def _add_float(inventory: _Inventory, place: Place) -> None:
    path, module, _ = place
    arguments = None
    if isinstance(module, Part):
        class_name = module.class_name
        inventory.why_not[path] = f"'{path}': its class {class_name} is not known"
    else:
        class_name = qualified_name(module)
        try:
            arguments = describe_layer(module)
        except UnstorableError as error:
            inventory.why_not[path] = (
                f"'{path}' ({type(module).__name__}): {error}" if path else f"{class_name}: {error}"
            )
    inventory.modules.append(LayerRecord(path, class_name, arguments, module.training))
    _add_tensors(inventory, path, module)


def _add_tensors(inventory: _Inventory, path: str, module: nn.Module) -> None:
    prefix = f"{path}." if path else ""
    for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        inventory.add_tensor(
            prefix + name, parameter, role="parameter", requires_grad=parameter.requires_grad
        )
    for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
        if not (isinstance(module, RecordedModel) and name in module.constants):
            persistent = name not in module._non_persistent_buffers_set
            inventory.add_tensor(prefix + name, buffer, role="buffer", persistent=persistent)


def _check_storable(name: str, tensor: Tensor) -> None:
    if tensor.is_meta or nn.parameter.is_lazy(tensor):
        raise ConversionError(f"'{name}' has no data (meta device or lazy module): load its weights first")
    if tensor.is_quantized or tensor.layout != torch.strided or not storable(tensor.dtype):
        raise ConversionError(
            f"'{name}' is a {tensor.dtype} tensor of layout {tensor.layout}: no file can hold it"
        )


def _unusual_dim_order(tensor: Tensor) -> tuple[int, ...] | None:
    """The order of a tensor's dimensions in memory, where it is dense and not in their own order."""
    if tensor.is_contiguous() or tensor.dim() < 2:
        return None
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda d: (-strides[d], d))
    return tuple(order) if tensor.permute(order).is_contiguous() else None


# ---- Ways to load it without its class -------------------------------------------------------------------


def _choose_structure(model: nn.Module, inventory: _Inventory) -> Structure:
    """The way in that works, and the tensors that a recorded graph reads besides the model's."""
    if isinstance(model, RecordedModel):
        for name in sorted(model.constants):
            inventory.add_tensor(name, model.get_buffer(name), role="constant")
        return Structure("graph", graph=model.graph)
    if inventory.hooked:
        return Structure("none", reason=f"'{inventory.hooked[0]}' has forward hooks, which are code")
    if not inventory.why_not and not inventory.python:
        return Structure("modules")
    if inventory.python:
        return Structure("none", reason=next(iter(inventory.python.values())))
    try:
        graph, constants = record_forward(model, _leaves(inventory), inventory.names)
        for name, tensor in constants.items():
            inventory.add_tensor(name, tensor, role="constant")
    except UnstorableError as error:
        reason = str(error)
    except ConversionError as error:
        reason = f"its forward reads {error}"
    else:
        return Structure("graph", graph=graph)
    inventory.tensors = [record for record in inventory.tensors if record.role != "constant"]
    first = next(iter(inventory.why_not.values()))
    return Structure("none", reason=f"{reason}; and it is not made of known layers only ({first})")


def _leaves(inventory: _Inventory) -> frozenset[str]:
    """The modules that a graph may call: quantized, or layers that can be rebuilt with what they hold."""
    opaque = {""}
    for path in inventory.why_not:
        parts = path.split(".")
        opaque.update(".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return frozenset(
        m.path for m in inventory.modules if not isinstance(m, SharedRecord) and m.path not in opaque
    )


def _finish_recipe(model: nn.Module, inventory: _Inventory, structure: Structure) -> tuple[Recipe, str]:
    """The recipe and its text, after loading it as far as that goes without data."""
    recipe = Recipe(
        format_version=FORMAT_VERSION,
        intaglio_version=version("intaglio"),
        torch_version=str(torch.__version__),
        modules=tuple(inventory.modules),
        tensors=tuple(inventory.tensors),
        kept_float=getattr(model, RECORD, {}),
        structure=structure,
        account=_account_of(model),
        scores=_scores_of(model),
    )
    specs = {spec.name: spec for spec in inventory.specs()}
    text = recipe_to_text(recipe)
    try:
        read = recipe_from_text(text)
    except FileFormatError as error:
        raise ConversionError(f"the model cannot be described in a file: {error}") from None
    if structure.way != "none":
        try:
            _, modules = build_model(read, specs)
            check_tensors(read, specs)
            check_owners(read, modules, specs)
        except FileFormatError as error:
            without = Structure("none", reason=f"its structure cannot be rebuilt: {error}")
            return _finish_recipe(model, inventory, without)
    return recipe, text


def _account_of(model: nn.Module) -> GraphAccount | None:
    record = graph_record(model)
    if record is None:
        return None
    return GraphAccount(
        tuple(record.graphs), dict(record.left), dict(record.floats), record.macs, record.int8_macs
    )


def _scores_of(model: nn.Module) -> tuple[float, float] | None:
    """The scores that `auto_quantize` measured, where a file can hold them."""
    found = vars(model).get(SCORES)
    return found if found and all(math.isfinite(score) for score in found) else None


# ---- Writing ---------------------------------------------------------------------------------------------


def _write_tensors(inventory: _Inventory, writer: TensorWriter) -> None:
    """Write everything, unpacking one quantized module at a time."""
    written: set[str] = set()
    for record, module in inventory.quantized:
        if written.issuperset(record.state.values()):
            continue
        for name, tensor in module.plain_state().items():
            if record.state[name] not in written:
                writer.write(record.state[name], tensor.contiguous())
        written.update(record.state.values())
    for name, tensor in inventory.floats.items():
        writer.write(name, tensor.detach().cpu().contiguous())
