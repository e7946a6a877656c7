"""`load` and `read_recipe`: from a file to a model, or to a description of what the file holds.

The recipe is checked as a whole before the first tensor is read; then tensors are read one by one, each
quantized module being packed before the next is read, so that memory peaks at the model and one layer. May
import matching, skeleton, recipe, container, graph_passes, nn and errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from intaglio import _core
from intaglio.eager.dynamic_quantization import RECORD
from intaglio.errors import ConversionError, FileFormatError
from intaglio.files.recipe import QuantizedRecord, Recipe, TensorRecord, recipe_of_metadata
from intaglio.graph_passes.record import GRAPH_RECORD, SCORES, GraphRecord
from intaglio.nn.fast_path import leave_fast_paths
from intaglio.nn.quantized import QuantizedModule
from intaglio.nn.twins import WeightPool
from intaglio.serialization.container import TensorReader
from intaglio.serialization.description import FileDescription
from intaglio.serialization.matching import replace_modules
from intaglio.serialization.recorded_model import RecordedModel
from intaglio.serialization.skeleton import build_model, check_owners, check_tensors

__all__ = ["load", "read_recipe"]


def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """Load a quantized model from a file that `save` wrote; it computes the same bits as the saved one.

    Parameters
    ----------
    path : str or path
        The file.
    model : nn.Module, optional
        A float model of the same structure, with any weights, or none (meta device): the result is a copy of
        it with the file's modules and tensors. Without it the model is rebuilt from the recipe in the file,
        and its class is not needed; `read_recipe(path).loads_without_class` says whether that is possible.

    Returns
    -------
    nn.Module
        The quantized model, packed for this machine's CPU.

    Raises
    ------
    FileFormatError
        The file is damaged, hostile or of a newer version; or it holds no structure and `model` is missing.
    ConversionError
        `model` has another structure than the saved one.

    Examples
    --------
    >>> import intaglio, tempfile, os
    >>> quantized = intaglio.quantize_dynamic(nn.Sequential(nn.Linear(16, 8), nn.ReLU()))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = os.path.join(folder, "model.safetensors")
    ...     _ = intaglio.save(quantized, file)
    ...     again = intaglio.load(file)
    >>> x = torch.randn(2, 16)
    >>> torch.equal(again(x), quantized(x))
    True
    """
    with _open(path) as reader:
        recipe = recipe_of_metadata(reader.header.metadata)
        tensors = reader.header.tensors
        check_tensors(recipe, tensors)
        if model is not None:
            root, modules = replace_modules(model, recipe, tensors)
        elif recipe.structure.way == "none":
            raise FileFormatError(
                f"it does not hold the model's structure: {recipe.structure.reason or 'no reason is given'}. "
                "Pass model=, a float model of the class that was saved"
            )
        else:
            root, modules = build_model(recipe, tensors)
            check_owners(recipe, modules, tensors)
        _fill(recipe, modules, reader)
    leave_fast_paths(root)
    object.__setattr__(root, RECORD, dict(recipe.kept_float))
    if (account := recipe.account) is not None:
        record = GraphRecord(list(account.graphs), dict(account.left), dict(account.floats))
        record.macs, record.int8_macs = account.macs, account.int8_macs
        object.__setattr__(root, GRAPH_RECORD, record)
    if recipe.scores is not None:
        object.__setattr__(root, SCORES, recipe.scores)
    return root


def read_recipe(path: str | os.PathLike[str]) -> FileDescription:
    """What a saved file holds and how it can be loaded, without loading a tensor.

    Raises `FileFormatError` as `load` does.
    """
    with _open(path) as reader:
        return FileDescription(
            recipe_of_metadata(reader.header.metadata),
            tuple(reader.header.tensors.values()),
            reader.header.file_bytes,
        )


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[TensorReader]:
    """The file's reader; errors within the block name the file."""
    with open(path, "rb") as file:
        try:
            yield TensorReader(file)
        except FileFormatError as error:
            raise FileFormatError(f"'{os.fspath(path)}': {error}") from None


def _fill(recipe: Recipe, modules: Mapping[str, nn.Module], reader: TensorReader) -> None:
    """Read every tensor of the file into the modules."""
    with torch.no_grad():
        _fill_quantized(recipe, modules, reader)
        read: dict[tuple[str, bool], Tensor] = {}
        for record in recipe.tensors:
            owner = modules[record.name.rpartition(".")[0]]
            if record.role == "constant" and not isinstance(owner, RecordedModel):
                continue  # the user's own forward has its own
            key = (record.tensor, record.role == "parameter")
            if key not in read:
                read[key] = _read_float(record, reader)
            _put(owner, record, read[key])


def _fill_quantized(recipe: Recipe, modules: Mapping[str, nn.Module], reader: TensorReader) -> None:
    """Fill and pack the quantized modules; those with the same tensors come to share the packed ones."""
    filled: dict[Any, QuantizedModule] = {}
    pool = WeightPool()
    for record in recipe.quantized():
        module = modules[record.path]
        assert isinstance(module, QuantizedModule)
        key = (record.kind, repr(record.config), tuple(sorted(record.state.items())))
        if key in filled:
            module.share_weights_of(filled[key])
        else:
            _pack(module, record, {name: reader.read(tensor) for name, tensor in record.state.items()})
            pool.share(module)
            _core.release_free_memory()  # the plain tensors left a hole between the packed ones
            filled[key] = module


def _pack(module: QuantizedModule, record: QuantizedRecord, state: dict[str, Tensor]) -> None:
    try:
        module.load_plain_state(state)
    except Exception as error:  # a config that fits the tensors' shapes can still be absurd
        raise FileFormatError(
            f"module '{record.path}' ({record.kind}) cannot be packed with its config "
            f"{str(dict(record.config))[:200]}: {error}"
        ) from None


def _read_float(record: TensorRecord, reader: TensorReader) -> Tensor:
    tensor = reader.read(record.tensor)
    if record.dim_order is not None:
        inverse = [record.dim_order.index(d) for d in range(tensor.dim())]
        tensor = tensor.permute(record.dim_order).contiguous().permute(inverse)
    return nn.Parameter(tensor, record.requires_grad) if record.role == "parameter" else tensor


def _put(owner: nn.Module, record: TensorRecord, tensor: Tensor) -> None:
    name = record.name.rpartition(".")[2]
    if record.role == "parameter":
        setattr(owner, name, tensor)  # and not into its table: recurrent layers keep a list of their own
        return
    try:
        owner.register_buffer(name, tensor, persistent=record.persistent and record.role == "buffer")
    except KeyError:
        raise ConversionError(
            f"'{record.name}' is a buffer in the file, but something else in the given model: "
            "pass an instance of the class that was saved"
        ) from None
