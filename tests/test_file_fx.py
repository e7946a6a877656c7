"""Files of what `convert_fx` gives: every architecture comes back with the same bits, with its checks."""

import contextlib
import copy
import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import intaglio
from benchmarks.architectures import ARCHITECTURES, Architecture
from intaglio.graph_passes.examples import Call
from intaglio.graph_passes.record import graph_record
from tests.file_models import assert_same
from tests.forging import forge
from tests.fx.quantized_models import quantize_architecture

RETURN_CLASSES = ("Answers in a named tuple", "Answers in a dataclass")


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def quantize(model: nn.Module, *calls: tuple[tuple[Any, ...], dict[str, Any]]) -> nn.Module:
    """The model that graph mode makes of `model`, calibrated with `calls`."""
    prepared = intaglio.prepare_fx(model, intaglio.get_default_qconfig_mapping(), Call(*calls[0]))
    with torch.no_grad():
        for args, kwargs in calls:
            prepared(*args, **kwargs)
    return intaglio.convert_fx(prepared)


def save(model: nn.Module, path: Path) -> intaglio.FileDescription:
    """Save; the warning that a model needs its class is for the caller to find in the description."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*can only be loaded with", category=UserWarning)
        return intaglio.save(model, path)


def run(model: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """What `model` gives for a call."""
    with torch.no_grad():
        return model(*call[0], **call[1])


def result_of(model: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """What `model` gives, or the message of its refusal."""
    try:
        return run(model, call)
    except (intaglio.InputError, AssertionError) as error:
        return str(error)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name.replace(" ", "-"))
def test_every_architecture(architecture: Architecture, tmp_path: Path) -> None:
    converted = quantize_architecture(architecture.name).converted
    described = save(converted, tmp_path / "model")
    record = graph_record(converted)
    assert record is not None
    is_python_needed = bool(record.left) or architecture.name in RETURN_CLASSES
    assert described.loads_without_class != is_python_needed, described.how_to_load
    given = None
    if not described.loads_without_class:
        with pytest.raises(intaglio.FileFormatError, match=r"Pass model=, a float model"):
            intaglio.load(tmp_path / "model")
        given = architecture.make()
        with torch.no_grad():
            for parameter in given.parameters():
                parameter.zero_()
    loaded = intaglio.load(tmp_path / "model", model=given)
    assert isinstance(loaded, fx.GraphModule) == isinstance(converted, fx.GraphModule)
    assert loaded.state_dict().keys() == converted.state_dict().keys()
    assert str(intaglio.summary(loaded)) == str(intaglio.summary(converted))
    for make in (architecture.inputs, *architecture.other_inputs):
        call = make(5)
        expected = result_of(converted, call)
        assert make is not architecture.inputs or not isinstance(expected, str)
        found = result_of(loaded, call)
        assert type(found) is type(expected)
        assert_same(found, expected) if not hasattr(found, "__dict__") or isinstance(found, Tensor) else (
            assert_same(vars(found), vars(expected))
        )


# ---- What stayed Python -----------------------------------------------------------------------------------


def cut(x: Tensor) -> Tensor:
    """Decides by a size, which no graph can."""
    return x[:, : x.shape[1] // 2] if x.shape[1] > 12 else x


def never_named(x: Tensor) -> Tensor:
    """Of the same file, but no forward names it."""
    raise AssertionError("called")


class Gate(nn.Module):
    """Its forward stays Python: it decides by what the values are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gain = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(torch.relu(self.up(x)))
        return y * self.gain if y.sum() > 0 else y


class Net(nn.Module):
    """A function, a method and a module that stay Python, the last called twice."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, 5)
        self.gate = Gate(width)
        self.norm = nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.randn(40, width))

    def placed(self, x: Tensor) -> Tensor:
        return x + (self.positions[: x.shape[1]] if x.shape[1] < 40 else self.positions[0])

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(self.placed(cut(torch.relu(self.first(x)))))
        return self.last(self.norm(self.gate(x)))


def sequences(length: int, seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(2, length, 16, generator=torch.Generator().manual_seed(seed)),), {}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A converted `Net` and its file."""
    torch.manual_seed(0)
    converted = quantize(Net().eval(), sequences(20), sequences(20, 1))
    path = tmp_path_factory.mktemp("mixed") / "model"
    reason = str(save(converted, path).recipe.structure.reason)
    assert "stayed Python" in reason
    return converted, path


def test_python_comes_from_the_given_model(mixed: tuple[nn.Module, Path]) -> None:
    converted, path = mixed
    given = Net().eval()
    weights = [parameter.clone() for parameter in given.parameters()]
    loaded = intaglio.load(path, model=given)
    for call in (sequences(20, 5), sequences(7, 5), sequences(34, 5)):
        assert_same(run(loaded, call), run(converted, call))
    assert all(torch.equal(a, b) for a, b in zip(given.parameters(), weights, strict=True))
    assert isinstance(given.first, nn.Linear)
    with torch.device("meta"):
        empty = Net().eval()
    assert_same(run(intaglio.load(path, model=empty), sequences(9)), run(converted, sequences(9)))


def test_again_and_again(mixed: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """What was loaded can be copied, pickled with its graph, and saved as it was saved first."""
    converted, path = mixed
    loaded = intaglio.load(path, model=Net().eval())
    save(loaded, tmp_path / "again")
    assert (
        intaglio.read_recipe(tmp_path / "again").recipe.modules == intaglio.read_recipe(path).recipe.modules
    )
    for again in (copy.deepcopy(loaded), intaglio.load(tmp_path / "again", model=Net().eval())):
        assert_same(run(again, sequences(20, 3)), run(converted, sequences(20, 3)))


def test_another_model_is_refused(mixed: tuple[nn.Module, Path]) -> None:
    class Other(Net):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Identity()  # type: ignore[assignment]

    class Silent(Net):
        def forward(self, x: Tensor) -> Tensor:
            return x

    for model, message in (
        (Other(), r"'gate': found Identity, expected tests\.test_file_fx\.Gate"),
        (Net(24), r"'gate\.gain': found \(24,\), expected \(16,\)"),
        (Silent(), r"calls tests\.test_file_fx\.cut, which the forwards of the given model do not name"),
        (nn.Sequential(), r"expected a module with the method Net\.placed\(\)"),
    ):
        with pytest.raises(intaglio.ConversionError, match=message):
            intaglio.load(mixed[1], model=model.eval())


def test_functions_without_a_name_are_refused(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(nameless(x))

    converted = quantize(Model().eval(), sequences(20))
    with pytest.raises(intaglio.ConversionError, match=r"<lambda>, which cannot be found again: define"):
        save(converted, tmp_path / "model")
    assert not (tmp_path / "model").exists()


nameless = lambda x: x[:, 1:] if x.shape[1] > 12 else x  # noqa: E731


def test_values_that_no_file_can_hold_are_refused(tmp_path: Path) -> None:
    class Numbered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> dict[int, Tensor]:
            return {0: self.linear(x)}

    converted = quantize(Numbered().eval(), sequences(20))
    with pytest.raises(intaglio.ConversionError, match=r"what it returns is .*\{0: .*set_non_traceable"):
        save(converted, tmp_path / "model")


class Sized(nn.Module):
    """Python's own functions, a check, a slice, a default, several results."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(16, 16), nn.Conv1d(16, 8, 3, padding=1)
        self.register_buffer("table", torch.randn(30, 16), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 2.0) -> dict[str, Any]:
        assert x.shape[2] == 16
        length = min(x.shape[1], self.table.shape[0])
        y = self.linear(x[:, :length] + self.table[:length])
        out = torch.zeros_like(y)
        out[:, ::2] = y[:, ::2]
        best = (self.conv(y.transpose(1, 2)).transpose(1, 2) @ x.new_ones(8, 16)).abs().log1p().max(dim=2)
        low, high = y.chunk(2, dim=-1)
        half = int(length / 2) + round(length * 0.25) + max(1, len(x))
        return {
            "out": out * scale,
            "best": (best.values, best.indices),
            "rest": [low * high, None, half, mask],
        }


def test_graphs_of_many_kinds_of_steps(tmp_path: Path) -> None:
    converted = quantize(Sized().eval(), sequences(20))
    assert save(converted, tmp_path / "model").how_to_load.endswith("or a graph")
    loaded = intaglio.load(tmp_path / "model")
    assert isinstance(loaded, fx.GraphModule)
    targets = [[node.target for node in model.graph.nodes] for model in (loaded, converted)]
    assert targets[0] == targets[1]
    for length in (20, 11, 29):
        assert_same(run(loaded, sequences(length, 5)), run(converted, sequences(length, 5)))
    for other in ((torch.randn(1, 20, 15),), (torch.randn(2, 20, 16), torch.ones(1))):
        refusal = result_of(loaded, (other, {}))
        assert isinstance(refusal, str)
        assert refusal == result_of(converted, (other, {}))
    with pytest.raises(intaglio.InputError, match=r"'scale' is 3\.0 in this call, but it was 2\.0"):
        loaded(*sequences(20)[0], scale=3.0)
    assert_same(run(copy.deepcopy(loaded), sequences(9)), run(converted, sequences(9)))
    intaglio.save(loaded, tmp_path / "again")
    assert_same(run(intaglio.load(tmp_path / "again"), sequences(9)), run(converted, sequences(9)))


def test_a_graph_in_a_model_of_ones_own(tmp_path: Path) -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = quantize(Sized().eval(), sequences(20)), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x)["out"])

    model = Around().eval()
    assert save(model, tmp_path / "model").recipe.structure.way == "graph"
    assert_same(run(intaglio.load(tmp_path / "model"), sequences(8)), run(model, sequences(8)))


# ---- Hostile files ----------------------------------------------------------------------------------------


def edit_graph(*steps: dict[str, Any], **more: Any) -> Callable[[dict[str, Any]], None]:
    """Put `steps` in the place of the first ones of the outermost graph, and `more` into it."""

    def edit(recipe: dict[str, Any]) -> None:
        graph = next(module["graph"] for module in recipe["modules"] if "graph" in module)
        graph["steps"][: len(steps)] = steps
        graph.update(more)

    return edit


def add_module(**record: Any) -> Callable[[dict[str, Any]], None]:
    return lambda recipe: recipe["modules"].append({"class": "torch.nn.Module", **record})


def step(kind: str, target: str, *args: Any) -> dict[str, Any]:
    return {"kind": kind, "target": target, "args": list(args)}


HOSTILE = [
    (edit_graph(step("python", "os.system", "true")), "python 'os.system'"),
    (edit_graph(step("python", "tests.test_file_fx.never_named", {"node": 0})), "never_named"),
    (edit_graph(step("function", "builtins.eval", "1")), "builtins.eval"),
    (edit_graph(step("function", "builtins.getattr", {"node": 0}, "__class__")), "builtins.getattr"),
    (edit_graph(step("attribute", "__class__", {"node": 0})), "__class__"),
    (edit_graph(step("attribute", "grad_fn", {"node": 0})), "grad_fn"),
    (edit_graph(step("module", "", {"node": 0})), "module ''"),
    (edit_graph(step("module", "linear.forward.__globals__")), "__globals__"),
    (edit_graph(step("tensor", "_parameters")), "_parameters"),
    (edit_graph(inputs=[{"name": "x): import os #"}]), "argument called"),
    (edit_graph(inputs=[{"name": "***x"}]), "argument called"),
    (edit_graph(inputs=[{"name": "self"}]), "argument called"),
    (edit_graph(inputs=[{"name": "x"}, {"name": "*x"}]), "impossible arguments"),
    (edit_graph(inputs=[{"name": "**x"}, {"name": "y"}]), "impossible arguments"),
    (edit_graph(inputs=[{"name": "*x", "default": 1}]), "default for"),
    (edit_graph(inputs=[{"name": "x", "default": {"code": "1"}}]), "no value"),
    (edit_graph(inputs=[{"name": "x", "default": 1}, {"name": "y"}, {"name": "z"}]), "no program"),
    (edit_graph(inputs=[{"name": 3}]), "string"),
    (edit_graph(inputs=3), "array"),
    (edit_graph(output={"node": 10**9}), "later node"),
    (lambda recipe: recipe["modules"][0].update(graph=None), "object"),
    (lambda recipe: recipe["modules"][0]["graph"].pop("output"), "lacks 'output'"),
    (add_module(path="forward", arguments={}), "no module can have"),
    (add_module(path="graph", arguments={}), "no module can have"),
    (add_module(path="m", owner="", method="f"), "takes a model"),
    (lambda recipe: recipe["account"].update(macs=-1), "not negative"),
    (lambda recipe: recipe["account"].update(graphs=[3]), "list of paths"),
    (lambda recipe: recipe["account"].update(left={"": 3}), "string"),
    (lambda recipe: recipe.update(account=3), "object"),
    (lambda recipe: recipe.update(scores=[1.0]), "two numbers"),
    (lambda recipe: recipe.update(scores=["a", 1.0]), "two numbers"),
    (lambda recipe: recipe["tensors"].append(recipe["tensors"][0] | {"name": "code"}), "no tensor can have"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "reason"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_graphs(edit: Any, reason: str, tmp_path: Path) -> None:
    save(quantize(Sized().eval(), sequences(20)), tmp_path / "model")
    (tmp_path / "forged").write_bytes(forge((tmp_path / "model").read_bytes(), edit))
    with pytest.raises(intaglio.FileFormatError, match=re.escape(reason)):
        intaglio.load(tmp_path / "forged")


@pytest.mark.parametrize(
    ("target", "args"),
    [
        ("os.system", ["true"]),
        ("tests.test_file_fx.never_named", [{"node": 0}]),
        ("tests.test_file_fx.Net.__init__", []),
        ("builtins.eval", ["1"]),
        ("copy.deepcopy", [{"node": 0}]),
        ("torch.load", ["x"]),
    ],
)
def test_a_file_may_call_only_what_the_given_model_names(
    mixed: tuple[nn.Module, Path], target: str, args: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(forge(mixed[1].read_bytes(), edit_graph(step("python", target, *args))))
    with pytest.raises(intaglio.ConversionError, match=f"calls {target}, which the forwards"):
        intaglio.load(tmp_path / "file", model=Net().eval())


def test_a_file_may_call_only_methods_of_the_given_model(
    mixed: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    def edit(recipe: dict[str, Any]) -> None:
        next(module for module in recipe["modules"] if "method" in module)["method"] = (
            "Module.load_state_dict"
        )

    (tmp_path / "file").write_bytes(forge(mixed[1].read_bytes(), edit))
    with pytest.raises(
        intaglio.ConversionError, match="found Net without it, expected a module with the method"
    ):
        intaglio.load(tmp_path / "file", model=Net().eval())


VALUES = [
    None,
    True,
    -1,
    2**40,
    0.5,
    "",
    "x",
    "gate",
    "call__placed",
    "torch.add",
    "__class__",
    [],
    [[]],
    {},
    {"node": 3},
]


@pytest.mark.parametrize("given", [Net, None])
@pytest.mark.parametrize("seed", range(4))
def test_any_part_of_a_recipe_replaced(
    mixed: tuple[nn.Module, Path], given: Callable[[], nn.Module] | None, seed: int, tmp_path: Path
) -> None:
    """Whatever stands anywhere in a recipe, with a model given or none: one of our own errors, or a model."""
    draw, file = random.Random(seed), mixed[1]
    if given is None:
        file = tmp_path / "model"
        save(quantize(Sized().eval(), sequences(20)), file)
    data = file.read_bytes()

    def edit(recipe: Any) -> None:
        at = recipe["modules"]
        while True:
            key = draw.choice(sorted(at) if isinstance(at, dict) else range(len(at)))
            if not isinstance(at[key], (dict, list)) or not at[key] or draw.random() < 0.1:
                break
            at = at[key]
        if draw.random() < 0.3:
            del at[key]
        else:
            at[key] = draw.choice(VALUES)

    loaded = 0
    for _ in range(60):
        (tmp_path / "file").write_bytes(forge(data, edit))
        with contextlib.suppress(intaglio.FileFormatError, intaglio.ConversionError):
            intaglio.load(tmp_path / "file", model=given and given().eval())
            loaded += 1
    assert loaded < 60
