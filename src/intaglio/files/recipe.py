"""The recipe: what a file says about the model whose tensors it holds. Typed here, JSON in the file.

It lists the modules in the order in which they stand, what each float tensor is to them, and how the whole
can be loaded. Nothing is built here and no tensor is touched. May import recorded_graph, strict_json and
errors. docs/files.md describes the format for readers that are not this library.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from intaglio.errors import FileFormatError
from intaglio.files.recorded_graph import (
    RecordedGraph,
    RegionGraph,
    graph_from_fields,
    graph_to_json,
    region_from_fields,
    region_to_json,
)
from intaglio.files.strict_json import Fields, non_negative, parse_json

__all__ = [
    "FORMAT_VERSION",
    "GRAPH_CLASS",
    "METHOD_CLASS",
    "RECIPE",
    "RECIPE_CHECKSUM",
    "GraphAccount",
    "LayerRecord",
    "MethodRecord",
    "ModuleRecord",
    "QuantizedRecord",
    "Recipe",
    "RegionRecord",
    "SharedRecord",
    "Structure",
    "TensorRecord",
    "checksum_of_recipe",
    "recipe_from_text",
    "recipe_of_metadata",
    "recipe_to_text",
]

FORMAT_VERSION = (1, 0)
"""Major and minor. A reader takes every minor version of its major one, ignoring fields it does not know."""

MAX_DEPTH = 100
"""Most parts of a path."""

GRAPH_CLASS = "torch.fx.GraphModule"
METHOD_CLASS = "intaglio.MethodCall"
"""The class names that stand in a file for modules that are a graph, or that call a method of the user's."""

Way = Literal["modules", "graph", "none"]
Role = Literal["parameter", "buffer", "constant"]


@dataclass(frozen=True)
class ModuleRecord:
    """A module at a path of the model; the root's path is empty. One of the classes below."""

    path: str


@dataclass(frozen=True)
class QuantizedRecord(ModuleRecord):
    """A quantized module: its kind and configuration, and which tensor of the file each plain state is.

    `replaced` has the shapes of the float module's parameters, where they are known.
    """

    kind: str
    config: Mapping[str, Any]
    state: Mapping[str, str]
    replaced: Mapping[str, tuple[int, ...]] | None
    training: bool


@dataclass(frozen=True)
class LayerRecord(ModuleRecord):
    """A float module: its class's qualified name, and its constructor's arguments if files may call it."""

    class_name: str
    arguments: Mapping[str, Any] | None
    training: bool


@dataclass(frozen=True)
class RegionRecord(ModuleRecord):
    """A module whose forward is a graph, which calls modules and reads tensors below its own path."""

    graph: RegionGraph
    training: bool


@dataclass(frozen=True)
class MethodRecord(ModuleRecord):
    """A module that calls `method`, a qualified name, of the user's module at `owner` in the float model."""

    owner: str
    method: str
    training: bool


@dataclass(frozen=True)
class SharedRecord(ModuleRecord):
    """Another path of a module that stands earlier."""

    same_as: str


@dataclass(frozen=True)
class TensorRecord:
    """A float module's tensor: the full name it has in the model, and that of the file's tensor it is.

    Two records with one tensor are tied. `dim_order` is given where the dimensions do not lie in memory in
    their own order; a constant is a tensor that only a recorded graph reads.
    """

    name: str
    tensor: str
    role: Role
    requires_grad: bool = False
    persistent: bool = True
    dim_order: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Structure:
    """How the model can be rebuilt without the user's class, or why it cannot."""

    way: Way
    reason: str | None = None
    graph: RecordedGraph | None = None


@dataclass(frozen=True)
class GraphAccount:
    """What graph mode says of a model: see `intaglio.quantize_fx.GraphRecord`, of which these are fields."""

    graphs: tuple[str, ...]
    left: Mapping[str, str]
    floats: Mapping[str, str]
    macs: int
    int8_macs: int


@dataclass(frozen=True)
class Recipe:
    """Everything about a saved model but its tensors."""

    format_version: tuple[int, int]
    intaglio_version: str
    torch_version: str
    modules: tuple[ModuleRecord, ...]
    tensors: tuple[TensorRecord, ...]
    kept_float: Mapping[str, str]
    structure: Structure
    account: GraphAccount | None = None
    scores: tuple[float, float] | None = None

    def quantized(self) -> tuple[QuantizedRecord, ...]:
        """The quantized modules."""
        return tuple(module for module in self.modules if isinstance(module, QuantizedRecord))


RECIPE, RECIPE_CHECKSUM = "intaglio", "intaglio.recipe.crc32"
"""Where a file's metadata has the recipe's text and its CRC-32."""


# ---- Writing ---------------------------------------------------------------------------------------------


def recipe_to_text(recipe: Recipe) -> str:
    """The recipe as compact JSON."""
    structure: dict[str, Any] = {"way": recipe.structure.way}
    if recipe.structure.reason is not None:
        structure["reason"] = recipe.structure.reason
    if recipe.structure.graph is not None:
        structure["graph"] = graph_to_json(recipe.structure.graph)
    value: dict[str, Any] = {
        "format_version": "{}.{}".format(*recipe.format_version),
        "intaglio_version": recipe.intaglio_version,
        "torch_version": recipe.torch_version,
        "structure": structure,
        "modules": [_module_to_json(module) for module in recipe.modules],
        "tensors": [_tensor_to_json(tensor) for tensor in recipe.tensors],
        "kept_float": dict(recipe.kept_float),
    }
    if recipe.account is not None:
        value["account"] = asdict(recipe.account)
    if recipe.scores is not None:
        value["scores"] = recipe.scores
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _module_to_json(module: ModuleRecord) -> dict[str, Any]:
    value: dict[str, Any] = {"path": module.path}
    if isinstance(module, QuantizedRecord):
        value |= {"quantized": module.kind, "config": module.config, "state": module.state}
        if module.replaced is not None:
            value["replaced"] = module.replaced
    elif isinstance(module, LayerRecord):
        value["class"] = module.class_name
        if module.arguments is not None:
            value["arguments"] = module.arguments
    elif isinstance(module, RegionRecord):
        value |= {"class": GRAPH_CLASS, "graph": region_to_json(module.graph)}
    elif isinstance(module, MethodRecord):
        value |= {"class": METHOD_CLASS, "owner": module.owner, "method": module.method}
    elif isinstance(module, SharedRecord):
        value["same_as"] = module.same_as
    if getattr(module, "training", False):
        value["training"] = True
    return value


def _tensor_to_json(tensor: TensorRecord) -> dict[str, Any]:
    value: dict[str, Any] = {"name": tensor.name, "tensor": tensor.tensor, "role": tensor.role}
    if tensor.requires_grad:
        value["requires_grad"] = True
    if not tensor.persistent:
        value["persistent"] = False
    if tensor.dim_order is not None:
        value["dim_order"] = tensor.dim_order
    return value


# ---- Reading ---------------------------------------------------------------------------------------------


def recipe_of_metadata(metadata: Mapping[str, str]) -> Recipe:
    """The recipe in a file's metadata; `FileFormatError` if there is none, or it is damaged or newer."""
    text = metadata.get(RECIPE)
    if text is None:
        raise FileFormatError(
            "it is a safetensors file, but not one that intaglio.save wrote: it has no recipe"
        )
    recipe = recipe_from_text(text)
    if metadata.get(RECIPE_CHECKSUM) != checksum_of_recipe(text):
        raise FileFormatError("its recipe is damaged: the checksum differs; save the model again")
    return recipe


def checksum_of_recipe(text: str) -> str:
    """CRC-32 of a recipe's text."""
    return f"{zlib.crc32(text.encode()):08x}"


def recipe_from_text(text: str) -> Recipe:
    """Read a recipe; `FileFormatError` for what is damaged, and for a newer major version."""
    fields = Fields(parse_json(text, "the recipe"), "the recipe")
    version = _version(fields.text("format_version"), fields.value.get("intaglio_version"))
    structure = Fields(fields.value.get("structure"), "the recipe's structure")
    return Recipe(
        format_version=version,
        intaglio_version=fields.text("intaglio_version"),
        torch_version=fields.text("torch_version"),
        modules=_distinct_modules(fields.each("modules", _read_module)),
        tensors=fields.each("tensors", _read_tensor),
        kept_float=fields.texts("kept_float"),
        structure=_read_structure(structure),
        account=_read_account(fields),
        scores=_read_scores(fields),
    )


def _read_account(fields: Fields) -> GraphAccount | None:
    if "account" not in fields.value:
        return None
    account = Fields(fields.value["account"], "the recipe's account")
    graphs, counts = account.array("graphs"), [account.value.get(name) for name in ("macs", "int8_macs")]
    if not all(isinstance(path, str) for path in graphs):
        raise FileFormatError(f"{account.what}: 'graphs' must be a list of paths")
    macs, int8_macs = non_negative(counts, f"{account.what}: its counts")
    return GraphAccount(tuple(graphs), account.texts("left"), account.texts("floats"), macs, int8_macs)


def _read_scores(fields: Fields) -> tuple[float, float] | None:
    scores = fields.array("scores")
    if not scores:
        return None
    if len(scores) != 2 or any(type(score) not in (int, float) for score in scores):
        raise FileFormatError(f"{fields.what}: 'scores' must be two numbers")
    return float(scores[0]), float(scores[1])


def _version(text: str, written_by: Any) -> tuple[int, int]:
    parts = text.split(".")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise FileFormatError(f"format_version is {text[:40]!r}, not MAJOR.MINOR")
    major, minor = map(int, parts)
    if major > FORMAT_VERSION[0]:
        raise FileFormatError(
            f"it has format version {major}.{minor} and was written by intaglio {written_by!s:.40}; this one "
            f"reads up to {FORMAT_VERSION[0]}.x. Install a newer intaglio (pip install --upgrade intaglio), "
            "or save the model again with this one"
        )
    if major < 1:
        raise FileFormatError(f"there is no format version {text!r}")
    return major, minor


def _read_structure(fields: Fields) -> Structure:
    way = fields.text("way")
    if way not in get_args(Way):
        raise FileFormatError(f"the recipe's structure has the unknown way {way[:40]!r}")
    graph = graph_from_fields(Fields(fields.value.get("graph"), "the graph")) if way == "graph" else None
    return Structure(way, fields.optional_text("reason"), graph)  # type: ignore[arg-type]


def _read_module(fields: Fields) -> ModuleRecord:
    path = _checked_path(fields.text("path"), fields.what)
    if "same_as" in fields.value:
        return SharedRecord(path, fields.text("same_as"))
    training = fields.flag("training", default=False)
    if "quantized" in fields.value:
        replaced = fields.mapping("replaced") if "replaced" in fields.value else None
        return QuantizedRecord(
            path,
            kind=fields.text("quantized"),
            config=fields.mapping("config"),
            state=fields.texts("state"),
            replaced=None if replaced is None else {n: _shape(s, fields.what) for n, s in replaced.items()},
            training=training,
        )
    if "graph" in fields.value:
        graph = region_from_fields(Fields(fields.value["graph"], f"{fields.what}: its graph"))
        return RegionRecord(path, graph, training)
    if "method" in fields.value:
        owner = _checked_path(fields.text("owner"), fields.what)
        return MethodRecord(path, owner, fields.text("method"), training)
    arguments = fields.mapping("arguments") if "arguments" in fields.value else None
    class_name = fields.text("class")
    if len(class_name) > 500 or not class_name.isprintable():
        raise FileFormatError(f"{fields.what} has an absurd class name: {class_name[:80]!r}")
    return LayerRecord(path, class_name, arguments, training)


def _shape(value: Any, what: str) -> tuple[int, ...]:
    return Fields({"shape": value}, what).integers("shape")


def _read_tensor(fields: Fields) -> TensorRecord:
    role = fields.text("role")
    if role not in get_args(Role):
        raise FileFormatError(f"{fields.what} has the unknown role {role[:40]!r}")
    name = _checked_path(fields.text("name"), fields.what)
    if not name:
        raise FileFormatError(f"{fields.what} has no name")
    return TensorRecord(
        name=name,
        tensor=fields.text("tensor"),
        role=role,  # type: ignore[arg-type]
        requires_grad=fields.flag("requires_grad", default=False),
        persistent=fields.flag("persistent", default=True),
        dim_order=fields.integers("dim_order") if "dim_order" in fields.value else None,
    )


def _checked_path(path: str, what: str) -> str:
    """A dotted path whose parts are ordinary names: none empty, none of Python's own `__names__`."""
    if len(path) > 2000 or path.count(".") >= MAX_DEPTH or not path.isprintable():
        raise FileFormatError(f"{what} has an absurd path: {path[:80]!r}")
    if path and any(not part or part.startswith("__") for part in path.split(".")):
        raise FileFormatError(f"{what} has the path {path[:80]!r}, which no module can have")
    return path


_PARENTS = (LayerRecord, RegionRecord, MethodRecord)


def _distinct_modules(modules: tuple[ModuleRecord, ...]) -> tuple[ModuleRecord, ...]:
    """`modules`, if the root comes first, no path twice, and every parent and twin before its user."""
    seen: dict[str, ModuleRecord] = {}
    for module in modules:
        parent = module.path.rpartition(".")[0]
        if module.path in seen or (module.path and not isinstance(seen.get(parent), _PARENTS)):
            raise FileFormatError(f"the recipe's module {module.path!r} is listed twice or has no parent")
        if isinstance(module, SharedRecord) and not _can_stand_for(seen, module):
            raise FileFormatError(f"the recipe's module {module.path!r} is the same as one that is not there")
        seen[module.path] = module
    if "" not in seen:
        raise FileFormatError("the recipe lists no modules")
    return modules


def _can_stand_for(seen: Mapping[str, ModuleRecord], module: SharedRecord) -> bool:
    """Whether the other path is that of a module, and of none that would come to hold itself."""
    other = seen.get(module.same_as)
    inside = f"{module.path}.".startswith(f"{module.same_as}." if module.same_as else "")
    return other is not None and not isinstance(other, SharedRecord) and not inside
