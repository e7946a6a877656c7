"""`load`: from a file that `intaglio.save` wrote to a program, without torch.

May import files and runtime.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO

import numpy as np

from intaglio import _core
from intaglio.errors import FileFormatError
from intaglio.files.header import ITEM_BYTES, Entry, Header, read_checksums, read_header, read_tensor
from intaglio.files.recipe import (
    GRAPH_CLASS,
    LayerRecord,
    QuantizedRecord,
    Recipe,
    RegionRecord,
    SharedRecord,
    recipe_of_metadata,
)
from intaglio.runtime.array_program import ArrayProgram
from intaglio.runtime.graph import Graph, Layer, decode_arguments, decode_region
from intaglio.runtime.model import Layers, Model, model_of_layer, model_of_recorded, model_of_region

__all__ = ["load"]

_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""numpy's names of the file's types; others (bfloat16) are read where nothing needs them, and refused
then."""


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> ArrayProgram:
    """Load a model that `intaglio.save` wrote, to be run without torch.

    Parameters
    ----------
    path : str or path
        The file, of a model or of a `Program`; `intaglio.read_recipe(path).loads_without_class` must hold.
    threads : int, optional
        How many threads a call may use; without it, one for each CPU.

    Returns
    -------
    ArrayProgram
        Takes and gives numpy arrays, with the bits of the saved model where all of it is quantized.

    Raises
    ------
    FileFormatError
        The file is damaged, hostile or of a newer version, holds no structure, or a step that needs torch.
    OSError
        The file cannot be read.
    """
    _core.active_isa()  # an instruction set that is forced and not there is told here
    with open(path, "rb") as file:
        try:
            model = _read_model(file)
        except FileFormatError as error:
            raise FileFormatError(f"'{os.fspath(path)}': {error}") from None
    return ArrayProgram(model, threads)


class _Tensors:
    """The tensors of an open file, each read once, when it is asked for."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file, self._header = file, header
        self._checksums = read_checksums(header)
        self._known: dict[str, np.ndarray[Any, Any]] = {}

    def read(self, name: str, what: str) -> np.ndarray[Any, Any]:
        """A tensor by its name in the file."""
        if name not in self._known:
            entry = self._header.tensors.get(name)
            if entry is None:
                raise FileFormatError(f"{what}: the tensor {name[:80]!r} is not in the file")
            self._known[name] = self._read(entry)
        return self._known[name]

    def _read(self, entry: Entry) -> np.ndarray[Any, Any]:
        data = np.empty(entry.bytes, np.uint8)
        view = memoryview(data)  # type: ignore[arg-type]
        read_tensor(self._file, self._header, self._checksums, entry, view)
        if entry.type not in _TYPES:
            return data  # of a type that numpy lacks: whoever needs it finds another type
        assert np.dtype(_TYPES[entry.type]).itemsize == ITEM_BYTES[entry.type]
        try:
            return data.view(_TYPES[entry.type]).reshape(entry.shape)
        except ValueError as error:  # an empty tensor whose other sizes are absurd
            raise FileFormatError(f"tensor {entry.name!r} cannot have shape {entry.shape}: {error}") from None


def _read_model(file: BinaryIO) -> Model:
    header = read_header(file)
    recipe = recipe_of_metadata(header.metadata)
    structure = recipe.structure
    if structure.way == "none":
        raise FileFormatError(
            f"it does not hold the model's structure ({structure.reason or 'no reason is given'}): "
            "it can be loaded where torch is, with intaglio.load(path, model=...)"
        )
    layers, graphs = _read_layers(recipe, _Tensors(file, header))
    root = recipe.modules[0]
    name = root.class_name.rpartition(".")[2] if isinstance(root, LayerRecord) else "Model"
    if structure.graph is not None:
        return model_of_recorded(name, layers, graphs, structure.graph)
    if isinstance(root, RegionRecord):
        return model_of_region(name, layers, graphs)
    return model_of_layer(name, layers, graphs)


def _read_layers(recipe: Recipe, tensors: _Tensors) -> tuple[Layers, dict[str, Graph]]:
    """The layers of a recipe with their tensors, and the graphs among them."""
    own: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    for record in recipe.tensors:
        owner, _, name = record.name.rpartition(".")
        own.setdefault(owner, {})[name] = tensors.read(record.tensor, f"the tensor {record.name!r}")
    layers: dict[str, Layer] = {}
    graphs: dict[str, Graph] = {}
    aliases: dict[str, str] = {}
    for module in recipe.modules:
        path = module.path
        if isinstance(module, SharedRecord):
            aliases[path] = module.same_as
        elif isinstance(module, QuantizedRecord):
            what = f"module '{path}' ({module.kind})"
            state = {name: tensors.read(tensor, what) for name, tensor in module.state.items()}
            layers[path] = Layer(path, module.kind, module.config, state)
        elif isinstance(module, LayerRecord):
            arguments = decode_arguments(module.arguments or {}, f"module '{path}'")
            layers[path] = Layer(path, module.class_name, arguments, own.get(path, {}))
        elif isinstance(module, RegionRecord):
            layers[path] = Layer(path, GRAPH_CLASS, {}, own.get(path, {}))
            graphs[path] = decode_region(module.graph, f"the graph at '{path}'")
    return Layers(layers, aliases), graphs
