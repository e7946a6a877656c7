"""`equalize`: the channels between two layers brought to ranges that quantize better; results stay.

May import running, fusion, nn and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.accuracy.reconstruction import swapped
from intaglio.accuracy.running import Data, Run, layers_of, runner_of, working_copy
from intaglio.errors import ConfigError
from intaglio.fusion.dataflow import trace_dataflow
from intaglio.nn.fused import kind_of

__all__ = ["equalize"]

_SCALES = (nn.ReLU, nn.LeakyReLU, nn.PReLU)
"""Activations that give `s * f(x)` for `s * x`, for any positive `s`."""

_PASSES = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.ZeroPad1d,
    nn.ZeroPad2d,
    nn.ZeroPad3d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
)
"""Modules through which a channel's factor goes unchanged."""

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

ROUNDS = 4
WIDEST = 64.0
"""No channel is scaled by more than this against another."""


@dataclass(frozen=True)
class _Pair:
    """Two layers by path, the second fed by the first alone; `is_rectified` if a ReLU stands between."""

    first: str
    second: str
    is_rectified: bool = False


def equalize(
    model: nn.Module,
    data: Data | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    inplace: bool = False,
) -> nn.Module:
    """Scale the channels between two layers, down in one and up in the other; the model computes the same.

    Without `data` each channel gets the same range in the weights on both sides (cross-layer equalization:
    Nagel et al., "Data-Free Quantization", 2019). With `data` the ranges of the values themselves are weighed
    against the weights that multiply them, which suits weights that have a scale for each channel.

    Layers with a ReLU6 or another bound between them are left as they are: the bound does not scale along,
    and channels that stay below it on calibration data reach it on other data (EfficientNet-Lite0: scaled by
    2 at most, and only where calibration stayed below 1.5, its float logits kept 14 dB on other photos).

    Parameters
    ----------
    model : nn.Module
        A float model in eval mode, its batch norms folded (`fuse_modules`).
    data : iterable of batches, or a function that runs a model on its data, optional
    pairs : list of pairs of paths, optional
        Layers to equalize, with nothing or a ReLU, LeakyReLU or PReLU between them. By default all that
        `torch.fx` shows to feed one another alone.
    inplace : bool
        Change `model` instead of a copy.

    Raises
    ------
    ConfigError
        A path names no layer, two layers do not fit, or the model is in train mode.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    >>> x = torch.rand(1, 3, 8, 8)
    >>> torch.allclose(equalize(model)(x), model(x), atol=1e-5)
    True
    """
    run = None if data is None else runner_of(data)
    model = working_copy(model, inplace)
    found = _pairs_of(model) if pairs is None else _pairs_from(model, pairs)
    ranges = _ranges(model, found, run) if run else {}
    layers = layers_of(model)
    for _ in range(ROUNDS):
        for pair in found:
            first, second = layers[pair.first], layers[pair.second]
            factor = _factor(first, second, pair, ranges)
            if factor is None:
                continue
            _scale_outputs(first, 1.0 / factor)
            _scale_inputs(second, factor)
            if pair.first in ranges:
                ranges[pair.first] = tuple(limit / factor for limit in ranges[pair.first])
    return model


def _pairs_of(model: nn.Module) -> list[_Pair]:
    links = trace_dataflow(model, passing=_PASSES).links()
    layers = layers_of(model)
    found = []
    for path, layer in layers.items():
        following, between = links.get(path), None
        if following is not None:
            between = kind_of(model.get_submodule(following), _SCALES)
            following = links.get(following) if between else following
        if following in layers and _fit(layer, layers[following]):
            found.append(_Pair(path, following, between is nn.ReLU))
    return found


def _pairs_from(model: nn.Module, pairs: Sequence[tuple[str, str]]) -> list[_Pair]:
    layers = layers_of(model)
    for pair in pairs:
        for path in pair:
            if path not in layers:
                raise ConfigError(f"equalize: '{path}' is no convolution or Linear of the model")
        if not _fit(layers[pair[0]], layers[pair[1]]):
            raise ConfigError(
                f"equalize: '{pair[0]}' has {_outputs(layers[pair[0]])} outputs, but '{pair[1]}' takes "
                f"{_inputs(layers[pair[1]])}: name layers of which one feeds the other alone"
            )
    return [_Pair(first, second) for first, second in pairs]


def _outputs(layer: nn.Module) -> int:
    return int(getattr(layer, "out_channels", getattr(layer, "out_features", 0)))


def _inputs(layer: nn.Module) -> int:
    return int(getattr(layer, "in_channels", getattr(layer, "in_features", 0)))


def _fit(first: nn.Module, second: nn.Module) -> bool:
    return _outputs(first) == _inputs(second) and _dims(first) == _dims(second)


def _ranges(model: nn.Module, pairs: list[_Pair], run: Run) -> dict[str, tuple[Tensor, ...]]:
    """For each first layer of a pair, each channel's largest output and largest magnitude, `(C,)`."""
    found: dict[str, tuple[Tensor, ...]] = {}

    def see(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            rows = output.movedim(output.dim() - _dims(module) - 1, 0).flatten(1)
            limits = (rows.amax(1), rows.abs().amax(1))
            before = found.get(path, limits)
            found[path] = tuple(map(torch.maximum, before, limits))

        return hook

    layers = layers_of(model)
    handles = [layers[pair.first].register_forward_hook(see(pair.first)) for pair in pairs]
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _dims(layer: nn.Module) -> int:
    """How many axes lie behind the channels; a Linear has none."""
    return len(getattr(layer, "kernel_size", ()))


@torch.no_grad()
def _factor(
    first: nn.Module, second: nn.Module, pair: _Pair, ranges: dict[str, tuple[Tensor, ...]]
) -> Tensor | None:
    """By what each channel is divided in `first` and multiplied in `second`, `(C,)`; None to leave it."""
    if pair.first in ranges:
        largest, magnitude = ranges[pair.first]
        here = largest.clamp(min=0) if pair.is_rectified else magnitude
    else:
        here = _largest(_output_rows(first))
    there = _largest(_input_rows(second))
    known = (here > 0) & (there > 0)
    if not bool(known.any()):
        return None
    factor = torch.where(known, (here / there.clamp(min=1e-30)).sqrt(), 0.0)
    factor = factor / factor.max()
    return torch.where(known, factor, 1.0).clamp(min=1.0 / WIDEST)


def _largest(rows: Tensor) -> Tensor:
    return rows.abs().amax(1)


def _output_rows(layer: nn.Module) -> Tensor:
    """The weight as `(outputs, everything else)`."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if kind_of(layer, _TRANSPOSED) is None:
        return weight.detach().flatten(1)
    groups = int(layer.groups)  # type: ignore[arg-type]
    return swapped(weight.detach(), groups).flatten(1)


def _input_rows(layer: nn.Module) -> Tensor:
    """The weight as `(inputs, everything else)`."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if kind_of(layer, _TRANSPOSED) is not None:
        return weight.detach().flatten(1)
    groups = int(getattr(layer, "groups", 1))
    return swapped(weight.detach(), groups).flatten(1)


@torch.no_grad()
def _scale_outputs(layer: nn.Module, factor: Tensor) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if kind_of(layer, _TRANSPOSED) is None:
        weight *= factor.view(-1, *[1] * (weight.dim() - 1))
    else:
        _scale_inner(weight, factor, int(layer.groups))  # type: ignore[arg-type]
    if isinstance(layer.bias, Tensor):
        layer.bias *= factor


@torch.no_grad()
def _scale_inputs(layer: nn.Module, factor: Tensor) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if kind_of(layer, _TRANSPOSED) is None:
        _scale_inner(weight, factor, int(getattr(layer, "groups", 1)))
    else:
        weight *= factor.view(-1, *[1] * (weight.dim() - 1))


def _scale_inner(weight: Tensor, factor: Tensor, groups: int) -> None:
    """Scale along axis 1 of each group's part of a weight."""
    factors = factor.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    weight.copy_((parts * factors).flatten(0, 1))
