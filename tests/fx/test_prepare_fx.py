"""`prepare_fx`, `convert_fx` and `fuse_fx`: one lowering with eager mode, configuration, and bad input."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import intaglio
from intaglio import QConfigMapping
from intaglio.nn import QFunctional, ResidualLayer
from intaglio.qparams import UINT8, QParams, as_uint8
from intaglio.qtensor import QTensor
from intaglio.quantize_fx import graph_record
from tests.fx.quantized_models import kinds, quantize, sqnr

QCONFIG = intaglio.get_default_qconfig()
DYNAMIC = intaglio.default_dynamic_qconfig


class Net(nn.Module):
    """Layers, functions and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.body(x) + x)
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class NetByHand(nn.Module):
    """The same for eager mode, all placed by hand."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.quant, self.dequant = intaglio.QuantStub(), intaglio.DeQuantStub()
        self.stem, self.head = net.stem, net.head
        self.body = ResidualLayer(net.body, nn.ReLU())
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.quant(x))
        x = self.body(x, x)
        return self.dequant(self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)))


def images(count: int = 4) -> list[Tensor]:
    return [torch.randn(2, 3, 12, 12) for _ in range(count)]


# ---- One lowering ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["x86", "qnnpack"])
def test_eager_mode_and_graph_mode_give_equal_bits(backend: str) -> None:
    net, batches = Net(), images()
    by_graph = quantize(net, *batches, mapping=intaglio.get_default_qconfig_mapping(backend))
    by_hand: Any = intaglio.fuse_modules(NetByHand(copy.deepcopy(net)), [["stem.0", "stem.1", "stem.2"]])
    by_hand.qconfig = intaglio.get_default_qconfig(backend)
    prepared = intaglio.prepare(by_hand)
    for batch in batches:
        prepared(batch)
    converted = intaglio.convert(prepared)
    x = torch.randn(5, 3, 20, 16)
    assert torch.equal(by_graph(x), converted(x))


def test_dynamic_eager_mode_and_graph_mode_give_equal_bits() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()
    x = torch.randn(6, 8)
    by_graph = quantize(net, x, mapping=QConfigMapping().set_global(DYNAMIC))
    assert torch.equal(by_graph(x), intaglio.quantize_dynamic(net)(x))


def test_the_result_copies_pickles_and_compiles() -> None:
    converted = quantize(Net(), *images())
    x = images()[0]
    expected = converted(x)
    assert torch.equal(copy.deepcopy(converted)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(converted))(x), expected)
    assert torch.equal(torch.export.export(converted, (x,)).module()(x), expected)


def test_reference_modules_compute_the_same_in_float() -> None:
    net, batches = Net(), images()
    prepared = intaglio.prepare_fx(net, intaglio.get_default_qconfig_mapping(), (batches[0],))
    for batch in batches:
        prepared(batch)
    converted, reference = intaglio.convert_fx(prepared), intaglio.convert_to_reference_fx(prepared)
    assert kinds(converted) != kinds(reference)
    assert sqnr(reference(batches[0]), converted(batches[0])) > 36
    assert sqnr(reference.double()(batches[0].double()), converted(batches[0])) > 36
    up = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Linear(5, 7)).eval()
    x = torch.randn(2, 4, 3, 3)
    prepared = intaglio.prepare_fx(up, intaglio.get_default_qconfig_mapping(), (x,))
    prepared(x)
    assert sqnr(intaglio.convert_to_reference_fx(prepared)(x), intaglio.convert_fx(prepared)(x)) > 36


def test_fuse_fx() -> None:
    net, x = Net(), images()[0]
    for fused in (intaglio.fuse_fx(net, example_inputs=(x,)), intaglio.fuse_fx(net.stem)):
        assert isinstance(fused, fx.GraphModule)
        assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
    assert sqnr(intaglio.fuse_fx(net, example_inputs=(x,))(x), net(x)) > 100
    with pytest.raises(intaglio.ConversionError, match="pass example_inputs"):
        intaglio.fuse_fx(nn.Sequential(Decides()).eval())


# ---- Which qconfig holds where -----------------------------------------------------------------------------


def test_the_order_of_precedence() -> None:
    mapping = (
        QConfigMapping()
        .set_global(QCONFIG)
        .set_object_type(nn.Conv2d, None)
        .set_module_name_regex(r"stem\..*", QCONFIG)
        .set_module_name("head", None)
    )
    converted = quantize(Net(), *images(), mapping=mapping)
    assert type(converted.get_submodule("stem.0")).__name__ == "QuantizedConv"
    assert type(converted.body) is nn.Conv2d
    assert type(converted.head) is nn.Linear
    record = graph_record(converted)
    assert record is not None
    assert record.floats["head"] == "its qconfig is None"
    assert "its qconfig is None" in str(intaglio.summary(converted))


@pytest.mark.parametrize("key", [torch.mul, "mul"])
def test_a_function_or_method_by_name(key: Any) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second(torch.mul(x, x) if key is torch.mul else x.mul(x))

    mapping = QConfigMapping().set_global(QCONFIG)
    assert "QFunctional" in kinds(quantize(Product().eval(), *images(), mapping=mapping))
    mapping.set_object_type(key, None)
    assert "QFunctional" not in kinds(quantize(Product().eval(), *images(), mapping=mapping))


def test_the_second_of_two_calls_of_a_function() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            first, second, third = self.layers
            x = first(x)
            x = second(torch.cat([x, x.flip(1)], 0))
            return third(torch.cat([x, x.flip(1)], 0))

    mapping = QConfigMapping().set_global(QCONFIG)
    mapping.set_module_name_object_type_order("", torch.cat, 1, None)
    converted = quantize(Sums().eval(), *images(), mapping=mapping)
    assert sum(isinstance(part, QFunctional) for part in converted.modules()) == 1


def test_a_backend_config_that_knows_less() -> None:
    backend = intaglio.BackendConfig("small").set_backend_pattern_config(
        next(c for c in intaglio.backend_config.get_native_backend_config().configs if c.pattern is nn.Linear)
    )
    converted = quantize(Net(), *images(), backend_config=backend)
    assert kinds(converted).count("QuantizedConv") == 0
    assert sum("Linear" in kind for kind in kinds(converted)) == 1


# ---- Custom configuration ----------------------------------------------------------------------------------


def test_non_traceable_and_standalone_modules() -> None:
    custom = intaglio.PrepareCustomConfig().set_non_traceable_module_names(["stem"])
    converted = quantize(Net(), *images(), prepare_custom_config=custom)
    assert type(converted.stem) is nn.Sequential
    record = graph_record(converted)
    assert record is not None
    assert "stem.0" in record.graphs
    inner = QConfigMapping().set_global(QCONFIG).set_module_name("1", None)
    alone = intaglio.PrepareCustomConfig()
    alone.set_standalone_module_class(nn.Sequential, inner, (torch.randn(1, 3, 12, 12),), None, None)
    net = nn.Sequential()
    net.add_module("inner", nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)))
    net.add_module("outer", nn.Conv2d(4, 4, 1))
    converted = quantize(Holder(net).eval(), *images(), prepare_custom_config=alone)
    assert isinstance(converted.net, fx.GraphModule)


class Holder(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.name = "kept"

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_integers_in_and_out() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    custom = intaglio.PrepareCustomConfig().set_input_quantized_indexes([0]).set_output_quantized_indexes([0])
    converted = quantize(net, *images(), prepare_custom_config=custom)
    x = images()[0]
    observer = intaglio.MinMaxObserver()
    observer(x)
    quantized_input = QTensor.quantize(x, as_uint8(observer.choose()))
    found = converted(quantized_input)
    assert isinstance(found, QTensor)
    assert sqnr(found.dequantize(), net(x)) > 28
    with pytest.raises(intaglio.InputError, match="takes a QTensor"):
        converted(x)


def test_attributes_are_kept() -> None:
    model = Holder(nn.Conv2d(3, 4, 1)).eval()
    custom = intaglio.PrepareCustomConfig().set_preserved_attributes(["name"])
    prepared = intaglio.prepare_fx(model, intaglio.get_default_qconfig_mapping(), (images()[0],), custom)
    assert prepared.name == "kept"
    prepared(images()[0])
    prepared.extra = 3
    converted = intaglio.convert_fx(
        prepared, intaglio.ConvertCustomConfig().set_preserved_attributes(["extra"])
    )
    assert (converted.name, converted.extra) == ("kept", 3)
    assert copy.deepcopy(converted).name == "kept"


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class ObservedDoubling(Doubling):
    @classmethod
    def from_float(cls, module: nn.Module) -> ObservedDoubling:
        made = cls()
        vars(made)["qconfig"] = vars(module)["qconfig"]
        return made


class QuantizedDoubling(nn.Module):
    @classmethod
    def from_observed(cls, module: nn.Module) -> QuantizedDoubling:
        return cls()

    def forward(self, x: QTensor) -> QTensor:
        scale, zero_point = 2 * x.qparams.scale, x.qparams.zero_point
        return QTensor(x.data, QParams(scale, zero_point, UINT8))


def test_custom_modules() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Doubling()).eval()
    x = images()[0]
    custom = intaglio.PrepareCustomConfig().set_float_to_observed_mapping(Doubling, ObservedDoubling)
    prepared = intaglio.prepare_fx(model, intaglio.get_default_qconfig_mapping(), (x,), custom)
    assert isinstance(prepared.get_submodule("1"), ObservedDoubling)
    prepared(x)
    converted = intaglio.convert_fx(
        prepared,
        intaglio.ConvertCustomConfig().set_observed_to_quantized_mapping(ObservedDoubling, QuantizedDoubling),
    )
    assert isinstance(converted.get_submodule("1"), QuantizedDoubling)
    assert sqnr(converted(x), model(x)) > 28


# ---- Bad input ---------------------------------------------------------------------------------------------


class Decides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else x


def test_bad_input_is_named_and_leaves_the_model_as_it_is() -> None:
    net, x = Net(), images()[0]
    before = copy.deepcopy(net.state_dict())
    mapping = intaglio.get_default_qconfig_mapping()
    converted = quantize(net, x)
    prepared = intaglio.prepare_fx(net, mapping, (x,))
    cases: list[tuple[type[Exception], str, Any]] = [
        (intaglio.ConfigError, "example_inputs is missing", lambda: intaglio.prepare_fx(net, mapping)),
        (intaglio.ConfigError, "holds no tensor", lambda: intaglio.prepare_fx(net, mapping, ("x",))),
        (
            intaglio.ConfigError,
            r"cannot be run on example_inputs \(float32\[2, 4\]\)",
            lambda: intaglio.prepare_fx(net, mapping, (torch.randn(2, 4),)),
        ),
        (
            intaglio.ConfigError,
            "did you mean 'head'",
            lambda: intaglio.prepare_fx(net, QConfigMapping().set_module_name("heat", QCONFIG), (x,)),
        ),
        (intaglio.ConfigError, "not a QConfig", lambda: intaglio.prepare_fx(net, QCONFIG, (x,))),
        (intaglio.ConversionError, "prepared already", lambda: intaglio.prepare_fx(prepared, mapping, (x,))),
        (
            intaglio.ConversionError,
            "converted already",
            lambda: intaglio.prepare_fx(converted, mapping, (x,)),
        ),
        (intaglio.ConversionError, "converted already", lambda: intaglio.convert_fx(converted)),
        (intaglio.ConversionError, "not prepared", lambda: intaglio.convert_fx(net)),
        (
            intaglio.ConfigError,
            "say what stays float to prepare_fx",
            lambda: intaglio.convert_fx(prepared, qconfig_mapping=mapping),
        ),
        (intaglio.ConversionError, "has seen no data", lambda: intaglio.convert_fx(prepared)),
        (intaglio.ConversionError, "not str", lambda: intaglio.prepare_fx("net", mapping, (x,))),  # type: ignore[arg-type]
        (
            intaglio.ConversionError,
            "strict: not everything can be traced: .*depends on data",
            lambda: intaglio.prepare_fx(Decides().eval(), mapping, (torch.randn(2, 4),), strict=True),
        ),
        (
            intaglio.NothingQuantizedError,
            "its qconfig is None",
            lambda: intaglio.prepare_fx(net, QConfigMapping(), (x,)),
        ),
        (
            intaglio.ConversionError,
            "train mode",
            lambda: intaglio.prepare_fx(copy.deepcopy(net).train(), mapping, (x,)),
        ),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message):
            call()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not hasattr(net, "qconfig")


def test_several_threads_at_once() -> None:
    converted = quantize(Net(), *images())
    inputs = [torch.randn(1 + i % 3, 3, 12 + 4 * (i % 2), 12) for i in range(24)]
    expected = [converted(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(converted, inputs))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_odd_values_and_empty_batches_do_not_crash(value: float) -> None:
    converted = quantize(Net(), *images())
    x = torch.randn(2, 3, 12, 12)
    x[0, 0, 0, 0] = value
    assert bool(torch.isfinite(converted(x)).all())
    assert converted(torch.randn(0, 3, 12, 12)).shape == (0, 5)
    strided = torch.randn(2, 12, 12, 3).permute(0, 3, 1, 2)
    assert torch.equal(converted(strided), converted(strided.contiguous()))
    with pytest.raises(intaglio.InputError):
        converted(torch.randn(2, 4, 12, 12))
    with pytest.raises(intaglio.InputError):
        converted(torch.zeros(2, 3, 12, 12, dtype=torch.long))
