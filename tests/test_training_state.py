"""What a prepared model holds while it trains: checkpoints, copies, averages, compiling, modes."""

import copy
import io
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import intaglio
from intaglio import QConfig
from intaglio.eager.checking import ParameterWatch
from intaglio.eager.ranks import agree_on_ranges
from tests.training_models import (
    LEARNED,
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

pytestmark = pytest.mark.usefixtures("one_thread")

MODES = pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
KINDS = pytest.mark.parametrize(
    "qconfig", [None, LEARNED, LEARNED_WEIGHTS], ids=["default", "learned", "learned weights"]
)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer that has a state of its own."""
    return torch.optim.Adam(model.parameters(), lr=1e-2)


def saved(value: Any) -> Any:
    """`value` as it comes back from a file."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# ---- State dict --------------------------------------------------------------------------------------------


@MODES
@KINDS
def test_names_do_not_change(graph: bool, qconfig: QConfig | None) -> None:
    model = make(qconfig=qconfig, graph=graph)
    names, shapes = list(model.state_dict()), {n: v.shape for n, v in model.state_dict().items()}
    assert names == list(make(qconfig=qconfig, graph=graph).eval().state_dict())
    optimizer = adam(model)
    for seed in range(2):
        step(model, optimizer, images(seed))
    model.eval()(images(3))
    model.train()
    assert list(model.state_dict()) == names
    assert {
        n: v.shape for n, v in model.state_dict().items() if "buckets" not in n and "counts" not in n
    } == {n: shape for n, shape in shapes.items() if "buckets" not in n and "counts" not in n}


@pytest.mark.parametrize("fused", [False, True])
def test_names_of_the_float_model_stay(fused: bool) -> None:
    model = Net().train()
    model = intaglio.fuse_modules_qat(model) if fused else model
    model.qconfig = intaglio.get_default_qat_qconfig("x86")  # type: ignore[assignment]
    assert set(model.state_dict()) <= set(intaglio.prepare_qat(model).state_dict())


def test_names_of_the_float_model_stay_in_a_graph() -> None:
    """A layer that is fused moves one level down, as `fuse_modules_qat` moves it; others stay."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).train()
    mapping = intaglio.get_default_qat_qconfig_mapping("x86")
    names = set(intaglio.prepare_qat_fx(model, mapping, (images(0),)).state_dict())
    assert {"0.0.weight", "0.0.bias", "3.weight", "3.bias"} <= names


# ---- Resuming ----------------------------------------------------------------------------------------------


def begin(graph: bool, qconfig: QConfig | None, freezes: bool) -> tuple[nn.Module, Any, Any]:
    """A model, its optimizer and its schedule, all new."""
    model = make(qconfig=qconfig, graph=graph)
    after = {"observers_after": 2, "batch_norm_after": 2} if freezes else {"fake_quant_after": 1}
    return model, adam(model), intaglio.FreezeSchedule(model, **after)


def run(model: nn.Module, optimizer: Any, schedule: Any, steps: range) -> list[float]:
    """Train; gives the losses."""
    losses = []
    for seed in steps:
        losses.append(step(model, optimizer, images(seed)))
        schedule.step()
    return losses


@MODES
@KINDS
@pytest.mark.parametrize("freezes", [False, True], ids=["rounding later", "freezing"])
def test_a_run_that_resumes_is_the_run_that_went_on(
    graph: bool, qconfig: QConfig | None, freezes: bool
) -> None:
    whole = begin(graph, qconfig, freezes)
    expected = run(*whole, range(6))
    first = begin(graph, qconfig, freezes)
    losses = run(*first, range(3))
    checkpoint = saved([part.state_dict() for part in first])
    second = begin(graph, qconfig, freezes)
    for part, state in zip(second, checkpoint, strict=True):
        part.load_state_dict(state)
    losses += run(*second, range(3, 6))
    assert losses == expected
    assert differences(state_of(second[0]), state_of(whole[0])) == []
    assert (
        differences(convert(second[0], graph=graph).state_dict(), convert(whole[0], graph=graph).state_dict())
        == []
    )


@MODES
def test_a_checkpoint_loads_into_a_model_in_either_mode(graph: bool) -> None:
    model = make(graph=graph)
    step(model, adam(model), images(0))
    intaglio.freeze_bn_stats(model)
    for training in (True, False):
        other = make(1, graph=graph).train(training)
        other.load_state_dict(saved(model.state_dict()))
        norms = [part for part in other.modules() if isinstance(part, nn.BatchNorm2d)]
        assert not any(norm.training for norm in norms)
        assert torch.equal(other.eval()(images(1)), copy.deepcopy(model).eval()(images(1)))
        assert not any(norm.training for norm in (other.train(), norms)[1])


def test_a_checkpoint_of_an_untrained_model_loads(tmp_path: Path) -> None:
    """Ranges that have seen nothing are infinite, and stay so."""
    model, other = make(), make(1)
    step(other, adam(other), images(0))
    other.load_state_dict(saved(model.state_dict()))
    assert differences(state_of(other), state_of(model)) == []
    assert step(other, adam(other), images(1)) == step(model, adam(model), images(1))


# ---- Copies ------------------------------------------------------------------------------------------------


@MODES
@KINDS
def test_a_copy_in_the_middle_goes_its_own_way(graph: bool, qconfig: QConfig | None) -> None:
    """pytorch/pytorch#51216, #57352: copies of prepared models."""
    model = make(qconfig=qconfig, graph=graph)
    optimizer = adam(model)
    step(model, optimizer, images(0))
    copied = copy.deepcopy(copy.deepcopy(model))
    assert agree_on_ranges in copied._forward_hooks.values()
    assert [path for path, _ in rounders(copied)] == [path for path, _ in rounders(model)]
    before = state_of(model)
    expected = step(copied, adam(copied), images(1))
    step(copied, adam(copied), images(2))
    assert differences(state_of(model), before) == []
    assert step(model, adam(model), images(1)) == expected
    x = images(3)
    again = copy.deepcopy(model.eval())
    assert torch.equal(again(x), model(x))
    assert torch.equal(convert(again, graph=graph)(x), convert(model, graph=graph)(x))


@MODES
@KINDS
@pytest.mark.parametrize("use_buffers", [False, True])
def test_an_average_of_weights_converts(graph: bool, qconfig: QConfig | None, use_buffers: bool) -> None:
    """Exponential moving averages, whose ranges come from the averaged weights and the data they saw."""
    model = make(qconfig=qconfig, graph=graph)
    optimizer = adam(model)
    model(images(0))  # ranges start
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=use_buffers)
    for seed in range(4):
        step(model, optimizer, images(seed))
        average.update_parameters(model)
    averaged = average.module
    if not use_buffers:
        averaged.train()
        with torch.no_grad():
            for seed in range(4):
                averaged(images(seed))  # as torch's update_bn does
    assert all(torch.isfinite(p).all() for p in averaged.parameters())
    x = images(5)
    y = averaged.eval()(x)
    converted = convert(averaged, graph=graph)
    torch.testing.assert_close(converted(x), y, rtol=0, atol=0.05)
    assert not torch.equal(y, model.eval()(x))


FRESH = """
import torch, intaglio
torch.set_num_threads(1)
for name, convert in (("eager", intaglio.convert), ("graph", intaglio.convert_fx)):
    model = torch.load(name + ".pt", weights_only=False)
    x, expected, gradient = torch.load(name + "-data.pt")
    loss = model(x).square().mean()
    loss.backward()
    assert torch.equal(loss, expected), (loss, expected)
    assert torch.equal(next(iter(model.parameters())).grad, gradient)
    hooks = [getattr(hook, "__name__", "") for hook in model._forward_hooks.values()]
    assert "agree_on_ranges" in hooks, hooks
    print(name, convert(model.eval())(x).shape)
"""


def test_a_whole_model_loads_in_another_process(tmp_path: Path) -> None:
    for name in ("eager", "graph"):
        model = make(qconfig=LEARNED_WEIGHTS, graph=name == "graph")
        step(model, adam(model), images(0))
        model.zero_grad()
        torch.save(model, tmp_path / f"{name}.pt")
        pickled = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model))))
        x = images(1)
        loss = model(x).square().mean()
        loss.backward()
        assert torch.equal(pickled(x).square().mean(), loss)
        torch.save((x, loss.detach(), next(model.parameters()).grad), tmp_path / f"{name}-data.pt")
    (tmp_path / "fresh.py").write_text(FRESH)
    done = subprocess.run(
        [sys.executable, "fresh.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["eager torch.Size([8, 5])", "graph torch.Size([8, 5])"]


# ---- Compiling ---------------------------------------------------------------------------------------------


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter that has one."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("backend", "qconfig"),
    [("eager", LEARNED), ("aot_eager", None), ("aot_eager", LEARNED_WEIGHTS), ("inductor", None)],
    ids=["eager, learned", "aot_eager, default", "aot_eager, learned weights", "inductor"],
)
@pytest.mark.filterwarnings("ignore")  # of torch.compile itself
def test_a_compiled_step_is_the_step(backend: str, qconfig: QConfig | None) -> None:
    exact = backend != "inductor"
    if not exact and shutil.which("g++") is None:
        pytest.skip("no compiler")
    torch._dynamo.reset()

    def build() -> nn.Module:
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Conv2d(3, 4, 3), nn.ReLU()]
        if exact:  # what makes C++ takes long enough for these two
            layers[1:1] = [nn.BatchNorm2d(4)]
            layers += [nn.Flatten(), nn.Linear(64, 5)]
        model: nn.Module = nn.Sequential(intaglio.QuantStub(), *layers, intaglio.DeQuantStub())
        model.qconfig = qconfig or intaglio.get_default_qat_qconfig("x86")  # type: ignore[assignment]
        return intaglio.prepare_qat(intaglio.fuse_modules_qat(model.train()))

    plain, other = build(), build()
    compiled = torch.compile(other, backend=backend)
    for seed in range(3):
        found = []
        for model, called in ((plain, plain), (other, compiled)):
            model.zero_grad()
            loss = called(images(seed)).square().mean()
            loss.backward()
            found.append((loss.detach(), gradients_of(model)))
        (loss, gradients), (loss_compiled, gradients_compiled) = found
        tolerance = {"rtol": 1e-5, "atol": 1e-6} if exact else {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(loss_compiled, loss, **tolerance)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradients_compiled[name], gradient, **tolerance, msg=name)
        for (path, one), (_, two) in zip(rounders(plain), rounders(other), strict=True):
            torch.testing.assert_close(two.scale, one.scale, rtol=1e-5, atol=1e-8, msg=path)
            assert two.has_range
    converted = intaglio.convert(other.eval())
    x = images(4)
    torch.testing.assert_close(converted(x), intaglio.convert(plain.eval())(x), rtol=0, atol=0.05)


# ---- Other dtypes ------------------------------------------------------------------------------------------


@MODES
@KINDS
def test_bfloat16_autocast(graph: bool, qconfig: QConfig | None) -> None:
    model = make(qconfig=qconfig, graph=graph)
    optimizer = adam(model)
    ranges = []
    for seed in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(images(seed))
        loss = y.float().square().mean()
        loss.backward()
        gradients = gradients_of(model)
        assert gradients
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
        optimizer.step()
        ranges.append({path: part.scale.detach().clone() for path, part in rounders(model)})
    assert ranges[0].keys() == ranges[2].keys()
    assert all(not torch.equal(ranges[0][path], ranges[2][path]) for path in ranges[0])
    x = images(5)
    y = model.eval()(x)
    torch.testing.assert_close(convert(model, graph=graph)(x), y, rtol=0, atol=0.05)


@MODES
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_of_another_dtype_trains(graph: bool, dtype: torch.dtype) -> None:
    """Ranges are float32 whatever the weights are."""
    model = make(graph=graph).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for seed in range(2):
        optimizer.zero_grad()
        y = model(images(seed).to(dtype))
        assert y.dtype is dtype
        y.float().square().mean().backward()
        assert all(torch.isfinite(gradient).all() for gradient in gradients_of(model).values())
        optimizer.step()
    assert all(bool(torch.isfinite(part.scale).all()) for _, part in rounders(model))
    x = images(5)
    y = model.eval()(x.to(dtype)).float()
    converted = convert(model.float(), graph=graph)
    torch.testing.assert_close(converted(x), y, rtol=0, atol=0.1)


# ---- Modes -------------------------------------------------------------------------------------------------


@MODES
def test_modes_change_nothing_but_modes(graph: bool) -> None:
    """pytorch/ao#2980, #4107, pytorch/pytorch#103681: dropout and batch norm lost their own settings."""
    torch.manual_seed(0)
    model: nn.Module = Net(dropout=0.3).train()
    for norm in (model.bn, model.bn2):
        norm.eps, norm.momentum = 3e-4, 0.07  # type: ignore[union-attr]
    if graph:
        mapping = intaglio.get_default_qat_qconfig_mapping("x86")
        prepared = intaglio.prepare_qat_fx(model, mapping, (images(0),))
    else:
        model.qconfig = intaglio.get_default_qat_qconfig("x86")  # type: ignore[assignment]
        prepared = intaglio.prepare_qat(intaglio.fuse_modules_qat(model))
    step(prepared, adam(prepared), images(0))
    before = state_of(prepared)
    for training in (False, True, False, True):
        prepared.train(training)
        for part in prepared.modules():
            assert part.training is training
            if isinstance(part, nn.Dropout):
                assert part.p == 0.3
            if isinstance(part, nn.BatchNorm2d):
                assert (part.eps, part.momentum) == (3e-4, 0.07)
    assert differences(state_of(prepared), before) == []
    torch.manual_seed(1)
    first, second = prepared(images(1)), prepared(images(1))
    assert not torch.equal(first, second)  # dropout drops
    after = state_of(prepared)
    prepared.eval()
    assert torch.equal(prepared(images(1)), prepared(images(1)))
    assert differences(state_of(prepared), after) == []  # in eval mode nothing moves


@MODES
@KINDS
def test_threads_share_a_model_in_eval_mode(graph: bool, qconfig: QConfig | None) -> None:
    model = make(qconfig=qconfig, graph=graph)
    step(model, adam(model), images(0))
    model.eval()
    inputs = [images(seed, 2 + seed) for seed in range(4)]
    with torch.no_grad():
        expected = [model(x) for x in inputs]
    before, wrong = state_of(model), list[str]()
    start = threading.Barrier(2)

    def work(order: list[int]) -> None:
        start.wait(10)
        for _ in range(15):
            for index in order:
                with torch.no_grad():
                    if not torch.equal(model(inputs[index]), expected[index]):
                        wrong.append(f"input {index}")

    threads = [threading.Thread(target=work, args=(order,)) for order in ([0, 1, 2, 3], [3, 1, 0, 2])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert differences(state_of(model), before) == []


def test_hooks_and_attributes_of_a_graph_are_copied_with_it() -> None:
    """torch.fx leaves them out; a hook that is a method goes to the copy's own object."""
    model = make(graph=True)
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    model.mark = {"a": [1]}  # type: ignore[assignment]
    copied = copy.deepcopy(model)
    copied(images(0))
    assert calls == [1]
    assert copied.mark == {"a": [1]}
    assert copied.mark is not model.mark
    watches = [
        next(hook for hook in part._forward_pre_hooks.values() if isinstance(hook, ParameterWatch))
        for part in (model, copied)
    ]
    assert [watch.forwards for watch in watches] == [0, 1]
