"""Files that are damaged, cut short or made to harm: a `FileFormatError`, and nothing allocated for them."""
# ruff: noqa: E501 - tables of hostile recipes, one to a line

import contextlib
import itertools
import json
import random
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import intaglio
from intaglio.errors import ConversionError, FileFormatError
from intaglio.files.strict_json import parse_json
from tests.file_models import RULE_EXAMPLES, assert_same
from tests.forging import forge, put_together, take_apart

Recipe = dict[str, Any]
ROOT = Path(__file__).parent.parent


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 5), nn.LayerNorm(5)
        self.rnn = nn.LSTM(5, 3, batch_first=True)
        self.register_buffer("shift", torch.randn(5))

    def forward(self, x, scale=None):
        y = self.norm(self.first(x)) + self.shift + torch.tensor([1.0])
        y = y if scale is None else y * scale
        return self.rnn(y)[0].sum(dim=-1, keepdim=True)


def make(way: str) -> nn.Module:
    if way == "graph":
        return intaglio.quantize_dynamic(Net().eval(), {"first"})
    model = nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    ).eval()
    return intaglio.quantize_dynamic(model, {"0"})


@pytest.fixture(scope="module", params=["modules", "graph"])
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, bytes]:
    """A model, and the bytes of its file."""
    torch.manual_seed(0)
    model = make(request.param)
    file = tmp_path_factory.mktemp("good") / "model"
    assert intaglio.save(model, file).recipe.structure.way == request.param
    return model, file.read_bytes()


def load_bytes(data: bytes, folder: Path, model: nn.Module | None = None) -> nn.Module:
    (folder / "file").write_bytes(data)
    return intaglio.load(folder / "file", model=model)


def assert_refused_or_right(model: nn.Module, data: bytes, folder: Path) -> None:
    """Loading raises `FileFormatError`, or gives exactly the saved model."""
    try:
        loaded = load_bytes(data, folder)
    except FileFormatError:
        return
    x = torch.randn(2, 6) if isinstance(model, nn.Sequential) else torch.randn(2, 3, 6)
    assert_same(loaded(x), model(x))
    assert_same(loaded.state_dict(), model.state_dict())


# ---- Damage ----------------------------------------------------------------------------------------------


def test_cut_short_anywhere(good: tuple[nn.Module, bytes], tmp_path: Path) -> None:
    _, data = good
    lengths = {*range(12), *range(0, len(data), 37), *range(len(data) - 9, len(data))}
    for length in sorted(lengths):
        with pytest.raises(FileFormatError, match="file"):
            load_bytes(data[:length], tmp_path)
    with pytest.raises(FileFormatError, match="take"):
        load_bytes(data + b"x", tmp_path)


def test_bits_flipped_in_every_region(good: tuple[nn.Module, bytes], tmp_path: Path) -> None:
    model, data = good
    header_end = 8 + struct.unpack("<Q", data[:8])[0]
    draw = random.Random(0)
    regions = {"length": (0, 8), "header": (8, header_end), "data": (header_end, len(data))}
    for begin, end in regions.values():
        for _ in range(150):
            damaged = bytearray(data)
            damaged[draw.randrange(begin, end)] ^= 1 << draw.randrange(8)
            assert_refused_or_right(model, bytes(damaged), tmp_path)


def test_every_byte_of_data_is_guarded(good: tuple[nn.Module, bytes], tmp_path: Path) -> None:
    _, data = good
    header_end = 8 + struct.unpack("<Q", data[:8])[0]
    for position in range(header_end, len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(FileFormatError, match=r"tensor .* is damaged"):
            load_bytes(bytes(damaged), tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6)), min_size=1, max_size=4
    )
)
def test_bytes_replaced_anywhere(good: tuple[nn.Module, bytes], tmp_path: Path, changes: Any) -> None:
    model, data = good
    damaged = bytearray(data)
    for place, put in changes:
        at = int(place * len(data))
        damaged[at : at + len(put)] = put
    assert_refused_or_right(model, bytes(damaged), tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\0" * 64, b"\xff" * 64, b"not a model" * 99]
)
def test_other_files(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"'.*file': "):
        load_bytes(data, tmp_path)


def test_files_of_others(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3)}, tmp_path / "file")
    with pytest.raises(FileFormatError, match=r"not one that intaglio\.save wrote"):
        intaglio.load(tmp_path / "file")
    torch.save({"weight": torch.ones(3)}, tmp_path / "file")
    with pytest.raises(FileFormatError):
        intaglio.read_recipe(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        intaglio.load(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError):
        intaglio.load(tmp_path)


# ---- Claims of the container -----------------------------------------------------------------------------


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (entry(shape=[2**40, 2**40], data_offsets=[0, 2**82]), "takes|not fit|begins"),
        (entry(shape=[2**50], data_offsets=[0, 2**52]), "take"),
        (entry(shape=[2**62, 0, 2**62], data_offsets=[0, 0]), "take"),
        (entry(shape=[-1]), "not negative"),
        (entry(shape=[True, 2]), "not negative"),
        (entry(shape=[2.0]), "not negative"),
        (entry(shape="2"), "array"),
        (entry(shape=[1] * 63 + [2, 1]), "dimensions"),
        (entry(shape=[1e300]), "not negative"),
        (entry(dtype="F31"), "unknown dtype"),
        (entry(dtype=3), "a string"),
        (entry(data_offsets=[8, 0]), "bytes"),
        (entry(data_offsets=[1, 9]), "instead of 0"),
        (entry(data_offsets=[0]), "offsets"),
        (entry(data_offsets=[-8, 0]), "not negative"),
        (entry() | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, "instead of 8"),
        ({"a": 3}, "object"),
        ({"__metadata__": {"intaglio": 3}}, "string"),
        ({"__metadata__": []}, "object"),
        ([], "object"),
        (3, "object"),
        (b"{", "not valid JSON"),
        (b'{"a":1,"a":1}', "repeated"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":' + b"9" * 5000 + b"}", "64 bits"),
        (b'{"a":1e999}', "not finite"),
        (b"[" * 100_000, "too deeply"),
        (b"[" * 900 + b"]" * 900, "deeper|too deeply"),
        (b"[" + b"1," * 3_000_000 + b"1]", "more than"),
        (b"\xff\xfe{}", "UTF-8"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_absurd_headers(header: Any, reason: str, tmp_path: Path) -> None:
    tracemalloc.start()
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with pytest.raises(FileFormatError, match=reason):
        load_bytes(put_together(text, b"\0" * 8), tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64e6


@pytest.mark.parametrize("claim", [2**63, 2**64 - 1, 10**15, 10**9])
def test_absurd_header_lengths(claim: int, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=f"claims a header of {claim}"):
        load_bytes(struct.pack("<Q", claim) + b"{}", tmp_path)


def test_a_header_beyond_the_limit(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        file.write(struct.pack("<Q", 2**30))
        file.truncate(2**31)  # sparse: takes no room on the disk
    with pytest.raises(FileFormatError, match="is not read"):
        intaglio.load(tmp_path / "file")


# ---- Recipes ---------------------------------------------------------------------------------------------


def set_at(*path: Any) -> Callable[[Recipe], None]:
    """Put the last of `path` at the keys before it."""
    *keys, last, value = path

    def edit(recipe: Recipe) -> None:
        at: Any = recipe
        for key in keys:
            at = at[key]
        at[last] = value

    return edit


def add_tensor(**record: Any) -> Callable[[Recipe], None]:
    return lambda recipe: recipe["tensors"].append({"tensor": recipe["tensors"][0]["tensor"], **record})


def add_module(**record: Any) -> Callable[[Recipe], None]:
    return lambda recipe: recipe["modules"].append(record)


ANY_RECIPE = [
    (set_at("format_version", "2.0"), "format version 2.0.*Install a newer"),
    (set_at("format_version", "99999.1"), "Install a newer"),
    (set_at("format_version", "0.9"), "no format version"),
    (set_at("format_version", 1), "a string"),
    (set_at("format_version", "1.x"), "MAJOR.MINOR"),
    (set_at("structure", "way", "pickle"), "unknown way"),
    (set_at("structure", None), "object"),
    (set_at("modules", []), "lists no modules"),
    (set_at("modules", {}), "array"),
    (set_at("modules", 0, "path", "x"), "no parent"),
    (set_at("modules", 1, "path", ""), "listed twice"),
    (set_at("modules", 1, "path", "a..b"), "no module can have"),
    (set_at("modules", 1, "path", "__class__"), "no module can have"),
    (set_at("modules", 1, "path", "../../etc/passwd"), "no module can have|lacks|no parent"),
    (set_at("modules", 1, "path", "x\n"), "absurd path"),
    (set_at("modules", 1, "path", ".".join("a" * 500)), "absurd path"),
    (set_at("modules", 1, "quantized", "os.system"), "'os.system', which this intaglio does not know"),
    (set_at("modules", 1, "config", "in_features", 10**15), "does not fit its tensors"),
    (set_at("modules", 1, "config", "in_features", -6), "does not fit|cannot be built"),
    (set_at("modules", 1, "config", "bias", "yes"), "not of type bool"),
    (set_at("modules", 1, "config", "in_features", True), "not of type int"),
    (set_at("modules", 1, "config", "surprise", 1), "cannot be built"),
    (set_at("modules", 1, "config", {}), "cannot be built"),
    (set_at("modules", 1, "config", "num_layers", 10**9), "between 1 and"),
    (set_at("modules", 1, "state", "weight", "nowhere"), "not in the file"),
    (set_at("modules", 1, "state", "weight", "__metadata__"), "not in the file"),
    (set_at("modules", 1, "state", {}), "the recipe names"),
    (set_at("modules", 1, "state", "weight", 3), "string"),
    (add_module(path="loop", same_as="loop"), "is not there"),
    (add_module(path="loop", same_as=""), "is not there"),
    (add_module(path="loop", same_as="nowhere"), "is not there"),
    (set_at("tensors", 0, "tensor", "nowhere"), "not in the file"),
    (set_at("tensors", 0, "name", ""), "no name"),
    (set_at("tensors", 0, "name", "nowhere.weight"), "belongs to no float module"),
    (set_at("tensors", 0, "name", "__class__"), "no module can have"),
    (set_at("tensors", 0, "role", "code"), "unknown role"),
    (set_at("tensors", 0, "dim_order", [0, 0]), "dim_order"),
    (set_at("tensors", 0, "dim_order", [5]), "dim_order"),
    (lambda recipe: recipe["tensors"].append(recipe["tensors"][0]), "listed twice"),
    (lambda recipe: recipe["tensors"].clear(), "lacks the tensor|names the tensor"),
    (set_at("kept_float", {"a": 3}), "string"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "reason"), ANY_RECIPE, ids=itertools.count())
def test_hostile_recipes(good: tuple[nn.Module, bytes], edit: Any, reason: str, tmp_path: Path) -> None:
    _, data = good
    with pytest.raises(FileFormatError, match=reason):
        load_bytes(forge(data, edit), tmp_path)


STEPS = ("structure", "graph", "variants", 0, "steps")

GRAPHS = [
    (set_at(*STEPS, 0, {"kind": "function", "target": "os.system", "args": ["true"]}), "os.system"),
    (set_at(*STEPS, 0, {"kind": "function", "target": "torch.load", "args": ["x"]}), "torch.load"),
    (set_at(*STEPS, 0, {"kind": "function", "target": "builtins.eval", "args": ["1"]}), "eval"),
    (set_at(*STEPS, 0, {"kind": "function", "target": "torch.nn.functional.handle_torch_function"}), "handle"),
    (set_at(*STEPS, 0, {"kind": "function", "target": "torch._C._jit_pass"}), "_jit_pass"),
    (set_at(*STEPS, 0, {"kind": "function", "target": "torch.ops.aten.add"}), "aten"),
    (set_at(*STEPS, 0, {"kind": "method", "target": "__reduce_ex__", "args": [{"node": 0}, 2]}), "__reduce_ex__"),
    (set_at(*STEPS, 0, {"kind": "method", "target": "numpy", "args": [{"node": 0}]}), "numpy"),
    (set_at(*STEPS, 0, {"kind": "method", "target": "add", "args": ["not a node"]}), "'add'"),
    (set_at(*STEPS, 0, {"kind": "method", "target": "add();import os;x"}), "import os"),
    (set_at(*STEPS, 0, {"kind": "attribute", "target": "__class__", "args": [{"node": 0}]}), "__class__"),
    (set_at(*STEPS, 0, {"kind": "attribute", "target": "shape", "args": ["x"]}), "shape"),
    (set_at(*STEPS, 0, {"kind": "module", "target": "", "args": []}), "module ''"),
    (set_at(*STEPS, 0, {"kind": "module", "target": "first.forward.__globals__"}), "__globals__"),
    (set_at(*STEPS, 0, {"kind": "tensor", "target": "norm.__dict__"}), "__dict__"),
    (set_at(*STEPS, 0, {"kind": "module", "target": 'first");import os;("'}), "import os"),
    (set_at(*STEPS, 0, {"kind": "exec", "target": "x"}), "unknown kind"),
    (set_at(*STEPS, 0, "kind", 3), "string"),
    (set_at(*STEPS, 0, "args", [{"node": 0}, {"node": 1}]), "later node"),
    (set_at(*STEPS, 0, "args", [{"node": 10**9}]), "later node"),
    (set_at(*STEPS, 0, "args", [{"node": -1}]), "later node"),
    (set_at(*STEPS, 0, "args", [{"node": True}]), "later node"),
    (set_at(*STEPS, 0, "args", [{"class": "os.system"}]), "no value"),
    (set_at(*STEPS, 0, "args", [{"dtype": "storage"}]), "no value"),
    (set_at(*STEPS, 0, "args", [{"device": "cuda"}]), "no value"),
    (set_at(*STEPS, 0, "args", [{"slice": [1]}]), "no value"),
    (set_at(*STEPS, 0, "args", [{"float": "1"}]), "no value"),
    (set_at(*STEPS, 0, "kwargs", {"x=1);import os;f(y": 1}), "absurd arguments"),
    (set_at(*STEPS, 0, "kwargs", {"class": 1}), "absurd arguments"),
    (set_at("structure", "graph", "variants", 0, "output", {"node": 999}), "later node"),
    (set_at("structure", "graph", "variants", []), "no variant"),
    (set_at("structure", "graph", "variants", 0, "given", ["x"]), "not optional"),
    (set_at("structure", "graph", "variants", 0, "given", [3]), "list of names"),
    (set_at("structure", "graph", "arguments", 0, "name", "x): import os #"), "argument called"),
    (set_at("structure", "graph", "arguments", 0, "name", "self"), "argument called"),
    (set_at("structure", "graph", "arguments", 0, "name", "lambda"), "argument called"),
    (set_at("structure", "graph", "arguments", 0, "name", "scale"), "names an argument twice"),
    (set_at("structure", "graph", "arguments", 0, "kind", "file"), "unknown kind"),
    (set_at("structure", "graph", None), "object"),
    (add_tensor(name="first.packed", role="constant"), "no constant can have|belongs to no"),
    (add_tensor(name="forward", role="buffer"), "no tensor can have"),
    (add_tensor(name="training", role="buffer"), "no tensor can have"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "reason"), GRAPHS, ids=itertools.count())
def test_hostile_graphs(edit: Any, reason: str, tmp_path: Path) -> None:
    intaglio.save(make("graph"), tmp_path / "model")
    with pytest.raises(FileFormatError, match=reason.replace("(", "\\(")):
        load_bytes(forge((tmp_path / "model").read_bytes(), edit), tmp_path)


def test_a_layer_that_is_not_known(tmp_path: Path) -> None:
    intaglio.save(make("modules"), tmp_path / "model")
    data = (tmp_path / "model").read_bytes()
    for edit, reason in [
        (set_at("modules", 2, "class", "os.system"), "not a layer that files may name"),
        (set_at("modules", 2, "arguments", {"inplace": {"code": 1}}), "no value"),
        (lambda recipe: recipe["modules"][2].pop("arguments"), "has no description"),
        (lambda recipe: recipe["modules"].pop(4), "no parent|lacks|belongs to no"),
        (add_module(path="1.child", **{"class": "torch.nn.ReLU", "arguments": {}}), "no such child"),
        (add_module(path="forward", **{"class": "torch.nn.ReLU", "arguments": {}}), "no module can have"),
    ]:
        with pytest.raises(FileFormatError, match=reason):
            load_bytes(forge(data, edit), tmp_path)


def test_configs_that_lie_bring_nothing_down(tmp_path: Path) -> None:
    """Strides of zero, heads that do not divide, sizes beyond the address space: errors, not crashes."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.lying_configs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, f"crashed at {done.stdout.splitlines()[-1:]}: {done.stderr}"
    assert done.stdout.count("loaded") == len(RULE_EXAMPLES)


def test_a_recipe_with_another_checksum(good: tuple[nn.Module, bytes], tmp_path: Path) -> None:
    header, tensors = take_apart(good[1])
    header["__metadata__"]["intaglio.recipe.crc32"] = "00000000"
    with pytest.raises(FileFormatError, match="recipe is damaged"):
        load_bytes(put_together(header, tensors), tmp_path)


def test_fields_of_a_newer_minor_version_are_ignored(good: tuple[nn.Module, bytes], tmp_path: Path) -> None:
    model, data = good

    def edit(recipe: Recipe) -> None:
        recipe["format_version"] = "1.7"
        recipe["colour"] = "blue"
        recipe["modules"][1]["colour"] = {"red": 1}

    assert_refused_or_right(model, forge(data, edit), tmp_path)
    load_bytes(forge(data, edit), tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from(["torch.add", "torch.nn.Linear", "first", "weight", "1.0", "graph", "__class__"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    choices=st.lists(st.integers(0, 2**16), min_size=12, max_size=12), value=json_values, delete=st.booleans()
)
def test_any_part_of_a_recipe_replaced(
    good: tuple[nn.Module, bytes], tmp_path: Path, choices: list[int], value: Any, delete: bool
) -> None:
    """Whatever stands anywhere in a recipe, loading it gives a model or one of our own errors."""
    model, data = good

    def edit(recipe: Recipe) -> None:
        at: Any = recipe
        for choice in choices:
            keys = sorted(at) if isinstance(at, dict) else range(len(at))
            if not keys:
                return
            key = keys[choice % len(keys)]
            if not isinstance(at[key], (dict, list)) or choice % 7 == 0:
                break
            at = at[key]
        if delete:
            del at[key]
        else:
            at[key] = value

    forged = forge(data, edit)
    with contextlib.suppress(FileFormatError):
        load_bytes(forged, tmp_path)
    with contextlib.suppress(FileFormatError, ConversionError):
        load_bytes(forged, tmp_path, model=make("modules") if isinstance(model, nn.Sequential) else Net())


@settings(max_examples=200, deadline=None)
@given(
    text=st.text()
    | st.binary().map(lambda b: b.decode("latin-1"))
    | st.text(alphabet='[]{},:"0123456789e-.truefalsn ', max_size=60)
)
def test_any_text_as_json(text: str) -> None:
    try:
        value = parse_json(text, "it")
    except FileFormatError:
        return
    assert value == json.loads(text)
