"""EfficientNet-Lite0 with real weights on real photos: half of them to calibrate on, the others to test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from intaglio import QConfig, fuse_modules, fused_groups, get_default_qconfig, round_weights
from intaglio.accuracy.running import runner_of
from intaglio.accuracy.simulating import simulate
from intaglio.qparams import QParams, dequantize, quantize
from tests.lite0 import Add, load_lite0, load_photos

pytestmark = pytest.mark.real


@dataclass
class Case:
    """The fused network, photos to calibrate on and to test on, and the float network's logits of those."""

    model: nn.Module
    known: Tensor
    photos: Tensor
    labels: list[int]
    logits: Tensor


@pytest.fixture(scope="module")
def case() -> Case:
    photos, labels = load_photos()
    model = load_lite0()
    with torch.no_grad():
        logits = model(photos)
    assert sum(int(found) == label for found, label in zip(logits.argmax(1), labels, strict=True)) == 18
    fused = fuse_modules(model)
    assert len(fused_groups(fused)) == 49
    with torch.no_grad():
        assert torch.allclose(fused(photos[:2]), logits[:2], atol=1e-3)
    return Case(fused, photos[::2], photos[1::2], labels[1::2], logits[1::2])


def rounding(qparams: QParams) -> Callable[..., Tensor]:
    return lambda module, args, output: dequantize(quantize(output, qparams), qparams)


@torch.no_grad()
def logits_of(model: nn.Module, case: Case, qconfig: QConfig) -> Tensor:
    """The logits with every value rounded as static quantization rounds it, residual sums as well."""
    sums = {path: qconfig.activation() for path, module in model.named_modules() if isinstance(module, Add)}
    handles = [
        model.get_submodule(path).register_forward_hook(lambda m, a, y, seen=seen: (seen(y), None)[1])
        for path, seen in sums.items()
    ]
    simulated = simulate(model, runner_of([case.known]), qconfig).model
    for handle in handles:
        handle.remove()
    for path, seen in sums.items():
        module = simulated.get_submodule(path)
        module._forward_hooks.clear()  # of the observer that was copied along
        module.register_forward_hook(rounding(seen.choose()))
    found = simulated(case.photos)
    assert isinstance(found, Tensor)
    return found


def sqnr(expected: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (expected - found).square().sum()))


@pytest.mark.parametrize(("backend", "floor"), [("x86", 20.0), ("qnnpack", 18.0)])
def test_default_ranges_keep_the_logits(case: Case, backend: str, floor: float) -> None:
    # The legacy's defaults leave 3.1 to 7.6 dB.
    found = logits_of(case.model, case, get_default_qconfig(backend))
    assert sqnr(case.logits, found) > floor
    assert int((found.argmax(1) == case.logits.argmax(1)).sum()) >= 9


def test_rounding_together_keeps_them_better(case: Case) -> None:
    rounded = round_weights(case.model, [case.known])
    assert sqnr(case.logits, logits_of(rounded, case, get_default_qconfig())) > 22.0
