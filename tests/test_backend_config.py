"""`BackendConfig`: the legacy's names and dicts, intaglio's own from its rules, and reasons in words."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.ao.quantization.backend_config as legacy
import torch.ao.quantization.backend_config.utils  # which its own functions take for loaded
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import intaglio
from intaglio import (
    BackendConfig,
    BackendPatternConfig,
    ConfigError,
    DTypeConfig,
    DTypeWithConstraints,
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    NothingQuantizedError,
    ObservationType,
    PerChannelMinMaxObserver,
    QConfig,
    backend_config,
)
from intaglio.backend_config import as_backend_config, get_native_backend_config
from intaglio.eager.static_planning import plan_static
from intaglio.nn.fused import ACTIVATIONS, LAYERS, FusedModule
from intaglio.nn.padded_conv import pad_conv
from intaglio.qparams import FLOAT16, FLOAT32, INT8, UINT4, UINT8
from intaglio.rules import OpRule, all_rules, register_rule

STATIC = intaglio.get_default_qconfig()
DYNAMIC = intaglio.default_dynamic_qconfig
QCONFIGS = {
    "x86": STATIC,
    "qnnpack": intaglio.get_default_qconfig("qnnpack"),
    "int8 activations": QConfig(MinMaxObserver.with_args(dtype="int8"), PerChannelMinMaxObserver),
    "dynamic": DYNAMIC,
    "float16 dynamic": intaglio.float16_dynamic_qconfig,
    "float16 static": intaglio.float16_static_qconfig,
    "rows of 8 bit": intaglio.float_qparams_weight_only_qconfig,
    "rows of 4 bit": intaglio.float_qparams_weight_only_qconfig_4bit,
}
WEIGHTED = DTypeConfig("uint8", "uint8", "int8", torch.float)


def only(pattern: Any, *types: DTypeConfig) -> BackendConfig:
    config = BackendPatternConfig(pattern).set_dtype_configs(types)
    return BackendConfig("mine").set_backend_pattern_config(config)


# ---- Against the legacy ------------------------------------------------------------------------------------

CLASSES = ["BackendConfig", "BackendPatternConfig", "DTypeConfig", "DTypeWithConstraints"]


@pytest.mark.parametrize("name", CLASSES)
def test_names_and_signatures_are_the_legacys(name: str) -> None:
    ours, theirs = getattr(backend_config, name), getattr(legacy, name)
    for method, expected in [("__init__", theirs.__init__), *inspect.getmembers(theirs, callable)]:
        if method == "__init__" or not method.startswith("_"):
            taken = inspect.signature(getattr(ours, method)).parameters.values()
            given = inspect.signature(expected).parameters.values()
            assert [(p.name, p.default) for p in taken] == [(p.name, p.default) for p in given], method
    if name != "BackendConfig":
        public = {key: value for key, value in vars(theirs()).items() if not key.startswith("_")}
        assert vars(ours()).keys() == public.keys()


def test_every_legacy_name_is_here_but_those_of_other_backends() -> None:
    left_out = {name for name in legacy.__all__ if "tensorrt" in name or "executorch" in name}
    left_out |= {"get_native_backend_config_dict"}
    assert set(legacy.__all__) - left_out <= set(backend_config.__all__)
    assert {kind.name: kind.value for kind in ObservationType} == {
        kind.name: kind.value for kind in legacy.ObservationType
    }


def fuse(is_qat: bool, linear: nn.Module, relu: nn.Module) -> nn.Module:
    return FusedModule(linear, relu)


def test_dicts_have_the_legacys_keys() -> None:
    def made(module: Any) -> Any:
        types = module.DTypeConfig(torch.float16, torch.float16, torch.float16, torch.float, is_dynamic=False)
        pattern = module.BackendPatternConfig((nn.Linear, nn.ReLU)).add_dtype_config(types)
        pattern.set_observation_type(module.ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT)
        pattern.set_root_module(nn.Linear).set_qat_module(nn.Linear).set_fused_module(nn.Sequential)
        pattern.set_reference_quantized_module(nn.Linear).set_fuser_method(fuse)
        return module.BackendConfig("mine").set_backend_pattern_configs([pattern])

    ours, theirs = made(backend_config).to_dict(), made(legacy).to_dict()
    assert ours.keys() == theirs.keys()
    assert ours["name"] == theirs["name"]
    (found,), (expected,) = ours["configs"], theirs["configs"]
    assert found.keys() == expected.keys()
    for key in found.keys() - {"dtype_configs", "observation_type"}:
        assert found[key] is expected[key] or found[key] == expected[key], key
    assert found["observation_type"].name == expected["observation_type"].name
    assert found["dtype_configs"][0].keys() == expected["dtype_configs"][0].keys()
    assert BackendConfig.from_dict(ours).to_dict() == ours


def test_legacy_dtypes_are_known_by_name() -> None:
    config = DTypeConfig(torch.quint8, torch.quint8, torch.qint8, torch.float)
    assert (config.input_dtype, config.output_dtype, config.weight_dtype) == (UINT8, UINT8, INT8)
    assert config.bias_dtype is FLOAT32
    assert config == DTypeConfig(torch.uint8, "uint8", "qint8", "float32")
    assert config != DTypeConfig(torch.uint8)
    assert DTypeConfig(weight_dtype=torch.quint4x2).weight_dtype is UINT4
    assert DTypeConfig(torch.half).input_dtype is FLOAT16
    assert copy.deepcopy(config) == config


def test_dtype_configs_go_through_dicts() -> None:
    config = DTypeConfig(
        DTypeWithConstraints("uint8", 0, 127, scale_min_lower_bound=2**-12), "uint8", is_dynamic=False
    )
    written = config.to_dict()
    assert set(written) == {"input_dtype", "output_dtype", "is_dynamic"}
    assert DTypeConfig.from_dict(written) == config
    assert DTypeConfig().to_dict() == {}


# ---- intaglio's own ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["native", "fbgemm", "x86", "qnnpack", "onednn"])
def test_every_backend_is_the_native_one(name: str) -> None:
    made = getattr(backend_config, f"get_{name}_backend_config")()
    assert made.name == name
    assert made.to_dict()["configs"] == get_native_backend_config().to_dict()["configs"]
    assert made.fuser_methods() == {}


def examples() -> list[Any]:
    found = []
    for rule in all_rules():
        made = rule.examples + (() if rule.static is None else rule.static.examples)
        found += [pytest.param(make, id=f"{rule.name}{i}") for i, make in enumerate(made)]
    return found


@pytest.mark.parametrize("qconfig", QCONFIGS.values(), ids=QCONFIGS)
@pytest.mark.parametrize("make", examples())
def test_the_native_config_admits_what_prepare_takes(
    make: Callable[[], tuple[nn.Module, Any]], qconfig: QConfig
) -> None:
    module = make()[0].eval()
    refused = get_native_backend_config().why_refused(module, qconfig)
    model = nn.Sequential(module)
    model.qconfig = qconfig  # type: ignore[assignment]
    try:
        taken = bool(plan_static(model, all_rules()).leaves)
    except NothingQuantizedError:
        taken = False
    assert taken == (refused is None), refused


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_with_an_activation_is_what_the_layer_is(layer: type[nn.Module]) -> None:
    native = get_native_backend_config()
    for activation in ACTIVATIONS:
        for qconfig in QCONFIGS.values():
            alone = native.why_refused(layer, qconfig)
            pair = native.why_refused((layer, activation), qconfig)
            assert (alone is None) == (pair is None)
    assert native.why_refused((layer, nn.Softmax), STATIC) == (
        f"the backend config 'native' has no pattern {layer.__name__} + Softmax"
    )


def test_patterns_are_read_from_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(nn.Module):
        pass

    monkeypatch.setattr("intaglio.rules._rules", list(all_rules()))
    assert "no pattern Mine" in (get_native_backend_config().why_refused(Mine(), DYNAMIC) or "")
    register_rule(OpRule("Mine", (Mine,), weight_dtypes=frozenset({"int8"})))
    native = get_native_backend_config()
    assert native.why_refused(Mine(), DYNAMIC) is None
    assert "activation is static, not dynamic" in (native.why_refused(Mine(), STATIC) or "")


def test_root_fused_and_observed_are_read_from_the_rules() -> None:
    found = {config.pattern: config for config in get_native_backend_config().configs}
    assert found[nn.Linear].root_module is nn.Linear
    assert found[nn.LayerNorm].root_module is None
    assert found[nn.Linear, nn.ReLU].root_module is nn.Linear
    assert found[nn.Linear, nn.ReLU].fused_module is FusedModule
    assert found[nn.BatchNorm2d, nn.ReLU].root_module is None
    assert found[nn.Embedding].observation_type is ObservationType.INPUT_OUTPUT_NOT_OBSERVED
    assert found[nn.LSTM].observation_type is ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT
    sigmoid = found[nn.Sigmoid].dtype_configs[0].output_dtype_with_constraints
    assert (sigmoid.scale_exact_match, sigmoid.zero_point_exact_match) == (1 / 256, 0)


# ---- Why a pattern is refused ------------------------------------------------------------------------------


def test_what_is_not_named_is_refused() -> None:
    config = only(nn.Linear, WEIGHTED)
    assert config.why_refused(nn.Linear(2, 3), STATIC) is None
    assert config.why_refused(nn.Linear, STATIC) is None
    assert config.why_refused((nn.Linear,), STATIC) is None
    assert config.why_refused(nn.Conv2d(1, 1, 1), STATIC) == "the backend config 'mine' has no pattern Conv2d"
    pair = FusedModule(nn.Linear(2, 3), nn.ReLU())
    assert config.why_refused(pair, STATIC) == "the backend config 'mine' has no pattern Linear + ReLU"
    assert config.why_refused(nn.Conv2d(1, 1, 1), None) is None
    assert "has no types for Linear as its qconfig asks: its pattern has no dtype config" in (
        only(nn.Linear).why_refused(nn.Linear, STATIC) or ""
    )


def test_a_fused_module_is_the_tuple_of_its_parts_or_its_class() -> None:
    pair = FusedModule(nn.Linear(2, 3), nn.ReLU())
    assert only((nn.Linear, nn.ReLU), WEIGHTED).why_refused(pair, STATIC) is None
    assert only(FusedModule, WEIGHTED).why_refused(pair, STATIC) is None
    assert only((nn.Linear, nn.ReLU6), WEIGHTED).why_refused(pair, STATIC) is not None


def test_a_subclass_that_keeps_the_forward_is_its_base() -> None:
    class Same(nn.Linear):
        pass

    class Other(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) + 1

    config = only(nn.Linear, WEIGHTED)
    assert config.why_refused(Same(2, 3), STATIC) is None
    assert config.why_refused(Other(2, 3), STATIC) == "the backend config 'mine' has no pattern Other"
    assert config.why_refused(parametrizations.weight_norm(nn.Linear(2, 3)), STATIC) is None
    assert only((nn.Linear, nn.ReLU), WEIGHTED).why_refused((Same, nn.ReLU), STATIC) is None
    padded = FusedModule(pad_conv(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3)), nn.ReLU())
    assert get_native_backend_config().why_refused(padded, STATIC) is None
    config.set_backend_pattern_config(BackendPatternConfig(Same))
    assert config.why_refused(Same(2, 3), STATIC) is not None, "the class itself comes first"


@pytest.mark.parametrize("pattern", [torch.add, "add", (torch.add, F.relu), (torch.matmul, "relu")])
def test_functions_and_methods_are_patterns_too(pattern: Any) -> None:
    assert only(pattern, DTypeConfig("uint8", "uint8")).why_refused(pattern, STATIC) is None
    assert only(pattern, DTypeConfig("int8", "int8")).why_refused(pattern, STATIC) is not None
    assert "has no pattern sub" in (only(pattern, DTypeConfig()).why_refused(torch.sub, STATIC) or "")


def observer(**limits: Any) -> QConfig:
    return QConfig(HistogramObserver.with_args(**limits), PerChannelMinMaxObserver)


@pytest.mark.parametrize(
    ("types", "qconfig", "reason"),
    [
        (DTypeConfig("int8", "int8", "int8"), STATIC, "activation is uint8, not int8"),
        (DTypeConfig("uint8", "float32", "int8"), STATIC, "output is uint8, not float32"),
        (DTypeConfig("uint8", "uint8", "float16"), STATIC, "weight is int8, not float16"),
        (DTypeConfig("uint8", "uint8", "int8", torch.float16), STATIC, "bias is float32, not float16"),
        (DTypeConfig("float32", "float32", "int8"), STATIC, "activation is uint8, not float32"),
        (WEIGHTED, DYNAMIC, "activation is dynamic, not static"),
        (DTypeConfig("uint8", "float", "int8", is_dynamic=True), STATIC, "activation is static, not dynamic"),
        (DTypeConfig("uint8", "uint8", "int8", is_dynamic=True), DYNAMIC, "output is float32, not uint8"),
        (
            DTypeConfig(DTypeWithConstraints("uint8", quant_max_upper_bound=127), "uint8", "int8"),
            STATIC,
            "activation has quant_max 255, above 127",
        ),
        (
            DTypeConfig("uint8", DTypeWithConstraints("uint8", quant_min_lower_bound=1), "int8"),
            STATIC,
            "activation has quant_min 0, below 1",
        ),
        (
            DTypeConfig("uint8", "uint8", DTypeWithConstraints("int8", -127, 127)),
            observer(),
            "weight has quant_min -128, below -127",
        ),
        (
            DTypeConfig(DTypeWithConstraints("uint8", scale_min_lower_bound=2**-12), "uint8", "int8"),
            observer(eps=2**-13),
            "activation has eps 0.00012207, below the smallest scale 0.000244141: set eps on its observer",
        ),
        (
            DTypeConfig(
                "uint8", DTypeWithConstraints("uint8", scale_exact_match=0.5, zero_point_exact_match=3)
            ),
            STATIC,
            "its output's parameters are not fixed: use a FixedQParamsObserver",
        ),
        (
            DTypeConfig(
                "uint8", DTypeWithConstraints("uint8", scale_exact_match=0.5, zero_point_exact_match=3)
            ),
            QConfig(FixedQParamsObserver.with_args(scale=0.25, zero_point=3), PerChannelMinMaxObserver),
            "its output has scale and zero point (0.25, 3), not (0.5, 3)",
        ),
    ],
)
def test_reasons(types: DTypeConfig, qconfig: QConfig, reason: str) -> None:
    found = only(nn.Linear, types).why_refused(nn.Linear(2, 3), qconfig)
    assert found == f"the backend config 'mine' has no types for Linear as its qconfig asks: {reason}"


@pytest.mark.parametrize(
    ("types", "qconfig"),
    [
        (DTypeConfig(), STATIC),
        (DTypeConfig(), DYNAMIC),
        (DTypeConfig("uint8", "float", "int8", "float", is_dynamic=True), DYNAMIC),
        (DTypeConfig(DTypeWithConstraints("uint8", 0, 127), "uint8", "int8"), observer(quant_max=127)),
        (DTypeConfig(DTypeWithConstraints("uint8", scale_min_lower_bound=0.5), "uint8"), observer(eps=0.5)),
        (DTypeConfig("float16", "float16", "float16", "float16"), intaglio.float16_static_qconfig),
        (
            DTypeConfig(
                "uint8", DTypeWithConstraints("uint8", scale_exact_match=0.25, zero_point_exact_match=3)
            ),
            QConfig(FixedQParamsObserver.with_args(scale=0.25, zero_point=3), PerChannelMinMaxObserver),
        ),
    ],
)
def test_what_keeps_to_the_limits_is_admitted(types: DTypeConfig, qconfig: QConfig) -> None:
    assert only(nn.Linear, types).why_refused(nn.Linear(2, 3), qconfig) is None


def test_the_rest_of_several_choices_is_asked() -> None:
    config = only(nn.Linear, DTypeConfig("int8", "int8"), DTypeConfig("float16", "float16"))
    assert (config.why_refused(nn.Linear, STATIC) or "").endswith(
        "activation is uint8, not int8; activation is uint8, not float16"
    )
    config.configs[0].add_dtype_config(WEIGHTED)
    assert config.why_refused(nn.Linear, STATIC) is None


def test_a_fixed_range_is_the_rules_business() -> None:
    def types(scale: float, zero_point: int) -> DTypeConfig:
        fixed = DTypeWithConstraints("uint8", scale_exact_match=scale, zero_point_exact_match=zero_point)
        return DTypeConfig(fixed, fixed)

    assert only(nn.Sigmoid, types(1 / 256, 0)).why_refused(nn.Sigmoid(), STATIC) is None
    assert only(nn.Tanh, types(1 / 128, 128)).why_refused(nn.Tanh(), STATIC) is None
    assert (
        only((nn.Linear, nn.Sigmoid), types(1 / 256, 0)).why_refused((nn.Linear, nn.Sigmoid), STATIC) is None
    )
    assert "has scale and zero point (0.00390625, 0), not (0.5, 0)" in (
        only(nn.Sigmoid, types(0.5, 0)).why_refused(nn.Sigmoid(), STATIC) or ""
    )


def test_weights_that_a_rule_keeps_are_not_asked_for() -> None:
    # The legacy's configs say float weights of LayerNorm, for which its qconfigs had to say so too.
    kept = DTypeConfig("uint8", "uint8", torch.float, torch.float)
    assert only(nn.LayerNorm, kept).why_refused(nn.LayerNorm(4), STATIC) is None
    assert only(nn.PReLU, kept).why_refused(nn.PReLU(), STATIC) is None
    assert only(nn.Linear, kept).why_refused(nn.Linear(2, 3), STATIC) is not None


def test_a_table_needs_no_activations() -> None:
    # The legacy's config for embeddings: float in and out, uint8 rows.
    config = only(nn.Embedding, DTypeConfig(torch.float, torch.float, torch.quint8))
    assert config.why_refused(nn.Embedding(5, 4), intaglio.float_qparams_weight_only_qconfig) is None
    assert "weight is uint4, not uint8" in (
        config.why_refused(nn.Embedding(5, 4), intaglio.float_qparams_weight_only_qconfig_4bit) or ""
    )


# ---- Fuser methods -----------------------------------------------------------------------------------------


def test_fuser_methods_go_to_fuse_modules() -> None:
    calls = []

    def fuse_mine(is_qat: bool, first: nn.Module, second: nn.Module) -> nn.Module:
        calls.append((is_qat, type(first), type(second)))
        return FusedModule(second, first)

    functional = BackendPatternConfig((nn.Linear, F.relu)).set_fuser_method(fuse)
    config = BackendConfig().set_backend_pattern_configs(
        [BackendPatternConfig((nn.ReLU, nn.Linear)).set_fuser_method(fuse_mine), functional]
    )
    methods = config.fuser_methods()
    assert methods == {(nn.ReLU, nn.Linear): fuse_mine}
    model = nn.Sequential(nn.ReLU(), nn.Linear(2, 3)).eval()
    fused = intaglio.fuse_modules(
        model, ["0", "1"], fuse_custom_config_dict={"additional_fuser_method_mapping": methods}
    )
    assert calls == [(False, nn.ReLU, nn.Linear)]
    assert isinstance(fused[0], FusedModule)


# ---- What is refused ---------------------------------------------------------------------------------------


def test_a_later_pattern_config_replaces_the_one_before() -> None:
    config = only(nn.Linear, WEIGHTED).set_backend_pattern_config(BackendPatternConfig((nn.Linear,)))
    assert len(config.configs) == 1
    assert config.why_refused(nn.Linear, STATIC) is not None
    assert repr(config) == "BackendConfig('mine', 1 patterns)"
    assert "Linear" in repr(config.configs[0])
    assert copy.deepcopy(config).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (nn.Linear(2, 3), "holds a Linear that is made already: pass the class, Linear"),
        (
            (nn.ReLU, (nn.BatchNorm2d, nn.Conv2d)),
            r"ReLU \+ \(BatchNorm2d \+ Conv2d\) is nested, as the legacy's",
        ),
        (3, "3 is no pattern: use a module class, a function"),
        ((), "None is no pattern"),
    ],
)
def test_patterns_of_the_wrong_kind_are_errors(pattern: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BackendPatternConfig(pattern)
    with pytest.raises(ConfigError, match=message):
        BackendPatternConfig().set_pattern(pattern)
    with pytest.raises(ConfigError, match=message):
        BackendPatternConfig.from_dict({"pattern": pattern})


@pytest.mark.parametrize(
    ("setter", "value", "message"),
    [
        ("set_observation_type", "shared", "takes an ObservationType, not 'shared'"),
        ("add_dtype_config", {}, r"an intaglio\.DTypeConfig is wanted, not builtins\.dict"),
        ("add_dtype_config", legacy.DTypeConfig(), r"wanted, not torch\.ao\.quantization\.backend_config"),
        ("set_dtype_configs", [3], r"an intaglio\.DTypeConfig is wanted, not builtins\.int"),
        ("set_root_module", nn.Linear(2, 3), "set_root_module takes a class of modules, not Linear"),
        ("set_qat_module", int, "set_qat_module takes a class of modules, not <class 'int'>"),
        ("set_reference_quantized_module", "a", "quantized_module takes a class of modules, not 'a'"),
        ("set_fused_module", F.relu, "set_fused_module takes a class of modules, not <function relu"),
        ("set_fuser_method", "fuse", r"takes a function \(is_qat, \*modules\), not 'fuse'"),
    ],
)
def test_settings_of_the_wrong_kind_are_errors(setter: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        getattr(BackendPatternConfig(nn.Linear), setter)(value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DTypeConfig("int7"), "dtype 'int7' is not one that intaglio quantizes to"),
        (lambda: DTypeConfig(bias_dtype=torch.int32), "dtype torch.int32 is not one that intaglio"),
        (lambda: DTypeConfig(is_dynamic=1), "is_dynamic is 1: use True, False or None"),
        (lambda: DTypeConfig.from_dict([]), "DTypeConfig.from_dict takes a dict, not list"),
        (lambda: DTypeConfig.from_dict({"input_type": "int8"}), "did you mean 'input_dtype'"),
        (lambda: DTypeWithConstraints("uint8", "0"), "quant_min_lower_bound is '0': use a number or None"),
        (lambda: DTypeWithConstraints("uint8", zero_point_exact_match="0"), "zero_point_exact_match is '0'"),
        (
            lambda: DTypeWithConstraints("uint8", 9, 3),
            "quant_min_lower_bound 9 is above quant_max_upper_bound",
        ),
        (
            lambda: DTypeWithConstraints("uint8", scale_min_lower_bound=1, scale_max_upper_bound=0.5),
            "scale_min_lower_bound 1 is above scale_max_upper_bound 0.5",
        ),
        (lambda: BackendConfig(3), "the name of a BackendConfig is a str, not 3"),
        (
            lambda: BackendConfig().set_backend_pattern_config({}),
            "BackendPatternConfig is wanted, not builtins",
        ),
        (
            lambda: BackendConfig().set_backend_pattern_config(BackendPatternConfig()),
            "no pattern: call its set_p",
        ),
        (
            lambda: BackendConfig().set_backend_pattern_config(
                BackendPatternConfig(nn.Linear).set_fuser_method(fuse)
            ),
            "the pattern Linear has a fuser method, but is one op: use a tuple",
        ),
        (lambda: BackendConfig.from_dict([]), "BackendConfig.from_dict takes a dict, not list"),
        (lambda: BackendConfig.from_dict({"nam": ""}), "did you mean 'name'"),
        (
            lambda: BackendConfig.from_dict({"configs": [3]}),
            "BackendPatternConfig is wanted, not builtins.int",
        ),
        (lambda: BackendPatternConfig.from_dict([]), "BackendPatternConfig.from_dict takes a dict, not list"),
        (lambda: BackendPatternConfig.from_dict({"patern": 3}), "did you mean 'pattern'"),
        (lambda: as_backend_config("x86"), r"a BackendConfig is wanted, not builtins.str: pass intaglio"),
        (
            lambda: as_backend_config(legacy.get_fbgemm_backend_config()),
            "is wanted, not torch.ao.quantization",
        ),
    ],
)
def test_arguments_of_the_wrong_kind_are_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_backend_config_a_dict_or_none() -> None:
    config = only(nn.Linear, WEIGHTED)
    assert as_backend_config(config) is config
    assert as_backend_config(None) is None
    found = as_backend_config(config.to_dict())
    assert found is not None
    assert found.to_dict() == config.to_dict()
