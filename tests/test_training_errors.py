"""What can go wrong in training, and what is said of it: bad input, bad order, numbers that overflow."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio import ConfigError, ConversionError, TrainingError
from intaglio.eager.checking import PATIENCE, TrainingWarning
from tests.training_models import (
    LEARNED_WEIGHTS,
    Net,
    convert,
    differences,
    images,
    make,
    rounders,
    state_of,
    step,
)

MODES = pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])


def sgd(model: nn.Module, lr: float = 1e-2) -> torch.optim.Optimizer:
    """Plain gradient descent."""
    return torch.optim.SGD(model.parameters(), lr=lr)


def float_model() -> nn.Module:
    """A fused float model with a qconfig, in train mode."""
    torch.manual_seed(0)
    model = intaglio.fuse_modules_qat(Net().train())
    model.qconfig = intaglio.get_default_qat_qconfig("x86")  # type: ignore[assignment]
    return model


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a failure must leave alone."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return {
        "modules": [(path, id(part), type(part), part.training) for path, part in model.named_modules()],
        "parameters": [(path, id(p), p.requires_grad, p._version) for path, p in model.named_parameters()],
        "hooks": [
            [(key, id(hook)) for key, hook in getattr(part, name).items()]
            for part in model.modules()
            for name in hooks
        ],
        "attributes": [sorted(vars(part).keys() - {"name"}) for part in model.modules()],
        "state": {name: value.clone() for name, value in model.state_dict().items()},
    }


def assert_unchanged(model: nn.Module, before: dict[str, Any]) -> None:
    """Nothing is different from what `snapshot` saw."""
    after = snapshot(model)
    assert differences(after.pop("state"), before["state"]) == []
    assert after == {name: value for name, value in before.items() if name != "state"}


# ---- Order -------------------------------------------------------------------------------------------------


@MODES
def test_a_converted_model_cannot_be_trained(graph: bool) -> None:
    model = make(graph=graph)
    step(model, sgd(model), images(0))
    converted = convert(model, graph=graph)
    assert not list(converted.parameters())
    y = converted(images(1))
    assert not y.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        y.sum().backward()
    with pytest.raises(ConversionError, match="nothing to train"):
        intaglio.check_training(converted)
    with pytest.raises(intaglio.InputError, match=r"in training mode: call model.eval\(\)"):
        converted.train()(images(1))
    assert torch.equal(converted.eval()(images(1)), y)
    with pytest.raises(ConversionError, match="converted already"):
        intaglio.prepare_qat_fx(converted, intaglio.get_default_qat_qconfig_mapping(), (images(0),))
    with pytest.raises(ConversionError, match="converted already"):
        convert(converted, graph=graph)


def test_training_what_is_behind_a_converted_part_says_so() -> None:
    """A gradient that has to go through an integer layer would end there without a word."""
    model = make()
    model(images(0))
    converted = convert(model)
    x = images(1).requires_grad_()
    y = converted(x)
    if y.requires_grad:
        y.sum().backward()
        assert x.grad is not None
    else:
        with pytest.raises(RuntimeError, match="does not require grad"):
            y.sum().backward()


@MODES
def test_conversion_in_train_mode(graph: bool) -> None:
    model = make(graph=graph)
    step(model, sgd(model), images(0))
    before = snapshot(model)
    with pytest.raises(ConversionError, match=r"in train mode .*call model.eval\(\) before convert"):
        intaglio.convert_fx(model) if graph else intaglio.convert(model)
    assert_unchanged(model, before)
    if not graph:
        with pytest.raises(ConversionError, match="in train mode"):
            intaglio.convert(model, inplace=True)
        assert_unchanged(model, before)
    assert convert(model, graph=graph)(images(1)).shape == (8, 5)


@MODES
def test_conversion_before_any_data(graph: bool) -> None:
    model = make(graph=graph).eval()
    before = snapshot(model)
    with pytest.raises(ConversionError, match="'quant'"):
        convert(model, graph=graph)
    assert_unchanged(model, before)


@MODES
def test_nothing_to_train(graph: bool) -> None:
    model = float_model() if not graph else Net().train()
    model.requires_grad_(False)
    before = snapshot(model)
    mapping = intaglio.get_default_qat_qconfig_mapping()
    with pytest.raises(ConversionError, match=r"no parameter .* can be trained"):
        intaglio.prepare_qat_fx(model, mapping, (images(0),)) if graph else intaglio.prepare_qat(
            model, inplace=True
        )
    assert_unchanged(model, before)


@pytest.mark.parametrize("inplace", [False, True])
def test_preparing_twice(inplace: bool) -> None:
    model = make()
    before = snapshot(model)
    with pytest.raises(ConversionError, match="prepared already"):
        intaglio.prepare_qat(model, inplace=inplace)
    with pytest.raises(ConversionError, match="prepared already"):
        intaglio.prepare(model.eval(), inplace=inplace)
    assert_unchanged(model.train(), before)
    with pytest.raises(ConversionError, match="prepared already"):
        intaglio.prepare_qat_fx(model, intaglio.get_default_qat_qconfig_mapping(), (images(0),))
    assert_unchanged(model, before)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_qconfig_that_only_observes(inplace: bool) -> None:
    model = float_model()
    model.fc.qconfig = intaglio.get_default_qconfig("x86")  # type: ignore[union-attr]
    before = snapshot(model)
    with pytest.raises(ConfigError, match=r"'fc': its qconfig observes .*get_default_qat_qconfig"):
        intaglio.prepare_qat(model, inplace=inplace)
    assert_unchanged(model, before)


def test_a_qconfig_that_only_observes_in_a_graph() -> None:
    model = Net().train()
    before = snapshot(model)
    with pytest.raises(ConfigError, match=r"'.*': its qconfig observes .*get_default_qat_qconfig"):
        intaglio.prepare_qat_fx(model, intaglio.get_default_qconfig_mapping(), (images(0),))
    assert_unchanged(model, before)


def broken_activation(model: nn.Module) -> None:
    """An activation that rounds, and a weight that only observes."""
    good = intaglio.get_default_qat_qconfig("x86")
    model.fc.qconfig = intaglio.QConfig(  # type: ignore[union-attr]
        good.activation, intaglio.get_default_qconfig("x86").weight
    )


def broken_weight(model: nn.Module) -> None:
    """A weight that holds NaN."""
    with torch.no_grad():
        model.fc.weight[1, 2] = math.nan  # type: ignore[union-attr, index]


def broken_recipe(model: nn.Module) -> None:
    """A factory that raises."""

    def no_observer() -> Any:
        raise ValueError("no observer today")

    good = intaglio.get_default_qat_qconfig("x86")
    model.fc.qconfig = intaglio.QConfig(no_observer, good.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("break_it", [broken_activation, broken_weight, broken_recipe])
def test_a_preparation_that_fails_changes_nothing(
    break_it: Callable[[nn.Module], None], inplace: bool
) -> None:
    """The last layer is the bad one: those before it must not be prepared by then."""
    model = float_model()
    break_it(model)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"'fc|no observer today") as caught:
        intaglio.prepare_qat(model, inplace=inplace)
    assert_unchanged(model, before)
    if break_it is not broken_recipe:
        assert isinstance(caught.value, intaglio.IntaglioError)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_conversion_that_fails_changes_nothing(inplace: bool) -> None:
    model = make()
    step(model, sgd(model), images(0))
    model.eval()
    weight = model.fc.weight.data  # type: ignore[union-attr]
    weight[0, 0] = 0.0  # type: ignore[index]
    expected = model(images(1))  # weights have the ranges of their last step
    before = snapshot(model)
    weight[0, 0] = math.inf  # type: ignore[index]
    with pytest.raises(intaglio.IntaglioError, match="'fc"):
        intaglio.convert(model, inplace=inplace)
    weight[0, 0] = 0.0  # type: ignore[index]
    assert torch.equal(model(images(1)), expected)
    assert_unchanged(model, before)
    assert intaglio.convert(model, inplace=inplace)(images(1)).shape == (8, 5)


# ---- Optimizers --------------------------------------------------------------------------------------------


def test_an_optimizer_made_before() -> None:
    model = float_model()
    model.qconfig = LEARNED_WEIGHTS  # type: ignore[assignment]
    optimizer = sgd(model)
    copied = intaglio.prepare_qat(model)
    with pytest.raises(
        TrainingError, match=r"the optimizer does not have 'conv.0.0.weight', .* and \d+ more: make it after"
    ):
        intaglio.check_training(copied, optimizer)
    inplace = intaglio.prepare_qat(model, inplace=True)
    with pytest.raises(TrainingError, match=r"does not have 'conv.0.0.weight_fake_quant.scale'"):
        intaglio.check_training(inplace, optimizer)
    intaglio.check_training(inplace, sgd(inplace))


@pytest.mark.parametrize("inplace", [False, True])
def test_an_optimizer_made_before_is_noticed_in_time(inplace: bool) -> None:
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        intaglio.QuantStub(), nn.Linear(2, 3), nn.Linear(3, 2), intaglio.DeQuantStub()
    ).train()
    model.qconfig = LEARNED_WEIGHTS  # type: ignore[assignment]
    optimizer = sgd(model, 1e-3)
    prepared = intaglio.prepare_qat(model, inplace=inplace)
    x = torch.randn(4, 2)
    for _ in range(PATIENCE - 1):
        prepared(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    named = "'1.weight_fake_quant.scale'" if inplace else "'1.weight'"
    with pytest.warns(
        TrainingWarning, match=f"nothing has stepped {named}.*make the optimizer after"
    ) as found:
        prepared(x)
    assert len(found) == 1
    for _ in range(2 * PATIENCE):  # said once
        prepared(x)


@pytest.mark.parametrize("accumulates", [1, 8])
def test_an_optimizer_made_after_is_not_suspected(accumulates: int) -> None:
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(intaglio.QuantStub(), nn.Linear(2, 3), intaglio.DeQuantStub()).train()
    model.qconfig = LEARNED_WEIGHTS  # type: ignore[assignment]
    prepared = intaglio.prepare_qat(model)
    optimizer = sgd(prepared, 1e-3)
    for count in range(PATIENCE + 5):
        prepared(torch.randn(4, 2)).square().mean().backward()
        if count % accumulates == 0:
            optimizer.step()
            optimizer.zero_grad()


# ---- Batch norms -------------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize(
    "qconfig", [None, LEARNED_WEIGHTS, "per tensor"], ids=["default", "learned", "per tensor"]
)
@pytest.mark.parametrize("gamma", [0.0, -0.7])
def test_a_gamma_of_zero_or_below(graph: bool, qconfig: Any, gamma: float) -> None:
    """pytorch/pytorch#85744: gamma 0 made NaN of weights that were divided by it."""
    if qconfig == "per tensor":
        good = intaglio.get_default_qat_qconfig("x86")
        qconfig = intaglio.QConfig(good.activation, intaglio.default_qat_qconfig.weight)
    model = make(qconfig=qconfig, graph=graph)
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight[1:3] = gamma
            norm.bias.uniform_(-1, 1)
    optimizer = sgd(model)
    model(images(0))  # training starts
    for seed in range(3):
        if gamma == 0.0:
            for norm in norms:
                norm.weight.requires_grad_(False)
        assert math.isfinite(step(model, optimizer, images(seed)))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    x = images(4)
    y = model.eval()(x)
    largest = max(
        float(part.scale.detach().max()) for path, part in rounders(model) if path.startswith("fc.act")
    )
    converted = convert(model, graph=graph)(x)
    off = (converted - y.detach()).abs() / largest
    assert float(off.max()) < 1.5
    assert float((off > 0.5).float().mean()) < 0.1


def test_a_running_variance_of_zero() -> None:
    """A channel that was always the same."""
    model = make()
    norm = model.get_submodule("conv.0.1")
    optimizer = sgd(model)
    step(model, optimizer, images(0))
    with torch.no_grad():
        norm.running_var.zero_()  # type: ignore[union-attr, operator]
        model.get_submodule("conv.0.0").weight[0] = 0.0  # type: ignore[operator]
    intaglio.freeze_bn_stats(model)
    assert math.isfinite(step(model, optimizer, images(1)))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    x = images(2)
    y = model.eval()(x)
    assert bool(torch.isfinite(y).all())
    torch.testing.assert_close(convert(model)(x), y, rtol=0, atol=0.05)


# ---- Numbers that are none ---------------------------------------------------------------------------------


@MODES
def test_a_loss_scale_that_overflows(graph: bool) -> None:
    model = make(graph=graph)
    optimizer = sgd(model, 1e-30)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    step(model, optimizer, images(0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    skipped = 0
    for seed in range(12):
        optimizer.zero_grad()
        # So large a loss that its gradients overflow until the scale has come down.
        scaler.scale(model(images(seed)).square().sum() * 1e20).backward()
        if not all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None):
            skipped += 1
            with pytest.raises(
                TrainingError, match=r"the gradients of '.* hold NaN or infinity: do not step"
            ):
                intaglio.check_training(model, optimizer)
        scaler.step(optimizer)
        scaler.update(scaler.get_scale() / 2.0**20)
        if skipped and seed == 0:
            assert differences(before, {n: p.detach() for n, p in model.named_parameters()}) == []
        if float(scaler.get_scale()) < 1.0:
            break
    assert skipped
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert math.isfinite(step(model, sgd(model, 1e-30), images(1)))


@MODES
@pytest.mark.parametrize("qconfig", [None, LEARNED_WEIGHTS], ids=["default", "learned"])
def test_a_step_that_poisons_a_weight(graph: bool, qconfig: Any) -> None:
    model = make(qconfig=qconfig, graph=graph)
    optimizer = sgd(model)
    step(model, optimizer, images(0))
    optimizer.zero_grad()
    (model(images(1)).square().mean() * math.inf).backward()
    with pytest.raises(TrainingError, match=r"the gradients of 'conv.0.0.weight'.*GradScaler"):
        intaglio.check_training(model, optimizer)
    optimizer.step()
    with pytest.raises(TrainingError, match=r"'conv.0.0.weight', .* hold NaN or infinity: the last step"):
        intaglio.check_training(model, optimizer)
    with pytest.raises(
        TrainingError, match=r"'conv.0.0.weight': channel 0 of the weight holds NaN or infinity"
    ):
        model(images(2))
    with pytest.raises(intaglio.IntaglioError, match="conv"):
        convert(model, graph=graph)


@MODES
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_batch_that_holds_nan(graph: bool, bad: float) -> None:
    model, like = make(graph=graph), make(graph=graph)
    for norm in (
        part for each in (model, like) for part in each.modules() if isinstance(part, nn.BatchNorm2d)
    ):
        norm.eval()  # whose statistics torch itself lets be poisoned
    for each in (model, like):
        step(each, sgd(each), images(0))
    x = images(1)
    x[0, 0, 0, 0] = bad
    with pytest.warns(intaglio.observer.ObserverWarning, match="NaN or infinite"):
        y = model(x)
    assert bool(torch.isfinite(y[1:]).all())
    if math.isnan(bad):
        assert bool(torch.isnan(y[0]).any())  # and so is the loss
    for name, value in state_of(model).items():
        if name.endswith(("scale", "min_val", "max_val")):
            assert bool(torch.isfinite(value).all()), name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isfinite(step(model, sgd(model), images(2)))


@MODES
def test_a_batch_of_none(graph: bool) -> None:
    """A batch norm refuses it, as it does in float; without one it goes through and moves nothing."""
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)]
    torch.manual_seed(0)
    if graph:
        mapping = intaglio.get_default_qat_qconfig_mapping("x86")
        model = intaglio.prepare_qat_fx(nn.Sequential(*layers).train(), mapping, (images(0),))
    else:
        model = nn.Sequential(intaglio.QuantStub(), *layers, intaglio.DeQuantStub()).train()
        model.qconfig = intaglio.get_default_qat_qconfig("x86")  # type: ignore[assignment]
        model = intaglio.prepare_qat(intaglio.fuse_modules_qat(model))
    optimizer = sgd(model)
    none = torch.zeros(0, 3, 6, 6)
    assert model(none).shape == (0, 2)  # before any other too
    step(model, optimizer, images(0))
    model.eval()(images(1))
    model.train()
    before = state_of(model)  # with the weights' ranges as they are after the step
    y = model(none)
    assert y.shape == (0, 2)
    optimizer.zero_grad()
    y.sum().backward()
    optimizer.step()
    assert differences(before, state_of(model)) == []
    assert model.eval()(none).shape == (0, 2)
    assert convert(model, graph=graph)(none).shape == (0, 2)


def test_inputs_that_make_no_sense() -> None:
    """The error is torch's own, as in float, and the next batch is fine."""
    model = make()
    step(model, sgd(model), images(0))
    model.eval()(images(1))
    model.train()
    before: dict[str, Tensor] = state_of(model)
    for bad in (torch.zeros(2, 5, 6, 6), torch.zeros(2, 3, 6, 6, dtype=torch.int64), None):
        with pytest.raises((RuntimeError, TypeError, AttributeError, ValueError)):
            model(bad)
    changed = {name for name in differences(before, state_of(model)) if not name.startswith("quant.")}
    assert changed == set()
    assert math.isfinite(step(model, sgd(model), images(1)))
