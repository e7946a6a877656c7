"""Observers choose parameters from what they saw; a `QConfig` holds recipes of them."""

import copy
import pickle

import pytest
import torch
from torch import nn

import intaglio
from intaglio import (
    ConfigError,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    PerRow,
    PerTensor,
    PlaceholderObserver,
    QConfig,
)
from intaglio.observer import ObserverBase
from intaglio.qconfig import dynamic_qconfig_of
from intaglio.qparams import FLOAT16, INT8, UINT4, UINT8, choose_qparams, dequantize, quantize


def test_min_max_keeps_the_widest_range_seen() -> None:
    observer = MinMaxObserver(torch.quint8)
    for values in ([1.0, 2.0], [-3.0, 0.5], [0.0, 4.0]):
        x = torch.tensor(values)
        assert observer(x) is x
    expected = choose_qparams(torch.tensor(-3.0), torch.tensor(4.0), UINT8)
    found = observer.choose()
    assert (found.scale, found.zero_point, found.axis) == (expected.scale, expected.zero_point, None)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_per_channel_sees_each_index_of_its_axis(axis: int) -> None:
    x = torch.randn(3, 4, 5)
    observer = PerChannelMinMaxObserver(ch_axis=axis)
    observer(x[:, :2] if axis in (0, 2, -1) else x)
    observer(x)
    qparams = observer.choose()
    rows = x.movedim(axis, 0).flatten(1)
    assert torch.equal(qparams.scale, torch.maximum(-rows.amin(1), rows.amax(1)).clamp(min=0) / 127)
    error = (dequantize(quantize(x, qparams), qparams) - x).abs()
    assert bool((error <= qparams.broadcast(3)[0] * 0.500001).all())


def test_per_channel_of_a_vector_and_of_nothing() -> None:
    observer = PerChannelMinMaxObserver()
    observer(torch.tensor([1.0, -2.0, 0.0]))
    assert observer.choose().scale.shape == (3,)
    empty = PerChannelMinMaxObserver()
    empty(torch.empty(3, 0))
    assert bool(torch.isfinite(empty.choose().scale).all())


def test_symmetry_follows_the_scheme_or_else_the_dtype() -> None:
    assert MinMaxObserver(torch.qint8).symmetric
    assert not MinMaxObserver(torch.quint8).symmetric
    assert MinMaxObserver("uint8", qscheme=torch.per_tensor_symmetric).symmetric
    assert not MinMaxObserver("int8", qscheme=torch.per_tensor_affine).symmetric
    assert not PerChannelMinMaxObserver("uint8", qscheme=torch.per_channel_affine_float_qparams).symmetric


def test_an_observer_that_saw_nothing_or_chooses_nothing_says_so() -> None:
    with pytest.raises(ConfigError, match="MinMaxObserver has seen no data"):
        MinMaxObserver().choose()
    with pytest.raises(ConfigError, match="PlaceholderObserver chooses no parameters"):
        PlaceholderObserver().choose()


def test_a_placeholder_says_how_activations_are_quantized() -> None:
    observer = PlaceholderObserver()
    x = torch.randn(2)
    assert observer(x) is x
    assert (observer.dtype, observer.granularity, observer.is_dynamic) == (UINT8, PerRow(), True)
    assert PlaceholderObserver(granularity=PerTensor()).granularity == PerTensor()
    assert PlaceholderObserver(torch.float16).dtype is FLOAT16


def test_observers_are_modules_that_copy_and_pickle() -> None:
    # pytorch/pytorch#48448, #51216
    observer = MinMaxObserver()
    observer(torch.tensor([-1.0, 3.0]))
    assert isinstance(observer, nn.Module)
    for other in (copy.deepcopy(observer), pickle.loads(pickle.dumps(observer))):
        assert other.choose().scale == observer.choose().scale


def test_an_observer_sees_values_without_holding_their_graph() -> None:
    observer = MinMaxObserver()
    x = torch.randn(3, requires_grad=True)
    assert observer(x) is x
    assert not observer.choose().scale.requires_grad


def test_with_args_is_a_recipe_for_separate_observers() -> None:
    recipe = PerChannelMinMaxObserver.with_args(dtype=torch.qint8, ch_axis=1)
    one, other = recipe(), recipe()
    one(torch.randn(2, 5))
    assert one.choose().scale.shape == (5,)
    with pytest.raises(ConfigError, match="no data"):
        other.choose()
    assert isinstance(recipe(ch_axis=0), ObserverBase)


@pytest.mark.parametrize(
    ("qconfig", "activation", "weight"),
    [
        (intaglio.default_dynamic_qconfig, UINT8, INT8),
        (intaglio.per_channel_dynamic_qconfig, UINT8, INT8),
        (intaglio.per_tensor_dynamic_qconfig, UINT8, INT8),
        (intaglio.float16_dynamic_qconfig, FLOAT16, FLOAT16),
        (intaglio.float_qparams_weight_only_qconfig, UINT8, UINT8),
        (intaglio.float_qparams_weight_only_qconfig_4bit, UINT8, UINT4),
    ],
)
def test_presets(qconfig: QConfig, activation: object, weight: object) -> None:
    assert qconfig.activation().dtype is activation
    assert qconfig.weight().dtype is weight


def test_weights_are_per_channel_and_use_every_bit() -> None:
    # pytorch/FBGEMM#125: the legacy gave up a bit of the activations or of the weights on x86.
    observer = intaglio.default_dynamic_qconfig.weight()
    weight = torch.randn(6, 40)
    observer(weight)
    q = quantize(weight, observer.choose())
    assert q.abs().amax(1).tolist() == [127] * 6
    assert intaglio.default_dynamic_qconfig.activation().granularity == PerRow()
    assert intaglio.per_tensor_dynamic_qconfig.activation().granularity == PerTensor()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.qint8, intaglio.default_dynamic_qconfig),
        ("int8", intaglio.default_dynamic_qconfig),
        (torch.float16, intaglio.float16_dynamic_qconfig),
        (torch.quint8, intaglio.float_qparams_weight_only_qconfig),
        (torch.quint4x2, intaglio.float_qparams_weight_only_qconfig_4bit),
    ],
)
def test_each_dtype_has_its_preset(dtype: torch.dtype, expected: QConfig) -> None:
    assert dynamic_qconfig_of(dtype) is expected


# ---- presets of static quantization ---------------------------------------------------------------------

BACKENDS = ["x86", "fbgemm", "onednn", "qnnpack"]


def test_every_legacy_preset_is_here_but_those_of_training() -> None:
    import torch.ao.quantization.qconfig as legacy

    training = {name for name in legacy.__all__ if "qat" in name}
    training |= {"default_weight_only_qconfig", "default_activation_only_qconfig"}
    deprecated = {"QConfigDynamic", "get_default_qconfig_dict"}
    assert set(legacy.__all__) - training - deprecated <= set(intaglio.qconfig.__all__)
    assert set(intaglio.qconfig.__all__) - {"dynamic_qconfig_of"} <= set(intaglio.__all__)


@pytest.mark.parametrize("backend", BACKENDS)
def test_default_presets_use_every_bit(backend: str) -> None:
    # pytorch/pytorch#44939: on x86 the legacy keeps to 7 bits of the activations.
    qconfig = intaglio.get_default_qconfig(backend)
    activation, weight = qconfig.activation(), qconfig.weight()
    x = torch.randn(4000)
    activation(x)
    found = activation.choose()
    assert found.dtype is UINT8
    assert found.limits() == ((1, 255) if backend == "qnnpack" else (0, 255))
    assert int(quantize(x, found).max()) == 255
    if backend == "qnnpack":
        assert int(found.zero_point) == 128
    weight(x.view(8, 500))
    found = weight.choose()
    assert (found.dtype, found.axis, found.limits()) == (INT8, 0, (-127, 127))
    assert not found.zero_point.any()


def test_default_presets_that_do_not_exist_are_errors() -> None:
    with pytest.raises(ConfigError, match="no default qconfig for the backend 'cuda': use one of x86"):
        intaglio.get_default_qconfig("cuda")
    with pytest.raises(ConfigError, match="has no version 1"):
        intaglio.get_default_qconfig("x86", version=1)


def test_qconfigs_are_equal_if_they_make_the_same_observers() -> None:
    mine = QConfig(MinMaxObserver.with_args(dtype="uint8"), PerChannelMinMaxObserver.with_args(ch_axis=0))
    same = QConfig(MinMaxObserver.with_args(dtype="uint8"), PerChannelMinMaxObserver.with_args(ch_axis=0))
    assert intaglio.qconfig_equals(mine, same)
    assert not intaglio.qconfig_equals(mine, QConfig(MinMaxObserver, PerChannelMinMaxObserver))
    assert intaglio.qconfig_equals(None, None)
    assert not intaglio.qconfig_equals(mine, None)
    for backend in BACKENDS:
        preset = intaglio.get_default_qconfig(backend)
        for other in (copy.deepcopy(preset), pickle.loads(pickle.dumps(preset))):
            assert intaglio.qconfig_equals(other, preset)
            assert hash(other) == hash(preset)


def test_a_qconfig_of_observers_made_already_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"got MinMaxObserver as its activation: pass a class or MinMaxObs"):
        QConfig(MinMaxObserver(), PerChannelMinMaxObserver)
    with pytest.raises(ConfigError, match="got str as its weight"):
        QConfig(MinMaxObserver, "int8")  # type: ignore[arg-type]
