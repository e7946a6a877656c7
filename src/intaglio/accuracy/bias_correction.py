"""`correct_bias`: the shift that rounding brings into each channel's mean, taken back by its bias.

May import running, simulating, nn, qconfig and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.accuracy.running import Data, Run, layers_of, runner_of, working_copy
from intaglio.accuracy.simulating import simulate
from intaglio.nn.folding import with_weights
from intaglio.nn.fused import kind_of
from intaglio.qconfig import QConfig, get_default_qconfig

__all__ = ["correct_bias"]


def correct_bias(
    model: nn.Module, data: Data, qconfig: QConfig | None = None, *, inplace: bool = False
) -> nn.Module:
    """Change biases so that every channel has the same mean after quantization as before.

    Rounding shifts the mean of a layer's outputs, and the shifts of many layers add up (Nagel et al.,
    "Data-Free Quantization", 2019). The model is run once in float and once with its weights and outputs
    rounded; in the second run each layer is corrected before the next sees its output, so that one pass
    does for all of them. What `convert` gives back by itself, for the rounding of weights alone, is left
    to it. The model given is a float model, to be prepared and converted as usual.

    Parameters
    ----------
    model : nn.Module
        A float model in eval mode, its batch norms folded (`fuse_modules`).
    data : iterable of batches, or a function that runs a model on its data
        Some tens of inputs like those to come; no labels.
    qconfig : QConfig, optional
        How the model is going to be quantized; by default `get_default_qconfig()`.
    inplace : bool
        Change `model` instead of a copy.

    Raises
    ------
    ConfigError
        `data` is no iterable of batches, or the model is in train mode.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    >>> corrected = correct_bias(model, [torch.rand(4, 3, 8, 8)])
    >>> bool((corrected[2].bias - model[2].bias).abs().max() < 0.1)
    True
    """
    run = runner_of(data)
    model = working_copy(model, inplace)
    means = _means(model, run)
    simulated = simulate(model, run, qconfig or get_default_qconfig()).model
    shifts = _shifts(simulated, run, means, _given_back(model, simulated, run))
    for path, layer in layers_of(model).items():
        if path in shifts:
            _shift(layer, shifts[path])
    return model


def _channel_means(layer: nn.Module, output: Tensor) -> Tensor:
    """The mean of each channel, `(C,)` float64."""
    axis = _channel_axis(layer, output)
    return output.double().movedim(axis, 0).flatten(1).mean(1)


def _channel_axis(layer: nn.Module, output: Tensor) -> int:
    if kind_of(layer, (nn.Linear,)):
        return output.dim() - 1
    return output.dim() - len(layer.kernel_size) - 1  # type: ignore[arg-type]


def _means(model: nn.Module, run: Run) -> dict[str, list[Tensor]]:
    """The means of each layer's outputs, one entry a call."""
    found: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            found.setdefault(path, []).append(_channel_means(module, output))

        return hook

    handles = [layer.register_forward_hook(keep(path)) for path, layer in layers_of(model).items()]
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _given_back(model: nn.Module, simulated: nn.Module, run: Run) -> dict[str, Tensor]:
    """What `convert` will add to each layer's bias: what errors of its weights make of its float inputs."""
    rounded = layers_of(simulated)
    found: dict[str, list[Tensor]] = {}

    def weigh(path: str, layer: nn.Module) -> Callable[..., None]:
        weight, other = layer.weight, rounded[path].weight
        assert isinstance(weight, Tensor)
        assert isinstance(other, Tensor)
        errors = with_weights(layer, other - weight, None)

        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            found.setdefault(path, []).append(-_channel_means(module, errors(*args)))

        return hook

    with torch.no_grad():
        handles = [
            layer.register_forward_hook(weigh(path, layer)) for path, layer in layers_of(model).items()
        ]
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()
    return {path: torch.stack(calls).mean(0) for path, calls in found.items()}


def _shifts(
    simulated: nn.Module, run: Run, means: dict[str, list[Tensor]], given_back: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What each layer's outputs lack on average over its calls, `(C,) float64`, beside what is given back."""
    lacking: dict[str, list[Tensor]] = {}

    def correct(path: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            calls = lacking.setdefault(path, [])
            shape = [1] * output.dim()
            shape[_channel_axis(module, output)] = -1
            output = output + given_back[path].to(output.dtype).view(shape)
            calls.append(means[path][len(calls)] - _channel_means(module, output))
            return output + torch.stack(calls).mean(0).to(output.dtype).view(shape)

        return hook

    for path, layer in layers_of(simulated).items():
        # Before the hook that rounds the output, where the layer has one of its own.
        layer.register_forward_hook(correct(path), prepend=True)
    run(simulated)
    return {path: torch.stack(calls).mean(0) for path, calls in lacking.items()}


@torch.no_grad()
def _shift(layer: nn.Module, shift: Tensor) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if isinstance(layer.bias, Tensor):
        layer.bias += shift.to(layer.bias.dtype)
    else:
        layer.bias = nn.Parameter(shift.to(weight.dtype), weight.requires_grad)
