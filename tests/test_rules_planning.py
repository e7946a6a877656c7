"""The table of rules, and the plan that is made from it and from the user's specification."""

import sys
from types import MethodType, ModuleType

import pytest
import torch
from torch import Tensor, nn

from intaglio import ConfigError, ConversionError, NothingQuantizedError, QConfig, rules
from intaglio import default_dynamic_qconfig as INT8_QCONFIG
from intaglio import float16_dynamic_qconfig as HALF_QCONFIG
from intaglio import per_tensor_dynamic_qconfig as TENSOR_QCONFIG
from intaglio.eager.planning import Plan, plan_dynamic, read_spec, refuse_model, rules_with
from intaglio.observer import ObserverFactory
from intaglio.rules import OpRule, all_rules, register_rule, rule_of, why_no_rule


class Same(nn.Linear):
    """A subclass that computes what its base computes."""


class Doubled(nn.Linear):
    """A subclass that does not."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = Block(), Block(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)))


PROVED_IN_MODELS = {"DeQuantStub", "FloatFunctional"}
"""Neither is a network of its own: the first takes a `QTensor`, the second has methods for a forward."""


def rule_for(kind: type[nn.Module], name: str = "Test") -> OpRule:
    return OpRule(
        name=name,
        float_types=(kind,),
        lower_dynamic=lambda module, qconfig, path: nn.Identity(),
        weight_dtypes=frozenset({"int8"}),
        default_for=frozenset(),
    )


@pytest.fixture
def _own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_rules", list(rules._rules))


def plan(model: nn.Module, spec: object, dtype: object = "int8") -> Plan:
    return plan_dynamic(model, read_spec(spec, dtype, all_rules()), all_rules())


def chosen(model: nn.Module, spec: object, dtype: object = "int8") -> dict[str, QConfig]:
    return {path: item.qconfig for item in plan(model, spec, dtype).replacements for path in item.paths}


# ---- Rules ------------------------------------------------------------------------------------------------


def test_a_rule_covers_subclasses_that_keep_forward_and_no_others() -> None:
    linear = rule_of(nn.Linear(2, 2), all_rules())
    assert linear is not None
    assert rule_of(Same(2, 2), all_rules()) is linear
    assert rule_of(Doubled(2, 2), all_rules()) is None
    assert why_no_rule(Doubled(2, 2), all_rules()) == "its class overrides Linear.forward"
    assert why_no_rule(nn.Bilinear(2, 2, 2), all_rules()) == "no rule for Bilinear"


def test_a_forward_replaced_on_the_module_itself_is_not_lost_in_silence() -> None:
    layer = nn.Linear(2, 2)
    layer.forward = MethodType(lambda self, x: x + 1, layer)  # type: ignore[method-assign]
    assert rule_of(layer, all_rules()) is None
    assert "its forward is replaced" in why_no_rule(layer, all_rules())


@pytest.mark.usefixtures("_own_rules")
def test_later_rules_win() -> None:
    mine = register_rule(rule_for(nn.Linear, "Mine"))
    assert rule_of(nn.Linear(2, 2), all_rules()) is mine
    assert all_rules()[0] is mine


def test_rules_by_name_apply_once_their_library_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = OpRule("Later", (), float_type_names=frozenset({"some_library.Layer"}))
    assert rule.all_float_types() == ()
    library = ModuleType("some_library")
    library.Layer = Same  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_library", library)
    assert rule.all_float_types() == (Same,)
    assert rule.matches(Same(2, 2))
    library.Layer = len  # type: ignore[attr-defined]
    assert rule.all_float_types() == ()


def test_every_rule_can_be_proved() -> None:
    assert all_rules()
    for rule in all_rules():
        static = rule.static.examples if rule.static is not None else ()
        if rule.weight_dtypes:
            assert rule.examples, f"rule {rule.name} has no example: the tests cannot prove it"
        elif rule.name not in PROVED_IN_MODELS:
            assert static, f"rule {rule.name} has no static example: the tests cannot prove it"
        assert rule.weight_dtypes >= rule.default_for, rule.name
        for make in (*rule.examples, *static):
            module, inputs = make()
            assert rule_of(module, all_rules()) is rule, rule.name
            assert isinstance(inputs, tuple)
    names = [rule.name for rule in all_rules()]
    assert len(names) == len(set(names))


# ---- Specifications ---------------------------------------------------------------------------------------


def test_types_sets_lists_and_generators() -> None:
    everything = {"first.up", "first.down", "second.up", "second.down", "head"}
    for spec in ({nn.Linear}, [nn.Linear], (nn.Linear,), frozenset({nn.Linear}), iter([nn.Linear])):
        assert set(chosen(Net(), spec)) == everything
    assert set(chosen(Net(), None)) == everything
    assert set(chosen(Net(), None, torch.float16)) == everything


def test_names_and_containers() -> None:
    assert set(chosen(Net(), {"head"})) == {"head"}
    assert set(chosen(Net(), {"first", "head"})) == {"first.up", "first.down", "head"}
    assert set(chosen(Net(), {Block})) == {"first.up", "first.down", "second.up", "second.down"}
    assert len(chosen(Net(), {""})) == 5
    assert len(chosen(Net(), {Net})) == 5


def test_a_name_wins_over_a_type_and_the_nearer_over_the_farther() -> None:
    spec = {
        nn.Linear: INT8_QCONFIG,
        "first": HALF_QCONFIG,
        "first.up": TENSOR_QCONFIG,
        "head": None,
        "second": None,
    }
    found = chosen(Net(), spec)
    assert found["first.up"] is TENSOR_QCONFIG
    # The type of the module itself is nearer than the name of what holds it.
    assert found["first.down"] is INT8_QCONFIG
    assert found["second.up"] is INT8_QCONFIG
    assert "head" not in found

    found = chosen(Net(), {Block: HALF_QCONFIG, "second": TENSOR_QCONFIG, "": INT8_QCONFIG})
    assert found["first.up"] is HALF_QCONFIG
    assert found["second.up"] is TENSOR_QCONFIG
    assert found["head"] is INT8_QCONFIG


def test_precedence_is_the_legacy_one() -> None:
    from torch.ao.quantization import propagate_qconfig_

    ours = {
        nn.Linear: INT8_QCONFIG,
        "first": None,
        "first.up": TENSOR_QCONFIG,
        Block: HALF_QCONFIG,
        "head": None,
    }
    legacy = Net()
    propagate_qconfig_(legacy, ours)
    # The legacy adds arguments of its own to each factory.
    theirs = {
        path: QConfig(*(ObserverFactory(made.observer, made.arguments) for made in module.qconfig))
        for path, module in legacy.named_modules()
        if isinstance(module, nn.Linear) and module.qconfig
    }
    assert chosen(Net(), ours) == theirs


def test_none_keeps_a_part_in_float_and_says_so() -> None:
    result = plan(Net(), {nn.Linear: INT8_QCONFIG, "head": None, "first.up": None})
    assert {path for item in result.replacements for path in item.paths} == {
        "first.down",
        "second.up",
        "second.down",
    }
    assert result.kept == {"head": "not asked for", "first.up": "not asked for"}


def test_a_subclass_may_be_asked_for_by_its_own_type_or_its_base() -> None:
    model = nn.Sequential(Same(2, 2), nn.Linear(2, 2))
    assert set(chosen(model, {Same})) == {"0"}
    assert set(chosen(model, {nn.Linear})) == {"0", "1"}
    assert chosen(model, {nn.Linear: INT8_QCONFIG, Same: HALF_QCONFIG}) == {
        "0": HALF_QCONFIG,
        "1": INT8_QCONFIG,
    }


@pytest.mark.parametrize("spec", ["head", nn.Linear])
def test_a_lone_name_or_type_is_refused(spec: object) -> None:
    with pytest.raises(ConfigError, match=r"put it in \{\}"):
        plan(Net(), spec)


def test_unknown_names_are_refused_with_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"'first.upp'.*no such module; did you mean 'first.up'"):
        plan(Net(), {"first.upp"})
    with pytest.raises(ConfigError, match=r"'xyz', but the model has no such module$"):
        plan(Net(), {"xyz": None})


@pytest.mark.parametrize("key", [3, None, nn.Linear(2, 2), torch.int8])
def test_keys_that_are_neither_types_nor_names_are_refused(key: object) -> None:
    with pytest.raises(ConfigError, match="use module types or names"):
        plan(Net(), {key})


def test_values_that_are_no_qconfig_are_refused() -> None:
    import torch.ao.quantization as legacy

    for wrong in (legacy.default_dynamic_qconfig, "int8", torch.qint8, True):
        with pytest.raises(ConfigError, match=r"use an intaglio.QConfig.*or None"):
            plan(Net(), {nn.Linear: wrong})


@pytest.mark.parametrize("dtype", [torch.float32, torch.qint32, "int2"])
def test_unknown_dtypes_are_refused(dtype: object) -> None:
    with pytest.raises(ConfigError, match="use one of"):
        plan(Net(), {nn.Linear}, dtype)


# ---- Plans ------------------------------------------------------------------------------------------------


def test_a_module_at_two_paths_is_one_replacement() -> None:
    model = Net()
    model.second = model.first
    result = plan(model, {nn.Linear})
    assert [item.paths for item in result.replacements] == [
        ("first.up", "second.up"),
        ("first.down", "second.down"),
        ("head",),
    ]


def test_a_module_at_two_paths_may_be_named_by_either() -> None:
    model = Net()
    model.second = model.first
    for name in ("first.up", "second.up"):
        assert set(chosen(model, {name})) == {"first.up", "second.up"}
    assert set(chosen(model, {"second"})) == {"first.up", "second.up", "first.down", "second.down"}


def test_a_module_at_two_paths_cannot_be_two_things() -> None:
    model = Net()
    model.second = model.first
    with pytest.raises(ConfigError, match=r"'first.up' and 'second.up' are one module"):
        plan(model, {"first.up": INT8_QCONFIG, "second.up": None})


@pytest.mark.usefixtures("_own_rules")
@pytest.mark.parametrize("at_root", [True, False])
def test_what_is_inside_a_replaced_module_is_not_planned_again(at_root: bool) -> None:
    register_rule(rule_for(Block))
    model = Block() if at_root else nn.Sequential(Block())
    result = plan(model, {Block, nn.Linear})
    assert [item.paths for item in result.replacements] == [("",) if at_root else ("0",)]
    assert result.kept == {}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_reasons_why_modules_stay_float() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Doubled(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 0))
    assert plan(model, {nn.Linear}).kept == {
        "1": "its class overrides Linear.forward",
        "2": "BatchNorm has no dynamic form",
        "4": "its weight is empty",
    }


def test_a_layer_whose_sums_could_overflow_stays_float() -> None:
    model = nn.Sequential(nn.Linear(65_794, 1), nn.Linear(1, 65_793))
    result = plan(model, {nn.Linear})
    assert list(result.kept) == ["0"]
    assert "65794 input features exceed 65793" in result.kept["0"]
    assert len(plan(model, {nn.Linear}, torch.float16).replacements) == 2


# ---- Nothing to do ----------------------------------------------------------------------------------------


def test_nothing_matched_says_what_was_asked_for_and_what_there_is() -> None:
    # ultralytics/yolov5#4386: a model of convolutions, asked for Linear, came back bigger and float.
    model = nn.Sequential(nn.BatchNorm2d(3), nn.PReLU(), nn.ReLU())
    with pytest.raises(NothingQuantizedError) as caught:
        plan(model, {nn.Linear, nn.LSTM})
    assert str(caught.value) == (
        "nothing was quantized: asked for LSTM, Linear; the model's modules with parameters are "
        "BatchNorm2d, PReLU (BatchNorm has no dynamic form; PReLU has no dynamic form)"
    )


@pytest.mark.parametrize(
    ("model", "spec", "dtype", "text"),
    [
        (nn.Sequential(nn.ReLU()), None, "int8", "modules with parameters are none"),
        (nn.Sequential(nn.Linear(2, 2)), set(), "int8", "asked for nothing"),
        (nn.Sequential(nn.Linear(2, 2)), {nn.Linear}, torch.quint8, "Linear has no uint8 form"),
        (nn.Sequential(Doubled(2, 2)), {nn.Linear}, "int8", "overrides Linear.forward"),
        (nn.Sequential(nn.Linear(2, 2)), {"0": None}, "int8", "asked for '0'"),
    ],
)
def test_why_nothing_matched(model: nn.Module, spec: object, dtype: object, text: str) -> None:
    with pytest.raises(NothingQuantizedError, match=text):
        plan(model, spec, dtype)


# ---- Models -----------------------------------------------------------------------------------------------


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"takes an nn.Module, not OrderedDict"):
        refuse_model(Net().state_dict())


def test_a_model_without_data_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"'0.weight' has no data.*load the weights first"):
        refuse_model(nn.Sequential(nn.Linear(2, 2, device="meta")))
    with pytest.raises(ConversionError, match=r"'0.weight' has no data.*run the model once"):
        refuse_model(nn.Sequential(nn.LazyLinear(2)))


def test_a_model_elsewhere_is_refused() -> None:
    # pytorch/pytorch#27729 and a dozen more: say it at conversion, not when the first kernel is missing.
    class OnCuda(nn.Parameter):
        device = torch.device("cuda:0")

    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight = OnCuda(torch.zeros(2, 2))
    with pytest.raises(ConversionError, match=r"'0.weight' is on cuda:0.*call model.cpu\(\) first"):
        refuse_model(model)


# ---- mapping ----------------------------------------------------------------------------------------------


class Replaced(nn.Module):
    @classmethod
    def from_float(cls, module: nn.Module) -> "Replaced":
        return cls()


def test_a_mapping_comes_before_every_rule_and_may_be_a_class_or_a_function() -> None:
    table = rules_with({nn.Linear: Replaced, nn.ReLU: lambda module: nn.Identity()})
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    result = plan_dynamic(model, read_spec(None, "int8", table), table)
    made = [item.rule.lower_dynamic(item.module, item.qconfig, item.paths[0]) for item in result.replacements]
    assert [type(module) for module in made] == [Replaced, nn.Identity]
