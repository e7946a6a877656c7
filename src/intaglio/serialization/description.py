"""What a file holds, for people and programs: `FileDescription`. May import recipe and container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from intaglio.files.recipe import (
    GRAPH_CLASS,
    METHOD_CLASS,
    MethodRecord,
    QuantizedRecord,
    Recipe,
    RegionRecord,
    SharedRecord,
)
from intaglio.serialization.container import TensorEntry

__all__ = ["FileDescription"]


@dataclass(frozen=True)
class FileDescription:
    """A saved file: recipe, tensors and size. `str()` is a short account, `to_dict()` a full one."""

    recipe: Recipe
    tensors: tuple[TensorEntry, ...]
    file_bytes: int

    @property
    def loads_without_class(self) -> bool:
        """Whether `load(path)` works without `model=`."""
        return self.recipe.structure.way != "none"

    @property
    def how_to_load(self) -> str:
        """How the file can be loaded, in a sentence."""
        structure = self.recipe.structure
        if structure.way == "modules":
            graphs = any(isinstance(record, RegionRecord) for record in self.recipe.modules)
            return f"load(path): every module is a layer that files know{' or a graph' if graphs else ''}"
        if structure.graph is None:
            return f"load(path, model=...): {structure.reason}"
        missing = [
            f"with {' and '.join(given) or 'no optional argument'} ({reason})"
            for given, reason in structure.graph.refused
        ]
        return "load(path): the forward is recorded" + (f", but not {'; '.join(missing)}" if missing else "")

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values: versions, way of loading, modules, tensors."""
        recipe = self.recipe
        return {
            "format_version": "{}.{}".format(*recipe.format_version),
            "intaglio_version": recipe.intaglio_version,
            "torch_version": recipe.torch_version,
            "file_bytes": self.file_bytes,
            "loads_without_class": self.loads_without_class,
            "how_to_load": self.how_to_load,
            "modules": [_module(module) for module in recipe.modules],
            "tensors": [
                {
                    "name": t.name,
                    "dtype": str(t.dtype)[len("torch.") :],
                    "shape": list(t.shape),
                    "bytes": t.bytes,
                }
                for t in self.tensors
            ],
            "kept_float": dict(recipe.kept_float),
        }

    def __str__(self) -> str:
        recipe = self.recipe
        quantized = recipe.quantized()
        kinds = sorted({record.kind for record in quantized})
        return "\n".join(
            [
                f"format {recipe.format_version[0]}.{recipe.format_version[1]}, written by intaglio "
                f"{recipe.intaglio_version} with torch {recipe.torch_version}, {self.file_bytes} bytes",
                f"{len(quantized)} quantized modules ({', '.join(kinds)}), {len(self.tensors)} tensors",
                self.how_to_load,
            ]
        )


def _module(record: Any) -> dict[str, Any]:
    if isinstance(record, SharedRecord):
        return {"path": record.path, "same_as": record.same_as}
    if isinstance(record, QuantizedRecord):
        return {
            "path": record.path,
            "quantized": True,
            "kind": record.kind,
            "config": dict(record.config),
            "tensors": dict(record.state),
        }
    if isinstance(record, RegionRecord):
        return {"path": record.path, "quantized": False, "kind": GRAPH_CLASS}
    if isinstance(record, MethodRecord):
        return {"path": record.path, "quantized": False, "kind": f"{METHOD_CLASS} of {record.method}"}
    return {"path": record.path, "quantized": False, "kind": record.class_name}
