"""The eager flow of static quantization: stubs, prepare, calibration, convert; and what goes wrong in it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio import (
    ConfigError,
    ConversionError,
    DeQuantStub,
    FloatFunctional,
    InputError,
    NothingQuantizedError,
    QTensor,
    QuantStub,
    QuantWrapper,
    convert,
    prepare,
)
from intaglio.nn import QFunctional, Quantize, QuantizedConv, QuantizedLinear
from intaglio.nn.static import StaticModule

X86 = "x86"


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.plus = FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        return self.plus.add_relu(x, self.conv2(self.relu(self.conv1(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.block = Block(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(self.quant(x)))
        logits: Tensor = self.dequant(self.fc(torch.flatten(self.pool(x), 1)))
        return logits


@pytest.fixture
def data() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(6, 3, 16, 16)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(1)
    net = Net().eval().requires_grad_(False)
    net.qconfig = intaglio.get_default_qconfig(X86)
    return net


def calibrated(model: nn.Module, data: Tensor) -> nn.Module:
    prepared = prepare(model)
    prepared(data)
    return prepared


def sqnr(found: Tensor, expected: Tensor) -> float:
    return float(20 * torch.log10(expected.norm() / (found - expected).norm()))


# ---- The flow ----------------------------------------------------------------------------------------------


def test_prepare_calibrate_convert(model: nn.Module, data: Tensor) -> None:
    expected = model(data)
    quantized = convert(calibrated(model, data))
    assert sqnr(quantized(data), expected) > 30
    kinds = {type(m) for m in quantized.modules()}
    assert kinds >= {Quantize, QuantizedConv, QuantizedLinear, QFunctional}
    assert torch.equal(model(data), expected)
    assert not any(isinstance(m, StaticModule) for m in model.modules())
    assert not any("qconfig" in vars(m) for m in quantized.modules())


def test_observing_changes_no_value(model: nn.Module, data: Tensor) -> None:
    prepared = prepare(model)
    assert torch.equal(prepared(data), model(data))


def test_in_place_is_the_same_model(model: nn.Module, data: Tensor) -> None:
    expected = convert(calibrated(model, data))(data)
    prepared = prepare(model, inplace=True)
    assert prepared is model
    prepared(data)
    assert convert(prepared, inplace=True) is model
    assert torch.equal(model(data), expected)


def test_quantize_is_all_three_steps(model: nn.Module, data: Tensor) -> None:
    expected = convert(calibrated(model, data))(data)

    def run(prepared: nn.Module, batches: list[Tensor], scale: float) -> None:
        for batch in batches:
            prepared(batch * scale)

    quantized = intaglio.quantize(model, run, ([data], 1.0))
    assert torch.equal(quantized(data), expected)


def test_a_part_without_qconfig_stays_float(model: Any, data: Tensor) -> None:
    model.fc.qconfig = None

    class Split(type(model)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            x = self.block(self.stem(self.quant(x)))
            return self.fc(torch.flatten(self.dequant(self.pool(x)), 1))

    model.__class__ = Split
    quantized: Any = convert(calibrated(model, data))
    assert type(quantized.fc) is nn.Linear
    assert sqnr(quantized(data), model(data)) > 30
    notes = {layer.path: layer.note for layer in intaglio.summary(quantized).layers}
    assert notes["fc"] == "its qconfig is None"


def test_models_that_cannot_be_edited_are_wrapped(data: Tensor) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2)).eval()
    plain.requires_grad_(False)
    wrapped = QuantWrapper(plain)
    wrapped.qconfig = intaglio.get_default_qconfig(X86)
    assert not wrapped.training
    assert sqnr(convert(calibrated(wrapped, data))(data), plain(data)) > 28


def test_add_quant_dequant_wraps_each_layer_alone(data: Tensor) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2)).eval()
    plain.requires_grad_(False)
    expected = plain(data)
    intaglio.propagate_qconfig_(plain, {nn.Linear: intaglio.get_default_qconfig(X86)})
    wrapped = intaglio.add_quant_dequant(plain)
    assert [type(m) for m in wrapped] == [nn.Conv2d, nn.GELU, nn.Flatten, QuantWrapper]  # type: ignore[attr-defined]
    assert sqnr(convert(calibrated(wrapped, data))(data), expected) > 35


def test_propagate_writes_every_qconfig_and_names_win(model: Any) -> None:
    x86, other = intaglio.get_default_qconfig(X86), intaglio.get_default_qconfig("qnnpack")
    intaglio.propagate_qconfig_(model, {"block": other, nn.Conv2d: x86, "block.conv1": None})
    assert model.fc.qconfig is model.qconfig
    assert model.block.qconfig is other
    assert model.block.conv1.qconfig is None
    assert model.block.conv2.qconfig is x86
    assert model.block.plus.qconfig is other
    with pytest.raises(ConfigError, match="no module is named 'blok'"):
        intaglio.propagate_qconfig_(model, {"blok": other})


def test_hooks_of_the_user_stay_and_observers_go(model: Any, data: Tensor) -> None:
    seen: list[str] = []
    model.stem.register_forward_hook(lambda module, args, output: seen.append(type(output).__name__))
    quantized: Any = convert(calibrated(model, data))
    assert seen == ["Tensor"]
    quantized(data)
    assert seen == ["Tensor", "QTensor"]
    assert len(quantized.stem._forward_hooks) == 1
    assert len(model.stem._forward_hooks) == 1


def test_prepared_models_can_be_copied_pickled_and_their_states_loaded(
    model: nn.Module, data: Tensor
) -> None:
    # pytorch/pytorch#57352, #51216
    prepared = calibrated(model, data)
    expected = convert(prepared)(data)
    assert torch.equal(convert(copy.deepcopy(prepared))(data), expected)
    assert torch.equal(convert(pickle.loads(pickle.dumps(prepared)))(data), expected)
    fresh = prepare(model)
    fresh.load_state_dict(prepared.state_dict())
    assert torch.equal(convert(fresh)(data), expected)


def test_dynamic_and_static_qconfigs_in_one_model(model: Any, data: Tensor) -> None:
    class Mixed(type(model)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            x = self.dequant(self.block(self.stem(self.quant(x))))
            return self.fc(torch.flatten(self.pool(x), 1))

    model.__class__ = Mixed
    model.fc.qconfig = intaglio.default_dynamic_qconfig
    quantized: Any = convert(calibrated(model, data))
    assert type(quantized.fc).__name__ == "DynamicLinear"
    assert sqnr(quantized(data), model(data)) > 30


def test_other_shapes_than_in_calibration(model: nn.Module, data: Tensor) -> None:
    quantized = convert(calibrated(model, data))
    for shape in ((1, 3, 16, 16), (2, 3, 9, 31)):
        x = torch.randn(shape)
        assert sqnr(quantized(x), model(x)) > 24


def test_empty_batches(model: nn.Module, data: Tensor) -> None:
    prepared = calibrated(model, data)
    prepared(data[:0])
    quantized = convert(prepared)
    assert quantized(data[:0]).shape == (0, 5)


def test_layouts_of_the_input_change_no_bit(model: nn.Module, data: Tensor) -> None:
    quantized = convert(calibrated(model, data))
    expected = quantized(data)
    wide = torch.randn(6, 3, 16, 32)
    wide[..., ::2] = data
    for x in (data.to(memory_format=torch.channels_last), wide[..., ::2], data.double()):
        assert torch.equal(quantized(x), expected)


# ---- Custom modules ----------------------------------------------------------------------------------------


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class ObservedCustom(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]

    @classmethod
    def from_float(cls, module: Any) -> ObservedCustom:
        assert hasattr(module, "qconfig")
        observed = cls(module.conv)
        observed.qconfig = module.qconfig
        prepare(observed, inplace=True)
        return observed


class QuantizedCustom(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: QTensor) -> QTensor:
        return self.conv(x)  # type: ignore[no-any-return]

    @classmethod
    def from_observed(cls, module: Any) -> QuantizedCustom:
        return cls(convert(module).conv)


def test_custom_modules_take_the_legacy_way(data: Tensor) -> None:
    model = nn.Sequential(QuantStub(), Custom(), DeQuantStub()).eval().requires_grad_(False)
    model.qconfig = intaglio.get_default_qconfig(X86)
    prepare_dict = {"float_to_observed_custom_module_class": {Custom: ObservedCustom}}
    convert_dict = {"observed_to_quantized_custom_module_class": {ObservedCustom: QuantizedCustom}}
    prepared = prepare(model, prepare_custom_config_dict=prepare_dict)
    assert [type(m) for m in (model[1], prepared[1])] == [Custom, ObservedCustom]  # type: ignore[index]
    prepared(data)
    quantized: Any = convert(prepared, convert_custom_config_dict=convert_dict)
    assert type(quantized[1]) is QuantizedCustom
    assert sqnr(quantized(data), model(data)) > 35


def test_a_mapping_of_ones_own_comes_first(model: Any, data: Tensor) -> None:
    class Mine(nn.Module):
        @classmethod
        def from_float(cls, module: Any) -> Mine:
            module.activation_post_process.calculate_qparams()
            mine = cls()
            mine.inner = intaglio.swap_module(module, {})
            return mine

        def forward(self, x: QTensor) -> QTensor:
            return self.inner(x)  # type: ignore[no-any-return, operator]

    quantized: Any = convert(calibrated(model, data), {nn.Linear: Mine})
    assert type(quantized.fc) is Mine
    assert torch.equal(quantized(data), convert(calibrated(model, data))(data))


# ---- What goes wrong ---------------------------------------------------------------------------------------


def failing(model: nn.Module, act: Callable[[], Any], error: type[Exception], match: str) -> None:
    """`act` raises, and leaves `model` what it was."""
    before = repr(model), {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(error, match=match):
        act()
    after = repr(model), model.state_dict()
    assert before[0] == after[0]
    assert before[1].keys() == after[1].keys()
    assert all(torch.equal(before[1][key], after[1][key]) for key in before[1])


def test_no_qconfig(data: Tensor) -> None:
    net = Net().eval()
    failing(net, lambda: prepare(net, inplace=True), NothingQuantizedError, "no module has a qconfig")


def test_nothing_that_has_a_rule() -> None:
    # ultralytics/yolov5#4386, pytorch/tutorials#899: nothing was quantized, and nothing said so.
    net = nn.Sequential(nn.ReLU(), nn.Flatten())
    net.qconfig = intaglio.get_default_qconfig(X86)
    failing(net, lambda: prepare(net, inplace=True), NothingQuantizedError, "nothing would be quantized")


def test_a_qconfig_that_is_none(model: Any) -> None:
    model.fc.qconfig = "x86"
    failing(model, lambda: prepare(model, inplace=True), ConfigError, "'fc': its qconfig is a str")


def test_twice(model: nn.Module, data: Tensor) -> None:
    prepared = calibrated(model, data)
    failing(prepared, lambda: prepare(prepared, inplace=True), ConversionError, "prepared already")
    quantized = convert(prepared)
    failing(quantized, lambda: convert(quantized, inplace=True), ConversionError, "converted already")
    failing(model, lambda: convert(model, inplace=True), ConversionError, "not prepared")


def test_observers_that_saw_nothing_are_named(model: nn.Module, data: Tensor) -> None:
    prepared = prepare(model)
    failing(prepared, lambda: convert(prepared, inplace=True), ConversionError, r"'block\.conv1' \(Conv2d\)")
    prepared(data[:0])
    failing(prepared, lambda: convert(prepared, inplace=True), ConversionError, r"'stem' \(Conv2d\)")


def test_a_stub_that_was_forgotten(model: Any, data: Tensor) -> None:
    # pytorch/pytorch#34583, #98596: "Could not run 'quantized::conv2d.new' ... from the 'CPU' backend".
    model.quant = nn.Identity()
    quantized = convert(calibrated(model, data))
    with pytest.raises(InputError, match=r"'stem' .* takes a QTensor, .* QuantStub"):
        quantized(data)


def test_two_stubs_in_a_row(model: Any, data: Tensor) -> None:
    model.quant = nn.Sequential(QuantStub(), QuantStub())
    quantized = convert(calibrated(model, data))
    with pytest.raises(InputError, match=r"'quant\.1' .* quantized already"):
        quantized(data)


def test_a_float_functional_for_two_places(data: Tensor) -> None:
    # pytorch/pytorch#133087, pytorch/vision#1948
    class Shared(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.quant, self.dequant, self.plus = QuantStub(), DeQuantStub(), FloatFunctional()
            self.factor = factor

        def forward(self, x: Tensor) -> Tensor:
            x = self.quant(x)
            small = self.plus.add(x, x)
            return self.dequant(self.plus.mul(small, self.plus.mul_scalar(small, self.factor)))  # type: ignore[no-any-return]

    for factor, fails in ((100.0, True), (0.15, False)):
        model = Shared(factor).eval()
        model.qconfig = intaglio.get_default_qconfig(X86)
        prepared = calibrated(model, data)
        if fails:
            message = r"'plus': one FloatFunctional is used in 2 places .*test_static_eager"
            failing(prepared, lambda p=prepared: convert(p, inplace=True), ConversionError, message)  # type: ignore[misc]
        else:
            assert sqnr(convert(prepared)(data), model(data)) > 25


def test_a_module_at_two_places_with_two_qconfigs(model: Any) -> None:
    model.other = nn.Sequential(model.fc)
    model.other.qconfig = intaglio.get_default_qconfig("qnnpack")
    failing(model, lambda: prepare(model, inplace=True), ConfigError, r"'fc' and 'other\.0' are one module")


def test_weights_that_are_not_finite(model: Any, data: Tensor) -> None:
    model.fc.weight[2, 3] = torch.nan
    before = repr(model)
    with pytest.raises(ConversionError, match=r"'fc\.weight' holds NaN"):
        prepare(model, inplace=True)
    assert repr(model) == before


def test_training_mode_is_refused_by_converted_models(model: nn.Module, data: Tensor) -> None:
    quantized = convert(calibrated(model, data))
    quantized.train()
    with pytest.raises(InputError, match=r"training mode: call model\.eval"):
        quantized(data)


def test_what_quantized_values_cannot_do_names_the_remedy(model: Any, data: Tensor) -> None:
    quantized: Any = convert(calibrated(model, data))
    x = quantized.quant(data)
    with pytest.raises(InputError, match="has no quantized form"):
        x + x
    with pytest.raises(InputError, match="has no quantized form"):
        torch.fft.fft(x)
    with pytest.raises(InputError, match=r"'fc' .* must be 8"):
        quantized.fc(x)
    with pytest.raises(InputError, match=r"'stem' .* input has shape"):
        quantized.stem(quantized.stem(x))


def test_meta_tensors_give_shapes() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 4))
    model = intaglio.QuantWrapper(layers).eval()
    model.qconfig = intaglio.get_default_qconfig("x86")
    x = torch.randn(2, 3, 8, 8)
    quantized = intaglio.quantize(model, lambda prepared: prepared(x))
    for _ in range(2):  # before and after the modules know the shape
        found = quantized(x.to("meta"))
        assert (found.shape, found.device.type) == ((2, 4), "meta")
        quantized(x)


def test_values_that_were_tampered_with_are_refused() -> None:
    model = nn.Sequential(intaglio.QuantStub(), nn.Conv2d(3, 8, 3), intaglio.FloatFunctional()).eval()
    model.qconfig = intaglio.get_default_qconfig("x86")
    x = torch.randn(2, 3, 8, 8)

    def run(prepared: Any) -> None:
        y = prepared[1](prepared[0](x))
        prepared[2].add(y, y)

    quantized = intaglio.quantize(model, run)
    run(quantized)
    q = quantized[0](x)
    y = quantized[1](q)
    with pytest.raises(InputError, match="QTensor of uint8"):
        quantized[1](intaglio.QTensor(q.data.int(), q.qparams))
    with pytest.raises(InputError, match="uint8"):
        quantized[2].add(y, intaglio.QTensor(y.data.int(), y.qparams))
