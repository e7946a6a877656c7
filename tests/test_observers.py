"""Every observer: legacy names and meaning, odd data, saved states; faults of the legacy by thread."""

from __future__ import annotations

import contextlib
import copy
import inspect
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.ao.quantization.observer as legacy
from torch import Tensor, nn

import intaglio.observer as ours
from intaglio import ConfigError, InputError
from intaglio.observer import (
    EntropyObserver,
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    MSEObserver,
    NoopObserver,
    ObserverBase,
    ObserverFactory,
    ObserverWarning,
    PercentileObserver,
    PerChannelMinMaxObserver,
    PerChannelMSEObserver,
    PlaceholderObserver,
    RecordingObserver,
    ReuseInputObserver,
    UniformQuantizationObserverBase,
    get_observer_state_dict,
    load_observer_state_dict,
)
from intaglio.qparams import INT8, UINT8, QParams, as_uint8, dequantize, quantize

SEEING: list[Callable[..., UniformQuantizationObserverBase]] = [
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    HistogramObserver,
    PercentileObserver,
    EntropyObserver,
    MSEObserver,
]
PER_CHANNEL: list[Callable[..., UniformQuantizationObserverBase]] = [
    PerChannelMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMSEObserver,
]
per_tensor = pytest.mark.parametrize("kind", SEEING)
per_channel = pytest.mark.parametrize("kind", PER_CHANNEL)
any_kind = pytest.mark.parametrize("kind", SEEING + PER_CHANNEL)


def qparams_of(observer: ObserverBase, *data: Tensor) -> QParams:
    for x in data:
        assert observer(x) is x
    return observer.choose()


# ---- the legacy's names and meaning ---------------------------------------------------------------------


def test_every_legacy_name_is_here() -> None:
    # The rest are torchao's, which torch only repeats.
    theirs = {"Granularity", "MappingType", "TorchAODType", "ZeroPointDomain", "get_block_size"}
    theirs |= {name for name in legacy.__all__ if name.startswith("Per") and "Observer" not in name}
    assert set(legacy.__all__) - theirs <= set(ours.__all__)


@any_kind
def test_legacy_arguments_are_accepted(kind: Callable[..., Any]) -> None:
    arguments: dict[str, Any] = {
        "dtype": torch.quint8,
        "quant_min": 0,
        "quant_max": 127,
        "reduce_range": True,
    }
    arguments |= {"eps": 2**-12, "is_dynamic": False, "factory_kwargs": {"device": "cpu"}}
    scheme = torch.per_channel_affine if kind in PER_CHANNEL else torch.per_tensor_affine
    observer = kind(qscheme=scheme, **arguments)
    found = qparams_of(observer, torch.rand(2, 8))
    assert found.limits() == (0, 127)
    assert bool((found.scale > 1 / 256).all())


@pytest.mark.parametrize("name", [n for n in legacy.__all__ if n.endswith("Observer") and hasattr(ours, n)])
def test_positional_arguments_stand_where_the_legacy_has_them(name: str) -> None:
    theirs = list(inspect.signature(getattr(legacy, name)).parameters)
    mine = [p for p in inspect.signature(getattr(ours, name)).parameters if p in theirs]
    assert mine == [p for p in theirs if p in mine]


@pytest.mark.parametrize("name", [n for n in ours.__all__ if n.startswith("default_") or "range_neg" in n])
def test_presets_mean_what_the_legacy_means_without_giving_up_a_bit(name: str) -> None:
    mine, theirs = getattr(ours, name)(), getattr(legacy, name)()
    assert type(mine).__name__ in (type(theirs).__name__, "PerChannelMSEObserver")
    if hasattr(mine, "quant_max") and mine.quant_max is not None and mine.dtype is UINT8:
        assert (mine.quant_min, mine.quant_max) == (0, 255)
    if isinstance(mine, FixedQParamsObserver):
        assert mine.calculate_qparams() == theirs.calculate_qparams()


@pytest.mark.parametrize("name", ["MinMaxObserver", "MovingAverageMinMaxObserver"])
@pytest.mark.parametrize("scheme", [torch.per_tensor_affine, torch.per_tensor_symmetric])
@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint8])
def test_parameters_are_those_of_the_legacy(name: str, scheme: torch.qscheme, dtype: torch.dtype) -> None:
    mine = getattr(ours, name)(dtype=dtype, qscheme=scheme)
    theirs = getattr(legacy, name)(dtype=dtype, qscheme=scheme)
    for _ in range(3):
        x = torch.randn(4, 5) + 0.5
        mine(x)
        theirs(x)
    assert torch.allclose(mine.min_val, theirs.min_val)
    assert torch.allclose(mine.max_val, theirs.max_val)
    scale, zero_point = mine.calculate_qparams()
    expected_scale, expected_zero_point = theirs.calculate_qparams()
    assert scale.shape == expected_scale.shape
    # The legacy's symmetric scale leaves half a step unused at one end (pytorch/pytorch#180990).
    assert torch.allclose(scale, expected_scale, rtol=0.005)
    assert int(zero_point) == int(expected_zero_point)


@pytest.mark.parametrize("name", ["PerChannelMinMaxObserver", "MovingAveragePerChannelMinMaxObserver"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_per_channel_parameters_are_those_of_the_legacy(name: str, axis: int) -> None:
    arguments: dict[str, Any] = {"ch_axis": axis, "dtype": torch.quint8, "qscheme": torch.per_channel_affine}
    mine, theirs = getattr(ours, name)(**arguments), getattr(legacy, name)(**arguments)
    for _ in range(3):
        x = torch.randn(3, 4, 5)
        mine(x)
        theirs(x)
    for found, expected in zip(mine.calculate_qparams(), theirs.calculate_qparams(), strict=True):
        assert torch.allclose(found.double(), expected.double(), atol=1e-6)


def test_float_qparams_are_those_of_the_legacy() -> None:
    x = torch.rand(6, 10) + 3
    mine, theirs = ours.default_float_qparams_observer(), legacy.default_float_qparams_observer()
    mine(x)
    theirs(x)
    for found, expected in zip(mine.calculate_qparams(), theirs.calculate_qparams(), strict=True):
        assert torch.allclose(found, expected)


def test_a_smallest_scale_is_kept_where_asked_for() -> None:
    for observer in (MinMaxObserver(eps=2**-12), MinMaxObserver("int8", eps=2**-12)):
        found = qparams_of(observer, torch.tensor([-1e-4, 1e-4]))
        assert float(found.scale) == pytest.approx(2**-12)
    # pytorch/pytorch#122659 and kin: a tiny range is a range.
    assert float(qparams_of(MinMaxObserver(), torch.tensor([0.0, 2.55e-20])).scale) == pytest.approx(1e-22)


def test_an_observer_of_the_legacy_kind_goes_on_working() -> None:
    class Halving(UniformQuantizationObserverBase):
        def forward(self, x: Tensor) -> Tensor:
            self.min_val, self.max_val = x.min() / 2, x.max() / 2
            return x

        def calculate_qparams(self) -> tuple[Tensor, Tensor]:
            return self._calculate_qparams(self.min_val, self.max_val)

    observer = Halving(dtype=torch.quint8, qscheme=torch.per_tensor_affine)
    found = qparams_of(observer, torch.tensor([-1.0, 3.0]))
    assert float(found.scale) == pytest.approx(2 / 255)
    assert (found.scale.dim(), found.dtype, found.limits()) == (0, UINT8, (0, 255))


def test_int8_activations_end_as_the_same_numbers_in_uint8() -> None:
    x = torch.randn(1000)
    for scheme in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        signed = qparams_of(MinMaxObserver(torch.qint8, scheme), x)
        unsigned = as_uint8(signed)
        assert torch.equal(
            dequantize(quantize(x, signed), signed), dequantize(quantize(x, unsigned), unsigned)
        )
    assert (int(unsigned.zero_point), unsigned.limits()) == (128, (1, 255))
    assert as_uint8(unsigned) is unsigned
    with pytest.raises(ConfigError, match="uint4"):
        as_uint8(qparams_of(PerChannelMinMaxObserver(dtype="uint4"), torch.rand(2, 4)))


# ---- factories ------------------------------------------------------------------------------------------


def test_factories_chain_compare_and_travel() -> None:
    factory = MinMaxObserver.with_args(dtype=torch.qint8).with_args(quant_min=-127, quant_max=127)
    assert factory().quant_min == -127
    assert factory(quant_min=-64).quant_min == -64
    assert factory == MinMaxObserver.with_args(dtype=torch.qint8, quant_min=-127, quant_max=127)
    assert factory != MinMaxObserver.with_args(dtype=torch.qint8)
    assert hash(factory) == hash(copy.deepcopy(factory))
    assert pickle.loads(pickle.dumps(factory)) == factory
    assert "MinMaxObserver(dtype=torch.qint8" in repr(factory)


def test_callable_arguments_are_asked_for_each_time() -> None:
    seen: list[int] = []

    def device() -> dict[str, str]:
        seen.append(1)
        return {"device": "cpu"}

    factory = MinMaxObserver.with_callable_args(factory_kwargs=device).with_args(dtype="int8")
    assert isinstance(factory, ObserverFactory)
    assert (factory().dtype, factory().dtype, len(seen)) == (INT8, INT8, 2)
    factory(factory_kwargs=None)
    assert len(seen) == 2


# ---- odd data -------------------------------------------------------------------------------------------


@per_tensor
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_passed_over_with_one_warning(kind: Callable[..., Any], wrong: float) -> None:
    # pytorch/pytorch#100051, #103467: one infinity made the range infinite, or broke the histogram.
    x = torch.randn(4, 5).clamp(-2, 2)
    clean, observer = kind(), kind()
    observer.name = "layer1.0.conv"
    bad = torch.cat([x.flatten(), torch.tensor([wrong, 0.0])])
    with pytest.warns(ObserverWarning, match=r"'layer1.0.conv'.*NaN or infinite"):
        observer(bad)
    observer(bad)  # a second warning would be an error
    observer(torch.full((3,), wrong))
    clean(bad[torch.isfinite(bad)])
    clean(bad[torch.isfinite(bad)])
    assert [float(v) for v in observer.range()] == [float(v) for v in clean.range()]


@per_channel
def test_each_channel_passes_over_what_is_not_finite(kind: Callable[..., Any]) -> None:
    x = torch.tensor([[1.0, -2.0, torch.nan], [torch.inf, 4.0, -3.0], [torch.nan, torch.nan, torch.nan]])
    observer = kind(dtype="int8")
    with pytest.warns(ObserverWarning, match="NaN or infinite"):
        observer(x)
    scale = observer.choose().scale * 127
    assert torch.allclose(scale[:2], torch.tensor([2.0, 4.0]), rtol=0.02)
    assert bool(torch.isfinite(scale).all())


@any_kind
def test_nothing_seen_is_an_error_that_names_the_layer(kind: Callable[..., Any]) -> None:
    observer = kind()
    observer.name = "features.3"
    with pytest.raises(ConfigError, match=r"of 'features.3' has seen no data"):
        observer.choose()
    with pytest.raises(ConfigError, match="has seen no data"):
        observer.calculate_qparams()
    if kind in SEEING:
        observer(torch.empty(0, 3, 8, 8))  # an empty batch is no calibration
        with pytest.raises(ConfigError, match="has seen no data"):
            observer.choose()


@per_tensor
def test_degenerate_ranges_are_warned_of_once_by_name(kind: Callable[..., Any]) -> None:
    zeros = kind()
    zeros.name = "head"
    zeros(torch.zeros(10))
    with pytest.warns(ObserverWarning, match="of 'head': saw nothing but zeros") as seen:
        assert dequantize(quantize(torch.zeros(2), zeros.choose()), zeros.choose()).tolist() == [0.0, 0.0]
    assert len(seen) == 1
    # pytorch/pytorch#173075: values far from zero use few integers, for zero must be one of them.
    far = kind()
    far(torch.linspace(1000.0, 1001.0, 50))
    with pytest.warns(ObserverWarning, match="only a few are used"):
        found = far.choose()
    assert dequantize(quantize(torch.tensor([1000.5]), found), found)[0] == pytest.approx(1000.5, rel=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        usual = kind()
        usual(torch.rand(1000) + 0.5)
        usual.choose()


@per_tensor
@pytest.mark.parametrize("value", [3.0, -3.0, 1e-30, 1e-44, 3.4e38])
@pytest.mark.filterwarnings("ignore::intaglio.observer.ObserverWarning")
def test_a_constant_is_represented(kind: Callable[..., Any], value: float) -> None:
    found = qparams_of(kind(), torch.full((7,), value))
    assert bool(torch.isfinite(found.scale))
    assert float(found.scale) > 0
    back = dequantize(quantize(torch.tensor([value]), found), found)[0]
    assert float(back) == pytest.approx(value, rel=0.01, abs=1e-35)


@per_tensor
@pytest.mark.parametrize("sign", [1, -1])
def test_one_sided_ranges_use_every_integer(kind: Callable[..., Any], sign: int) -> None:
    found = qparams_of(kind(dtype="uint8"), sign * torch.rand(5000))
    assert int(found.zero_point) == (0 if sign > 0 else 255)
    x = sign * torch.rand(5000)
    assert float((dequantize(quantize(x, found), found) - x).abs().mean()) < 0.3 / 255


@per_tensor
def test_a_range_beyond_float32_is_an_error_with_the_layers_name(kind: Callable[..., Any]) -> None:
    observer = kind(dtype="uint8")
    observer.name = "wide"
    for _ in range(20):
        observer(torch.tensor([-3.4e38, 3.4e38, 1.0]))
    if kind in (MinMaxObserver, MovingAverageMinMaxObserver):
        with pytest.raises(ConfigError, match="of 'wide': a range wider than"):
            observer.choose()
        return
    with contextlib.suppress(ConfigError):  # those that cut the range may choose one
        assert bool(torch.isfinite(observer.choose().scale))


@any_kind
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
def test_other_dtypes_are_seen_as_float32(kind: Callable[..., Any], dtype: torch.dtype) -> None:
    x = (torch.rand(4, 60) * 100 - 50).to(dtype)
    found, expected = (qparams_of(kind(), data) for data in (x, x.float()))
    assert torch.equal(found.scale, expected.scale)


def test_axes_and_channels_that_do_not_fit_are_errors_with_the_layers_name() -> None:
    observer = PerChannelMinMaxObserver(ch_axis=2)
    observer.name = "fc"
    with pytest.raises(InputError, match=r"'fc': ch_axis 2 is not an axis of a tensor of shape \(3, 4\)"):
        observer(torch.rand(3, 4))
    observer = PerChannelMinMaxObserver()
    observer(torch.rand(3, 4))
    with pytest.raises(InputError, match=r"5 channels on axis 0.*but 3 before"):
        observer(torch.rand(5, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MinMaxObserver(qscheme=torch.per_channel_affine),
            "per_channel_affine: use torch.per_tensor",
        ),
        (lambda: PerChannelMinMaxObserver(qscheme=torch.per_tensor_affine), "use torch.per_channel_affine"),
        (lambda: MinMaxObserver(quant_min=5, quant_max=4), "must hold 0"),
        (lambda: MinMaxObserver(torch.quint8, quant_min=-128, quant_max=127), "make no sense for uint8"),
        (lambda: HistogramObserver(bins=0), "bins must be positive"),
        (lambda: PercentileObserver(0.5), "percentile must lie in 50..100"),
        (lambda: FixedQParamsObserver(0.0, 0), "scale 0.0 must be positive"),
        (lambda: FixedQParamsObserver(1.0, 300), "zero_point 300 is not in 0..255"),
        (lambda: MinMaxObserver(torch.complex64), "not one that intaglio quantizes to"),
    ],
)
def test_arguments_that_make_no_sense_are_errors(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# ---- those that see nothing -----------------------------------------------------------------------------


def test_recording_keeps_copies() -> None:
    observer = RecordingObserver()
    x = torch.ones(2, requires_grad=True)
    observer(x)
    observer(x * 2)
    assert [t.tolist() for t in observer.get_tensor_value()] == [[1.0, 1.0], [2.0, 2.0]]
    assert not observer.tensor_val[0].requires_grad


@pytest.mark.parametrize(
    "make", [PlaceholderObserver, NoopObserver, RecordingObserver, ReuseInputObserver, ObserverBase]
)
def test_those_that_choose_nothing_say_so(make: Callable[[], ObserverBase]) -> None:
    observer = make()
    x = torch.randn(3)
    assert observer(x) is x
    with pytest.raises(ConfigError, match=f"{make.__name__} chooses no parameters"):  # type: ignore[attr-defined]
        observer.calculate_qparams()


def test_placeholders_may_mean_float32() -> None:
    for observer in (PlaceholderObserver(torch.float32), NoopObserver(torch.float32)):
        assert observer.dtype.name == "float32"
    assert PlaceholderObserver(torch.quint8, compute_dtype=torch.quint8, is_dynamic=False).is_dynamic


# ---- copies, states -------------------------------------------------------------------------------------


@any_kind
def test_observers_copy_pickle_and_forget(kind: Callable[..., Any]) -> None:
    # pytorch/pytorch#48448, #51216
    observer = kind()
    expected = qparams_of(observer, torch.randn(8, 50), torch.randn(8, 50) * 2)
    for other in (copy.deepcopy(observer), pickle.loads(pickle.dumps(observer))):
        assert torch.equal(other.choose().scale, expected.scale)
        other(torch.randn(8, 50) * 100)
        assert torch.equal(observer.choose().scale, expected.scale)
    observer.reset_min_max_vals()
    with pytest.raises(ConfigError, match="no data"):
        observer.choose()
    observer(torch.randn(5, 50))
    assert bool(torch.isfinite(observer.choose().scale).all())


@any_kind
def test_an_observed_models_state_loads_into_another(kind: Callable[..., Any]) -> None:
    def model() -> nn.Module:
        return nn.ModuleDict({"weight": nn.Linear(2, 2), "seen": kind(), "other": MinMaxObserver()})

    first, second = model(), model()
    first["seen"](torch.randn(8, 50))
    first["other"](torch.randn(8, 50))
    state = get_observer_state_dict(first)
    assert not any("weight" in key for key in state)
    load_observer_state_dict(second, state)
    for name in ("seen", "other"):
        assert torch.equal(second[name].choose().scale, first[name].choose().scale)
    third = model()
    third.load_state_dict(first.state_dict())
    assert torch.equal(third["seen"].choose().scale, first["seen"].choose().scale)
    third["seen"](torch.randn(8, 50) * 9)  # goes on from there, and leaves the first alone
    assert float(third["seen"].choose().scale.max()) > float(first["seen"].choose().scale.max())


def test_a_state_that_does_not_fit_is_an_error_that_names_it() -> None:
    model = nn.ModuleDict({"a": MinMaxObserver(), "b": MinMaxObserver()})
    state = get_observer_state_dict(model)
    with pytest.raises(ConfigError, match=r"'c.min_val'.*nothing is there for 'b'"):
        load_observer_state_dict(model, {k.replace("b.", "c."): v for k, v in state.items()})
    with pytest.raises(ConfigError, match="'a' is a MinMaxObserver, whose state lacks 'min_val'"):
        load_observer_state_dict(model, {k: v for k, v in state.items() if k != "a.min_val"})


@pytest.mark.parametrize(
    "name",
    [
        "MinMaxObserver",
        "MovingAverageMinMaxObserver",
        "PerChannelMinMaxObserver",
        "MovingAveragePerChannelMinMaxObserver",
        "HistogramObserver",
        "FixedQParamsObserver",
    ],
)
@pytest.mark.parametrize("seen", [True, False])
def test_states_of_legacy_observers_load(name: str, seen: bool) -> None:
    arguments = {"scale": 0.5, "zero_point": 3} if name == "FixedQParamsObserver" else {}
    theirs, mine = getattr(legacy, name)(**arguments), getattr(ours, name)(**arguments)
    if seen:
        theirs(torch.randn(8, 500))
        theirs(torch.randn(8, 500))
    mine.load_state_dict(theirs.state_dict())
    if name == "FixedQParamsObserver":
        assert mine.choose().zero_point == 3
    elif not seen:
        assert not mine.has_seen_data
    else:
        assert torch.equal(mine.min_val, theirs.min_val)
        expected = theirs.calculate_qparams()[0]
        if "PerChannel" in name:
            assert mine.choose().scale.shape == expected.shape
        else:
            assert float(mine.choose().scale) == pytest.approx(float(expected), rel=0.15)


def test_states_of_old_legacy_versions_load() -> None:
    observer = PerChannelMinMaxObserver()
    state = {"eps": torch.tensor([1e-7]), "min_vals": -torch.ones(3), "max_vals": torch.ones(3) * 2}
    observer.load_state_dict(state)
    assert observer.choose().scale.tolist() == pytest.approx([2 / 127] * 3)
    older = HistogramObserver()
    older.load_state_dict(
        {"min_val": torch.empty(0), "max_val": torch.empty(0), "histogram": torch.zeros(2048)}
    )
    assert not older.has_seen_data


# ---- granular: weights ----------------------------------------------------------------------------------


def test_weights_of_few_levels_by_least_squares_are_nearer_than_by_extremes() -> None:
    weight = torch.randn(16, 4000)
    errors = []
    for kind in (PerChannelMinMaxObserver, PerChannelMSEObserver):
        found = qparams_of(kind(dtype="int8", quant_min=-8, quant_max=7), weight)
        assert bool((found.zero_point == 0).all())
        assert found.limits() == (-7, 7)
        errors.append(float((dequantize(quantize(weight, found), found) - weight).square().mean()))
    assert errors[1] < 0.7 * errors[0]


def test_weights_by_least_squares_are_never_worse_than_by_extremes() -> None:
    for weight in (
        torch.randn(8, 9),
        torch.rand(8, 3) - 0.2,
        torch.zeros(8, 4),
        torch.eye(8),
        torch.randn(8),
    ):
        errors = []
        for kind in (PerChannelMinMaxObserver, PerChannelMSEObserver):
            found = qparams_of(kind(dtype="int8"), weight)
            errors.append(float((dequantize(quantize(weight, found), found) - weight).square().mean()))
        assert errors[1] <= errors[0] * 1.000001 + 1e-14  # a scale's own rounding
