"""`QConfigMapping`: the legacy's precedence, its dicts, and errors where it kept silent."""

import copy
import operator
import pickle
import random
from collections import defaultdict
from typing import Any, NamedTuple

import pytest
import torch
import torch.ao.quantization.fx.qconfig_mapping_utils as legacy_lookup
import torch.ao.quantization.qconfig_mapping as legacy
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.quantization.fx.tracer import QuantizationTracer

import intaglio
from intaglio import ConfigError, MinMaxObserver, QConfig, QConfigMapping
from intaglio.qconfig_mapping import as_qconfig_mapping

QCONFIGS = [
    QConfig(MinMaxObserver.with_args(quant_max=top), MinMaxObserver.with_args(dtype="int8"))
    for top in range(200, 206)
]
ONE, TWO, THREE, FOUR, FIVE, SIX = QCONFIGS


def ask(mapping: QConfigMapping, path: str, kind: Any, **more: Any) -> int | None:
    """Which of `QCONFIGS` holds, or None."""
    scope = path if not isinstance(kind, type) else path.rpartition(".")[0]
    found = mapping.qconfig_for(**{"path": path, "object_type": kind, "scopes": (scope,), "index": 0} | more)
    return None if found is None else QCONFIGS.index(found)


# ---- Against the legacy ------------------------------------------------------------------------------------


class Tag(NamedTuple):
    """What stands for a qconfig in the legacy's mapping: not touched, as its fields are not a qconfig's."""

    number: int


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.add(x, self.inner(x))
        return F.relu(torch.add(x.relu(), x)) + x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for block in self.blocks:
            x = torch.add(block(x), 1)
        return self.head(F.relu(x))


PATHS = [path for path, _ in Net().named_modules() if path]
KINDS = [nn.Linear, nn.ReLU, Block, Net, nn.Sequential, torch.add, operator.add, F.relu, "relu", "add"]
REGEXES = ["blocks", "blocks[.][01]$", ".*inner.*", "head.0", "", "inner", r".*\.0"]


def random_settings(draw: random.Random) -> list[tuple[Any, ...]]:
    """A few settings of a mapping: the setter's name, its key, and the number of a qconfig or None."""

    def value() -> int | None:
        return draw.choice([None, *range(len(QCONFIGS))])

    settings: list[tuple[Any, ...]] = [("set_global", value())]
    settings += [("set_object_type", kind, value()) for kind in draw.sample(KINDS, draw.randint(0, 3))]
    settings += [
        ("set_module_name_regex", regex, value()) for regex in draw.sample(REGEXES, draw.choice([0, 0, 1, 2]))
    ]
    settings += [("set_module_name", path, value()) for path in draw.sample(PATHS, draw.choice([0, 0, 1, 2]))]
    for _ in range(draw.choice([0, 1, 3])):
        key = draw.choice([*PATHS, ""]), draw.choice(KINDS), draw.randint(0, 2)
        settings.append(("set_module_name_object_type_order", *key, value()))
    return settings


def filled(mapping: Any, settings: list[tuple[Any, ...]], values: Any) -> Any:
    for setter, *key, value in settings:
        assert getattr(mapping, setter)(*key, None if value is None else values[value]) is mapping
    return mapping


@pytest.mark.parametrize("seed", range(60))
def test_every_node_gets_what_the_legacy_gives_it(seed: int) -> None:
    settings = random_settings(random.Random(seed))
    tags = [Tag(number) for number in range(len(QCONFIGS))]
    theirs, ours = (
        filled(legacy.QConfigMapping(), settings, tags),
        filled(QConfigMapping(), settings, QCONFIGS),
    )
    net = Net()
    tracer = QuantizationTracer([], [])
    graph = tracer.trace(net)
    scopes, modules = tracer.node_name_to_scope, dict(net.named_modules())
    expected = legacy_lookup._generate_node_name_to_qconfig(net, modules, graph, theirs, scopes)
    counts: dict[Any, int] = defaultdict(int)
    for node in graph.nodes:
        path, caller = scopes.get(node.name, ("", Net))
        if node.op == "call_module":
            scope, kind, more = node.target.rpartition(".")[0], type(modules[node.target]), {}
        elif node.op == "call_function":
            scope, kind, more = path, node.target, {"caller": caller}
        elif node.op == "call_method":  # the legacy does not count calls of methods
            scope, kind, more = path, node.target, {"caller": caller, "scopes": ()}
        else:
            continue
        index = counts[scope, kind]
        counts[scope, kind] += 1
        more = {"scopes": (scope,), "index": index, **more}
        found = ask(ours, path if node.op != "call_module" else node.target, kind, **more)
        wanted = expected[node.name]
        assert found == (None if wanted is None else wanted.number), (node, settings)


@pytest.mark.parametrize("seed", range(20))
def test_dicts_and_text_are_the_legacys(seed: int) -> None:
    settings = random_settings(random.Random(seed))
    theirs = filled(legacy.QConfigMapping(), settings, QCONFIGS)
    ours = filled(QConfigMapping(), settings, QCONFIGS)
    assert ours.to_dict() == theirs.to_dict()
    assert repr(ours) == repr(theirs).replace("\n  OrderedDict()", "")
    again = QConfigMapping.from_dict(theirs.to_dict())
    assert again.to_dict() == ours.to_dict()
    assert vars(again).keys() == vars(theirs).keys()
    for held, expected in zip(vars(again).values(), vars(theirs).values(), strict=True):
        assert held == expected


# ---- Precedence, spelt out ---------------------------------------------------------------------------------


def test_the_more_special_wins() -> None:
    mapping = QConfigMapping().set_global(ONE)
    assert ask(mapping, "a.b", nn.Linear) == 0
    mapping.set_object_type(nn.Linear, TWO)
    assert ask(mapping, "a.b", nn.Linear) == 1
    mapping.set_module_name_regex("a", THREE)
    assert ask(mapping, "a.b", nn.Linear) == 2
    mapping.set_module_name("a", FOUR)
    assert ask(mapping, "a.b", nn.Linear) == 3
    mapping.set_module_name("a.b", FIVE)
    assert ask(mapping, "a.b", nn.Linear) == 4
    mapping.set_module_name_object_type_order("a", nn.Linear, 0, SIX)
    assert ask(mapping, "a.b", nn.Linear) == 5
    assert ask(mapping, "a.b", nn.Linear, index=1) == 4
    assert ask(mapping, "a.b", nn.Linear, scopes=("", "a")) == 5
    assert ask(mapping, "a.b", nn.Linear, scopes=("a", "")) == 4
    assert ask(mapping, "ab", nn.ReLU) == 2
    assert ask(mapping, "b", nn.ReLU) == 0


def test_none_is_a_setting_too() -> None:
    mapping = QConfigMapping().set_global(ONE).set_module_name("a", None).set_module_name("a.b", TWO)
    assert ask(mapping, "a.c.d", nn.Linear) is None
    assert ask(mapping, "a.b.d", nn.Linear) == 1
    assert ask(QConfigMapping(), "a", nn.Linear) is None


def test_a_type_is_itself_and_no_other() -> None:
    class Mine(nn.Linear):
        pass

    mapping = QConfigMapping().set_global(ONE).set_object_type(nn.Linear, TWO).set_object_type("relu", THREE)
    assert ask(mapping, "a", Mine) == 0  # as in the legacy
    assert [ask(mapping, "", kind) for kind in (torch.relu, F.relu, "relu")] == [0, 0, 2]


def test_of_several_types_the_first_that_is_known_counts() -> None:
    mapping = (
        QConfigMapping().set_global(ONE).set_object_type("add", TWO).set_object_type(operator.add, THREE)
    )
    assert ask(mapping, "a", (torch.add, operator.add, "add")) == 2
    assert ask(mapping, "a", ["add", operator.add]) == 1
    assert ask(mapping, "a", (torch.mul,)) == 0
    mapping.set_module_name_object_type_order("a", "add", 2, FOUR)
    assert ask(mapping, "a", (torch.add, operator.add, "add"), index=2) == 3


def test_regexes_match_from_the_beginning_and_the_first_wins() -> None:
    mapping = QConfigMapping().set_module_name_regex("a.*", ONE).set_module_name_regex("a[.]b", TWO)
    assert ask(mapping, "a.b", nn.Linear) == 0
    assert ask(mapping, "c.a.b", nn.Linear) is None
    mapping.set_module_name_regex("a.*", THREE)  # keeps its place
    assert ask(mapping, "a.b", nn.Linear) == 2


def test_a_later_setting_of_one_key_wins() -> None:
    mapping = QConfigMapping().set_object_type(nn.Linear, ONE).set_object_type(nn.Linear, TWO)
    assert ask(mapping, "a", nn.Linear) == 1


# ---- Names -------------------------------------------------------------------------------------------------


def test_names_that_the_model_has_not_are_errors() -> None:
    mapping = QConfigMapping().set_module_name("blocks.2", ONE).set_module_name("head.0", ONE)
    mapping.set_module_name_object_type_order("blok", torch.add, 0, None)
    mapping.set_module_name_object_type_order("", torch.add, 0, None)
    with pytest.raises(ConfigError) as caught:
        mapping.check_names(PATHS)
    first, second = str(caught.value).splitlines()
    assert first.startswith(
        "the QConfigMapping names 'blocks.2', but the model has no such module; did you mean"
    )
    assert "'blocks.1'" in first
    assert second.startswith("the QConfigMapping names 'blok'")
    QConfigMapping().set_module_name("head.0", ONE).set_module_name_regex("zzz", ONE).check_names(PATHS)


# ---- What is accepted --------------------------------------------------------------------------------------


def test_dicts_may_hold_dicts() -> None:
    mapping = as_qconfig_mapping(
        {
            "": ONE,
            "object_type": {nn.Linear: TWO, "add": None},
            "module_name_regex": {"a.*": THREE},
            "module_name": [["b", FOUR]],
            "module_name_object_type_order": {("c", torch.add, 1): FIVE},
        }
    )
    assert ask(mapping, "x", nn.Linear) == 1
    assert ask(mapping, "ab", nn.Linear) == 2
    assert ask(mapping, "b", nn.Linear) == 3
    assert ask(mapping, "c", torch.add, index=1) == 4
    assert as_qconfig_mapping(mapping) is mapping


def test_mappings_copy_and_pickle() -> None:
    mapping = intaglio.get_default_qconfig_mapping().set_object_type(nn.Linear, None)
    for other in (copy.deepcopy(mapping), pickle.loads(pickle.dumps(mapping))):
        assert other.to_dict() == mapping.to_dict()


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "onednn", "qnnpack"])
def test_the_default_is_one_qconfig_for_all(backend: str) -> None:
    mapping = intaglio.get_default_qconfig_mapping(backend)
    expected = intaglio.get_default_qconfig(backend)
    assert mapping.to_dict() == QConfigMapping().set_global(expected).to_dict()
    special = legacy.get_default_qconfig_mapping(backend).object_type_qconfigs
    for kind in special:  # what the legacy treats apart, weights per channel and fixed ranges included
        found = mapping.qconfig_for(path="a", object_type=kind, scopes=("",), index=0)
        assert intaglio.qconfig_equals(found, expected)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.ConvTranspose2d(3, 4, 2), (1, 3, 5, 5)),
        (nn.LayerNorm(6), (2, 6)),
        (nn.PReLU(), (2, 6)),
        (nn.Sigmoid(), (2, 6)),
    ],
)
def test_ops_that_the_legacy_treats_apart_take_the_default(module: nn.Module, shape: tuple[int, ...]) -> None:
    model = intaglio.QuantWrapper(module.eval()).eval()
    model.qconfig = intaglio.get_default_qconfig_mapping().global_qconfig  # type: ignore[assignment]
    x = torch.randn(*shape)
    prepared = intaglio.prepare(model)
    prepared(x)
    converted = intaglio.convert(prepared)
    assert type(converted.module) is not type(module)
    assert float((converted(x) - model(x)).detach().abs().max()) < 0.1


# ---- What is not -------------------------------------------------------------------------------------------


def test_values_that_are_no_qconfigs_are_errors() -> None:
    theirs = legacy.get_default_qconfig("x86")
    for value in (theirs, "x86", intaglio.MinMaxObserver, 0):
        with pytest.raises(ConfigError, match=r"set_global got .*: use an intaglio\.QConfig, for"):
            QConfigMapping().set_global(value)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"set_object_type got torch\.ao\.quantization\.qconfig\.QConfig"):
        QConfigMapping().set_object_type(nn.Linear, theirs)
    with pytest.raises(ConfigError, match=r"set_module_name_regex got builtins\.str"):
        QConfigMapping().set_module_name_regex("a", "x86")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"set_module_name got builtins\.str"):
        QConfigMapping().set_module_name("a", "x86")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"set_module_name_object_type_order got builtins\.int"):
        QConfigMapping().set_module_name_object_type_order("a", torch.add, 0, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            nn.Linear(2, 2),
            "got a Linear that is made already: pass the class, Linear, or use set_module_name",
        ),
        ("torch.add", "got 'torch.add', which is no name of a method"),
        ("", "got '', which is no name of a method"),
        (3, "takes a module class, a function or the name of a method, not 3"),
    ],
)
def test_keys_that_are_no_types_are_errors(key: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"set_object_type {message}"):
        QConfigMapping().set_object_type(key, None)
    with pytest.raises(ConfigError, match=f"set_module_name_object_type_order {message}"):
        QConfigMapping().set_module_name_object_type_order("a", key, 0, None)


def test_keys_that_are_no_names_are_errors() -> None:
    with pytest.raises(ConfigError, match="set_module_name takes the path of a module as a str, not <class"):
        QConfigMapping().set_module_name(nn.Linear, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="set_module_name got '', which is the whole model: use set_global"):
        QConfigMapping().set_module_name("", None)
    with pytest.raises(ConfigError, match=r"got 'a\(', which is no regular expression: missing \)"):
        QConfigMapping().set_module_name_regex("a(", None)
    with pytest.raises(ConfigError, match="takes a regular expression as a str, not 3"):
        QConfigMapping().set_module_name_regex(3, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="order takes the path of a module as a str, not 0"):
        QConfigMapping().set_module_name_object_type_order(0, torch.add, 0, None)  # type: ignore[arg-type]
    for index in (-1, True, "0"):
        with pytest.raises(ConfigError, match=rf"got the index {index!r}: count the calls from 0"):
            QConfigMapping().set_module_name_object_type_order("a", torch.add, index, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"module_nam": []}, "has the key 'module_nam', which means nothing; did you mean 'module_name'"),
        (
            {nn.Linear: ONE},
            "has the key <class 'torch.nn.modules.linear.Linear'>, which means nothing: use ''",
        ),
        ({"object_type": nn.Linear}, "'object_type' of the qconfig dict must be a list of tuples or a dict"),
        ({"object_type": ONE}, "'object_type' of the qconfig dict must be a list of tuples or a dict"),
        ({"object_type": [nn.Linear]}, r"holds <class .*: write \(key, qconfig\)"),
        ({"module_name": [("a", None, None)]}, r"'module_name' of the .* write \(key, qconfig\)"),
        (
            {"module_name_object_type_order": [("a", None)]},
            r"write \(module_name, object_type, index, qconfig\)",
        ),
        (
            {"module_name_object_type_order": {"a": None}},
            r"write \(module_name, object_type, index, qconfig\)",
        ),
        (ONE, r"not a QConfig: pass QConfigMapping\(\)\.set_global\(qconfig\)"),
        (
            None,
            r"a QConfigMapping is wanted, not builtins.NoneType: pass intaglio.get_default_qconfig_mapping",
        ),
        (legacy.QConfigMapping(), "wanted, not torch.ao.quantization.qconfig_mapping.QConfigMapping: pass"),
    ],
)
def test_what_is_no_mapping_is_an_error(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        as_qconfig_mapping(value)


def test_from_dict_takes_a_dict() -> None:
    with pytest.raises(ConfigError, match="from_dict takes a dict, not list"):
        QConfigMapping.from_dict([])  # type: ignore[arg-type]


def test_a_backend_or_version_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no default qconfig for the backend 'cuda'"):
        intaglio.get_default_qconfig_mapping("cuda")
    with pytest.raises(ConfigError, match="no version 1"):
        intaglio.get_default_qconfig_mapping("x86", version=1)
