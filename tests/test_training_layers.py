"""Every kind of layer trains for quantization, and is in eval mode what `convert` makes of it, to the bit."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import intaglio
from benchmarks.architectures import ARCHITECTURES
from intaglio.eager import rehearsal
from intaglio.errors import ConversionError, NothingQuantizedError
from intaglio.graph_passes.examples import Call
from intaglio.nn import FusedModule, NormedLayer
from intaglio.nn.trained import TrainedLayer
from intaglio.qtensor import QTensor
from intaglio.rules import Example, OpRule, all_rules

FEW_BITS = intaglio.QConfig(
    intaglio.default_fake_quant,
    intaglio.LearnedFakeQuantize.with_args(dtype="int8", quant_min=-8, quant_max=7, ch_axis=0),
)
QCONFIGS = {
    "x86": intaglio.get_default_qat_qconfig("x86"),
    "qnnpack": intaglio.get_default_qat_qconfig("qnnpack"),
    "weights per tensor": intaglio.default_qat_qconfig,
    "learned, 4 bits": FEW_BITS,
    "learned everywhere": intaglio.QConfig(
        intaglio.LearnedFakeQuantize.with_args(dtype="uint8"), FEW_BITS.weight
    ),
    "histogram": intaglio.QConfig(
        intaglio.default_histogram_fake_quant, intaglio.default_per_channel_weight_fake_quant
    ),
}


class Wrapped(nn.Module):
    """A layer between stubs."""

    def __init__(self, layer: nn.Module, *, static: bool) -> None:
        super().__init__()
        self.layer = layer
        self.quant = intaglio.QuantStub() if static else None
        self.dequant = intaglio.DeQuantStub() if static else None

    def forward(self, *inputs: Any) -> Any:
        if self.quant is None or self.dequant is None:
            return self.layer(*inputs)
        y = self.layer(*(self.quant(x) if is_float(x) else x for x in inputs))
        return (self.dequant(y[0]), *y[1:]) if isinstance(y, tuple) else self.dequant(y)


def is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def floats(y: Any) -> list[Tensor]:
    return [part for part in tree_leaves(y) if is_float(part)]


def equal(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(floats(a), floats(b), strict=True))


def train_a_step(model: nn.Module, *inputs: Any) -> None:
    """One step of gradient descent; every parameter gets a gradient that is finite."""
    model.train()
    sum(part.square().mean() for part in floats(model(*inputs))).backward()  # type: ignore[union-attr]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name
            parameter -= 0.003 * parameter.grad
            parameter.grad = None
    model(*inputs)
    model.eval()


TRAINED = [
    pytest.param(rule, make, static, id=f"{rule.name}-{index}-{'static' if static else 'dynamic'}")
    for rule in all_rules()
    if rule.trained is not None
    for static in (True, False)
    for index, make in enumerate(rule.examples)
]


@pytest.mark.parametrize(("rule", "make", "static"), TRAINED)
def test_every_rule_that_trains(rule: OpRule, make: Callable[[], Example], static: bool) -> None:
    torch.manual_seed(0)
    layer, inputs = make()
    is_table = rule.name.startswith("Embedding")
    states = rule.name.startswith(("LSTM", "GRU", "RNN"))
    model = Wrapped(layer, static=static and not is_table).train()
    qconfig = QCONFIGS["x86"] if static else intaglio.default_dynamic_qat_qconfig
    model.qconfig = intaglio.default_embedding_qat_qconfig if is_table and not static else qconfig
    if static and states:
        inputs = inputs[:1]  # whose states are floats: the stub is for what the layer reads
    prepared = intaglio.prepare_qat(model)
    assert isinstance(prepared.layer, type(layer))
    assert isinstance(prepared.layer, TrainedLayer)
    assert set(model.state_dict()) <= set(prepared.state_dict())
    train_a_step(prepared, *inputs)
    converted = intaglio.convert(prepared)
    assert not any(isinstance(part, TrainedLayer) for part in converted.modules())
    with torch.no_grad():
        assert equal(prepared(*inputs), converted(*inputs))
        assert not equal(prepared(*inputs), model.eval()(*inputs))
    copied = copy.deepcopy(prepared)
    assert equal(copied(*inputs), prepared(*inputs))


def normed(make: Callable[[], nn.Module], norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        norm.weight.uniform_(-1.5, 1.5)  # type: ignore[operator, union-attr]
        norm.bias.normal_()  # type: ignore[operator, union-attr]
    return nn.Sequential(make(), norm)


BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: normed(lambda: nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6)), (5, 4, 9)),
    "conv2d": (lambda: normed(lambda: nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)), (5, 4, 7, 6)),
    "depthwise": (lambda: normed(lambda: nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)), (5, 4, 7, 6)),
    "conv3d": (lambda: normed(lambda: nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (3, 2, 4, 5, 4)),
    "transposed": (
        lambda: normed(lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.BatchNorm2d(6)),
        (3, 4, 5, 4),
    ),
    "linear": (lambda: normed(lambda: nn.Linear(7, 6), nn.BatchNorm1d(6)), (9, 7)),
}


@pytest.mark.parametrize("qconfig", QCONFIGS)
@pytest.mark.parametrize("activation", [None, nn.ReLU, nn.ReLU6, nn.SiLU])
@pytest.mark.parametrize("name", BLOCKS)
def test_layers_with_batch_norms(name: str, activation: type[nn.Module] | None, qconfig: str) -> None:
    torch.manual_seed(0)
    make, shape = BLOCKS[name]
    block = make()
    if activation is not None:
        block.append(activation())
    model = intaglio.QuantWrapper(block).train()
    fused = intaglio.fuse_modules_qat(model)
    held = fused.module[0]
    assert isinstance(held, NormedLayer if activation is None else FusedModule)
    fused.qconfig = QCONFIGS[qconfig]
    prepared = intaglio.prepare_qat(fused)
    x = torch.randn(shape)
    train_a_step(prepared, x)
    converted = intaglio.convert(prepared)
    x = torch.randn(shape)
    with torch.no_grad():
        expected = prepared(x)
        assert torch.equal(converted(x), expected)
        # What trains is near the float model, and what was folded is what was there.
        intaglio.disable_fake_quant(prepared)
        plain = prepared(x)
    assert float((plain - expected).abs().mean() / plain.std()) < (0.4 if "4 bits" in qconfig else 0.3)


def test_training_computes_the_integers_of_the_folded_layer() -> None:
    """The claim of normed.py: rounding before a batch norm is folded gives the integers of rounding after."""
    torch.manual_seed(0)
    block = normed(lambda: nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).eval()
    conv, norm = block[0], block[1]  # type: ignore[index]
    folded = intaglio.fuse_conv_bn(False, conv, norm)
    before, after = (intaglio.default_per_channel_weight_fake_quant() for _ in range(2))
    before(conv.weight.detach())
    after(folded.weight.detach())
    sign = torch.where(norm.weight < 0, -1, 1).view(-1, 1, 1, 1)
    integers = [
        (rounder(weight.detach()) / rounder.scale.view(-1, 1, 1, 1)).round()
        for rounder, weight in ((before, conv.weight), (after, folded.weight))
    ]
    assert float((integers[0] * sign != integers[1]).float().mean()) < 1e-3


# ---- Bits --------------------------------------------------------------------------------------------------


@pytest.fixture
def differences(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """By how many steps the float computation of each layer differs from its integers, given equal inputs."""
    found: list[Tensor] = []
    instead = rehearsal._instead

    def record(output: Any, integers: Any) -> Any:
        if isinstance(integers, QTensor) and isinstance(output, Tensor):
            scale, zero_point = integers.qparams.scalars
            steps = torch.round(output.detach() / scale) + zero_point
            found.append((steps - integers.data.float()).abs().flatten())
        return instead(output, integers)

    monkeypatch.setattr(rehearsal, "_instead", record)
    return found


QUICK = (
    *("ResNet by functions", "ResNet, preactivated", "MobileNetV3", "ShuffleNet", "RepVGG", "U-Net"),
    *("MLP-Mixer", "GPT", "Text CNN", "GRU classifier", "LSTM tagger", "Conformer", "Decides by values"),
    "Shares modules",
)


@pytest.mark.parametrize("name", QUICK)
def test_whole_models_convert_to_the_bits_that_were_trained(name: str, differences: list[Tensor]) -> None:
    torch.manual_seed(0)
    architecture = next(found for found in ARCHITECTURES if found.name == name)
    model = architecture.make().train()
    args, named = architecture.inputs(0)
    mapping = intaglio.get_default_qat_qconfig_mapping()
    prepared = intaglio.prepare_qat_fx(model, mapping, Call(args, named))
    loss = sum(part.square().mean() for part in floats(prepared(*args, **named)))
    loss.backward()  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in prepared.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad.clamp(-1, 1)
    prepared.eval()
    converted = intaglio.convert_fx(prepared)
    with torch.no_grad():
        assert equal(prepared(*args, **named), converted(*args, **named))
    steps = torch.cat([part.double() for part in differences]) if differences else torch.zeros(1)
    assert float(steps.max()) <= 1
    assert float(steps.mean()) < 1e-3


def test_eager_and_graph_mode_train_alike() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).train()
    by_hand = intaglio.fuse_modules_qat(intaglio.QuantWrapper(copy.deepcopy(body)))
    by_hand.qconfig = QCONFIGS["x86"]
    eager = intaglio.prepare_qat(by_hand)
    x = torch.randn(4, 3, 8, 8)
    graph = intaglio.prepare_qat_fx(body, intaglio.get_default_qat_qconfig_mapping(), (x,))
    for _ in range(3):
        losses = []
        for model in (eager, graph):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        assert torch.equal(*losses)
    with torch.no_grad():
        assert torch.equal(intaglio.convert(eager.eval())(x), intaglio.convert_fx(graph.eval())(x))


# ---- Modes and graphs --------------------------------------------------------------------------------------


class Modal(nn.Module):
    """A forward that hands its mode on, and one that branches on it if `branches`."""

    def __init__(self, *, branches: bool) -> None:
        super().__init__()
        self.first, self.last, self.drop = nn.Linear(6, 32), nn.Linear(32, 4), nn.Dropout(0.5)
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = self.drop(F.dropout(x, 0.5, self.training))
        if self.branches and self.training:
            x = x + 1.0
        y: Tensor = self.last(x)
        return y


@pytest.mark.parametrize("branches", [False, True])
def test_one_graph_serves_both_modes(branches: bool) -> None:
    torch.manual_seed(0)
    model, x = Modal(branches=branches).train(), torch.randn(5, 6)
    prepared = intaglio.prepare_qat_fx(model, intaglio.get_default_qat_qconfig_mapping(), (x,))
    assert prepared.training
    assert not torch.equal(prepared(x), prepared(x))
    prepared.eval()
    assert torch.equal(prepared(x), prepared(x))
    intaglio.disable_fake_quant(prepared)
    with torch.no_grad():
        assert torch.allclose(prepared(x), model.eval()(x), atol=1e-6)
    intaglio.enable_fake_quant(prepared)
    converted = intaglio.convert_fx(prepared)
    assert not any("Dropout" in type(part).__name__ for part in converted.modules() if not branches)
    assert not any("TrainingMode" in type(part).__name__ for part in converted.modules())
    with torch.no_grad():
        assert torch.equal(prepared(x), converted(x))


def test_frozen_parts_stay_in_the_mode_that_the_user_gave_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5), nn.Conv2d(4, 4, 1)).train()
    model[1].eval()
    mapping = intaglio.get_default_qat_qconfig_mapping()
    prepared = intaglio.prepare_qat_fx(model, mapping, (torch.randn(1, 3, 4, 4),))
    assert prepared.training
    assert not prepared.get_submodule("1").training


def test_preparing_a_graph_keeps_no_example_alive() -> None:
    x = torch.randn(3, 3, 61, 67)
    model = nn.Sequential(nn.Conv2d(3, 7, 1), intaglio.QuantStub(), nn.Flatten()).eval()
    prepared = intaglio.prepare_fx(model, intaglio.get_default_qconfig_mapping(), (x,))
    gc.collect()
    shapes = [tuple(part.shape) for part in gc.get_objects() if type(part) is Tensor and not part.is_meta]
    assert not [shape for shape in shapes if shape[-2:] == (61, 67) and shape != tuple(x.shape)]
    del prepared


# ---- By hand -----------------------------------------------------------------------------------------------


def small() -> nn.Module:
    torch.manual_seed(0)
    return intaglio.QuantWrapper(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    ).train()


def prepared_small() -> nn.Module:
    fused = intaglio.fuse_modules_qat(small())
    fused.qconfig = QCONFIGS["x86"]
    return intaglio.prepare_qat(fused)


def test_batch_norms_freeze_and_learn_again() -> None:
    model, x = prepared_small(), torch.randn(4, 3, 8, 8)
    norm = model.module[0].layer.batch_norm
    model.apply(intaglio.freeze_bn_stats)
    before = norm.running_mean.clone()
    model.train()(x)
    assert torch.equal(norm.running_mean, before)
    assert norm.weight.requires_grad
    fresh = prepared_small()
    fresh.load_state_dict(model.state_dict())
    assert not fresh.train().module[0].layer.batch_norm.training
    intaglio.update_bn_stats(model)
    model(x)
    assert not torch.equal(norm.running_mean, before)


def test_a_schedule_freezes_in_time() -> None:
    model = prepared_small()
    schedule = intaglio.FreezeSchedule(model, fake_quant_after=1, observers_after=2, batch_norm_after=3)
    rounder = model.quant.activation_post_process
    seen = []
    for _ in range(4):
        norm_trains = model.module[0].layer.batch_norm.training
        seen.append((int(rounder.fake_quant_enabled), int(rounder.observer_enabled), norm_trains))
        schedule.step()
    assert seen == [(0, 1, True), (1, 1, True), (1, 0, True), (1, 0, False)]
    with pytest.raises(intaglio.ConfigError, match="cannot be -1"):
        intaglio.FreezeSchedule(model, observers_after=-1)


def test_statistics_estimated_anew_are_those_of_the_data() -> None:
    model = prepared_small()
    intaglio.freeze_bn_stats(model)
    data = [torch.randn(6, 3, 8, 8) * 3 + 1 for _ in range(4)]
    outputs: list[Tensor] = []
    norm = model.module[0].layer.batch_norm
    handle = norm.register_forward_pre_hook(lambda module, inputs: outputs.append(inputs[0].detach()))
    model(data[0])
    momentum, modes = norm.momentum, [part.training for part in model.modules()]
    outputs.clear()
    intaglio.reestimate_batch_norm(model, data)
    handle.remove()
    assert torch.allclose(
        norm.running_mean, torch.stack([y.mean((0, 2, 3)) for y in outputs]).mean(0), atol=1e-5
    )
    assert norm.momentum == momentum
    assert [part.training for part in model.modules()] == modes
    kept = norm.running_mean.clone()
    for bad in ([], [object()], [torch.randn(1, 5, 8, 8)]):
        with pytest.raises((intaglio.ConfigError, RuntimeError)):
            intaglio.reestimate_batch_norm(model, bad)
        assert torch.equal(norm.running_mean, kept)
        assert norm.momentum == momentum


def test_quantize_qat_does_all_three_steps() -> None:
    model, x = small(), torch.randn(4, 3, 8, 8)
    model.qconfig = QCONFIGS["x86"]

    def run(prepared: nn.Module, batches: list[Tensor]) -> None:
        optimizer = torch.optim.SGD(prepared.parameters(), lr=0.01)
        for batch in batches:
            prepared(batch).square().mean().backward()
            optimizer.step()

    converted = intaglio.quantize_qat(intaglio.fuse_modules_qat(model), run, ([x, x],))
    assert converted(x).shape == (4, 5)
    assert intaglio.summary(converted).int8_share != 0


def test_a_users_own_class_takes_a_modules_place() -> None:
    class Twice(nn.Linear):
        @classmethod
        def from_float(cls, module: nn.Linear) -> Twice:
            made = cls(module.in_features, module.out_features)
            made.load_state_dict(module.state_dict())
            return made

        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = intaglio.QuantWrapper(nn.Sequential(nn.Linear(4, 3)))
    model.qconfig = QCONFIGS["x86"]
    prepared = intaglio.prepare_qat(model, mapping={nn.Linear: Twice})
    assert type(prepared.module[0]) is Twice
    with pytest.raises(intaglio.ConfigError, match="from_float"):
        intaglio.prepare_qat(model, mapping={nn.Linear: nn.Linear})


def test_weights_alone_or_activations_alone_train_and_do_not_convert() -> None:
    x = torch.randn(3, 4)
    for qconfig in (intaglio.default_weight_only_qconfig, intaglio.default_activation_only_qconfig):
        model = intaglio.QuantWrapper(nn.Sequential(nn.Linear(4, 3))).train()
        model.qconfig = qconfig
        prepared = intaglio.prepare_qat(model)
        prepared(x).sum().backward()
        assert not torch.equal(prepared(x), model(x))
        if qconfig is intaglio.default_weight_only_qconfig:
            with pytest.raises(ConversionError, match="no integer form"):
                intaglio.convert(prepared.eval())


def test_nothing_to_train_is_said() -> None:
    with pytest.raises(NothingQuantizedError, match="no module has a qconfig"):
        intaglio.prepare_qat(small())


@pytest.mark.parametrize("qconfig", ["x86", "learned, 4 bits"])
def test_large_weights_are_rounded_again_and_not_held(qconfig: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = intaglio.QuantWrapper(nn.Sequential(nn.Linear(200, 150), nn.ReLU(), nn.Linear(150, 120))).train()
    model.qconfig = QCONFIGS[qconfig]
    gradients = []
    for threshold in (1, 1 << 30):
        monkeypatch.setattr("intaglio.nn.trained.LARGE", threshold)
        prepared = intaglio.prepare_qat(model)
        prepared(torch.ones(4, 200)).square().sum().backward()
        gradients.append([parameter.grad for parameter in prepared.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))  # type: ignore[arg-type]
