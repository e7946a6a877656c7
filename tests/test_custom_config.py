"""The custom configs of FX mode: the legacy's attributes, dicts and setters; errors where it kept silent."""

import copy
import inspect
from typing import Any

import pytest
import torch
import torch.ao.quantization.fx.custom_config as legacy
from torch import nn
from torch.ao.quantization.quant_type import QuantType as LegacyQuantType

import intaglio
from intaglio import (
    BackendConfig,
    ConfigError,
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
    QConfigMapping,
    QuantType,
)
from intaglio.fx import custom_config
from intaglio.fx.custom_config import (
    as_convert_custom_config,
    as_fuse_custom_config,
    as_prepare_custom_config,
)

INPUTS = (torch.zeros(2, 3),)
CONFIGS = [PrepareCustomConfig, ConvertCustomConfig, FuseCustomConfig]


class Float(nn.Module):
    pass


class Observed(nn.Module):
    @classmethod
    def from_float(cls, module: nn.Module) -> "Observed":
        return cls()


class Quantized(nn.Module):
    @classmethod
    def from_observed(cls, module: nn.Module) -> "Quantized":
        return cls()


def full(kind: Any, quant_type: Any) -> Any:
    """A config with everything set that has the same form on both sides."""
    config = kind().set_preserved_attributes(["words"])
    if kind.__name__ == "PrepareCustomConfig":
        config.set_float_to_observed_mapping(Float, Observed).set_float_to_observed_mapping(
            nn.Linear, Observed, quant_type.STATIC
        )
        config.set_non_traceable_module_names(["a", "b.0"]).set_non_traceable_module_classes([Float])
        config.set_input_quantized_indexes([0, 2]).set_output_quantized_indexes([1])
        config.set_standalone_module_name("c", None, INPUTS, None, None)
        config.set_standalone_module_class(Float, None, INPUTS, kind(), None)
    if kind.__name__ == "ConvertCustomConfig":
        config.set_observed_to_quantized_mapping(Observed, Quantized)
        config.set_observed_to_quantized_mapping(Observed, Quantized, quant_type.WEIGHT_ONLY)
    return config


# ---- Against the legacy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
def test_names_and_signatures_are_the_legacys(kind: type) -> None:
    theirs = getattr(legacy, kind.__name__)
    for name, method in inspect.getmembers(theirs, callable):
        if not name.startswith("_"):
            expected = inspect.signature(method).parameters.values()
            found = inspect.signature(getattr(kind, name)).parameters.values()
            assert [(p.name, p.default) for p in found] == [(p.name, p.default) for p in expected], name
    assert vars(kind()) == vars(theirs())


def test_every_legacy_name_is_at_the_legacy_place() -> None:
    assert set(legacy.__all__) <= set(custom_config.__all__)
    assert {kind.name: kind.value for kind in QuantType} == {
        kind.name: kind.value for kind in LegacyQuantType
    }


@pytest.mark.parametrize("kind", CONFIGS)
def test_dicts_are_the_legacys(kind: Any) -> None:
    theirs = getattr(legacy, kind.__name__)
    assert kind().to_dict() == theirs().to_dict() == {}
    ours, expected = full(kind, QuantType), full(theirs, LegacyQuantType)
    assert ours.to_dict() == expected.to_dict()
    assert kind.from_dict(expected.to_dict()).to_dict() == ours.to_dict()
    assert theirs.from_dict(ours.to_dict()).to_dict() == expected.to_dict()
    assert copy.deepcopy(ours).to_dict().keys() == ours.to_dict().keys()


def test_the_attributes_are_the_legacys() -> None:
    ours, theirs = full(PrepareCustomConfig, QuantType), full(legacy.PrepareCustomConfig, LegacyQuantType)
    for name, expected in vars(theirs).items():
        found = getattr(ours, name)
        if not name.startswith("standalone"):
            assert found == expected, name
    entry, expected = ours.standalone_module_names["c"], theirs.standalone_module_names["c"]
    assert vars(entry) == vars(expected)


# ---- What intaglio adds ------------------------------------------------------------------------------------


def test_setters_chain_and_dicts_stand_for_configs() -> None:
    qconfig = intaglio.get_default_qconfig()
    child = {"input_quantized_idxs": [0]}
    config = PrepareCustomConfig().set_standalone_module_name(
        "a", {"": qconfig}, [INPUTS[0]], child, {"name": "mine"}
    )
    entry = config.standalone_module_names["a"]
    assert isinstance(entry.qconfig_mapping, QConfigMapping)
    assert entry.qconfig_mapping.global_qconfig == qconfig
    assert entry.example_inputs == INPUTS
    assert entry.prepare_custom_config is not None
    assert entry.prepare_custom_config.input_quantized_indexes == [0]
    assert isinstance(entry.backend_config, BackendConfig)
    row = config.to_dict()["standalone_module_name"][0]
    assert row[:2] == ("a", entry.qconfig_mapping.to_dict())
    assert row[3:] == (child, entry.backend_config)


def test_lists_are_copied() -> None:
    names = ["a"]
    config = PrepareCustomConfig().set_non_traceable_module_names(names)
    names.append("b")
    assert config.non_traceable_module_names == ["a"]


def test_kinds_of_quantization_may_be_names() -> None:
    config = PrepareCustomConfig().set_float_to_observed_mapping(Float, Observed, "static")
    assert config.float_to_observed_mapping == {QuantType.STATIC: {Float: Observed}}
    convert = ConvertCustomConfig().set_observed_to_quantized_mapping(Observed, Quantized, "dynamic")
    assert convert.observed_to_quantized_mapping == {QuantType.DYNAMIC: {Observed: Quantized}}
    assert ConvertCustomConfig().set_observed_to_quantized_mapping(
        Observed,
        Quantized,
        LegacyQuantType.QAT,  # type: ignore[arg-type]
    ).observed_to_quantized_mapping == {QuantType.QAT: {Observed: Quantized}}


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (as_prepare_custom_config, PrepareCustomConfig),
        (as_convert_custom_config, ConvertCustomConfig),
        (as_fuse_custom_config, FuseCustomConfig),
    ],
)
def test_a_config_a_dict_or_none(read: Any, kind: Any) -> None:
    config = kind().set_preserved_attributes(["a"])
    assert read(config) is config
    assert read({"preserved_attributes": ["a"]}).to_dict() == config.to_dict()
    assert read(None).to_dict() == {}
    theirs = getattr(legacy, kind.__name__)()
    with pytest.raises(ConfigError, match=rf"an intaglio\.{kind.__name__} is wanted, not torch\.ao"):
        read(theirs)
    with pytest.raises(ConfigError, match=r"wanted, not builtins\.str: make one, or pass its dict or None"):
        read("a")


def test_what_is_set_is_what_is_shown() -> None:
    assert repr(FuseCustomConfig()) == "FuseCustomConfig({})"
    assert "non_traceable_module_names" in repr(full(PrepareCustomConfig, QuantType))


# ---- What is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setter", "arguments", "message"),
    [
        ("set_non_traceable_module_names", ("a",), r"takes a list of names, not 'a': put it in \[\]"),
        ("set_non_traceable_module_names", ([Float],), "takes a list of names, but it holds <class"),
        ("set_non_traceable_module_names", ([""],), "takes a list of names, but it holds ''"),
        ("set_non_traceable_module_classes", (Float,), r"takes a list of classes of modules, not <class"),
        ("set_non_traceable_module_classes", (["a"],), "takes a class of modules, not 'a'"),
        ("set_input_quantized_indexes", (0,), r"takes a list of indexes, not 0: put it in \[\]"),
        ("set_input_quantized_indexes", ([-1],), "takes a list of indexes from 0, but it holds -1"),
        ("set_output_quantized_indexes", ([True],), "takes a list of indexes from 0, but it holds True"),
        ("set_output_quantized_indexes", (["0"],), "takes a list of indexes from 0, but it holds '0'"),
        ("set_preserved_attributes", ("a",), "takes a list of names, not 'a'"),
        ("set_float_to_observed_mapping", (Float(), Observed), r"takes a class of modules, not Float\(\)"),
        (
            "set_float_to_observed_mapping",
            (Float, Quantized),
            r"Quantized has no from_float: give it a class",
        ),
        ("set_float_to_observed_mapping", (Float, Observed, "dynamic"), "got 'dynamic': only static"),
        ("set_float_to_observed_mapping", (Float, Observed, "sometimes"), "'sometimes' is no QuantType: use"),
        ("set_standalone_module_name", (Float, None, (), None, None), "takes the path of a module as a str"),
        ("set_standalone_module_name", ("", None, (), None, None), "takes the path of a module as a str"),
        (
            "set_standalone_module_name",
            ("a", 3, (), None, None),
            "a QConfigMapping is wanted, not builtins.int",
        ),
        ("set_standalone_module_name", ("a", None, INPUTS[0], None, None), "example_inputs of Tensor: pass"),
        (
            "set_standalone_module_name",
            ("a", None, (), 3, None),
            "PrepareCustomConfig is wanted, not builtins",
        ),
        ("set_standalone_module_name", ("a", None, (), None, 3), "BackendConfig is wanted, not builtins.int"),
        ("set_standalone_module_class", ("a", None, (), None, None), "takes a class of modules, not 'a'"),
    ],
)
def test_arguments_of_the_wrong_kind_are_errors(setter: str, arguments: Any, message: str) -> None:
    config = PrepareCustomConfig()
    with pytest.raises(ConfigError, match=message):
        getattr(config, setter)(*arguments)
    assert config.to_dict() == {}


def test_a_quantized_class_must_be_made_from_observed_ones() -> None:
    with pytest.raises(ConfigError, match="Observed has no from_observed: give it a class method from_obs"):
        ConvertCustomConfig().set_observed_to_quantized_mapping(Observed, Observed)
    with pytest.raises(ConfigError, match="is no QuantType"):
        ConvertCustomConfig().set_observed_to_quantized_mapping(Observed, Quantized, 7)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes a list of names"):
        FuseCustomConfig().set_preserved_attributes("a")


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (PrepareCustomConfig, [], "PrepareCustomConfig.from_dict takes a dict, not list"),
        (PrepareCustomConfig, {"input_quantized_idx": [0]}, "did you mean 'input_quantized_idxs'"),
        (PrepareCustomConfig, {"standalone_module_name": ["a"]}, "holds 'a': write .module, qconfig_mapping"),
        (
            PrepareCustomConfig,
            {"standalone_module_class": [(Float,)]},
            "holds .*: write .module, qconfig_map",
        ),
        (
            PrepareCustomConfig,
            {"float_to_observed_custom_module_class": {Float: Observed}},
            "write {'static'",
        ),
        (
            ConvertCustomConfig,
            {"observed_to_quantized_custom_module_class": [Float]},
            "write {'static': {From",
        ),
        (
            ConvertCustomConfig,
            {"input_quantized_idxs": [0]},
            "of a ConvertCustomConfig has the key 'input_quan",
        ),
        (FuseCustomConfig, {"preserved": []}, "has the key 'preserved', which means nothing"),
    ],
)
def test_dicts_of_the_wrong_form_are_errors(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind.from_dict(value)
