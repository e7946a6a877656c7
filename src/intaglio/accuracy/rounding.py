"""`round_weights`: weights put on the integer grid together, so that their rounding errors cancel.

May import running, reconstruction, nn, qconfig and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.accuracy.reconstruction import (
    InputStatistics,
    can_reconstruct,
    input_size,
    round_together,
)
from intaglio.accuracy.running import Data, Run, layers_of, runner_of, working_copy
from intaglio.errors import ConfigError
from intaglio.qconfig import QConfig, get_default_qconfig

__all__ = ["round_weights"]

MOST_BYTES = 1 << 28
"""Covariances of so many layers are gathered in one run over the data as fit into this."""


def round_weights(
    model: nn.Module, data: Data, qconfig: QConfig | None = None, *, inplace: bool = False
) -> nn.Module:
    """Round the weights of convolutions and Linears so that the layers' outputs change least.

    What AdaRound learns (Nagel et al., "Up or Down?", 2020), the rounding of each weight that keeps the
    layer's output on calibration data, is found here without a learning rate: weights are rounded one input
    after the other, and the rest of them make up for the error, by the covariance of the layer's inputs
    (Frantar et al., "GPTQ", 2022). What remains in the mean goes into the bias. The weights given are real
    numbers that lie on an int8 grid: `prepare` and `convert` find the same integers again.

    Parameters
    ----------
    model : nn.Module
        A float model in eval mode, its batch norms folded (`fuse_modules`).
    data : iterable of batches, or a function that runs a model on its data
        Some tens of inputs like those to come; no labels.
    qconfig : QConfig, optional
        Whose weight observer chooses the scales; by default that of `get_default_qconfig()`.
    inplace : bool
        Change `model` instead of a copy.

    Returns
    -------
    nn.Module
        The model with its weights rounded. Transposed convolutions stay as they are.

    Raises
    ------
    ConfigError
        The weight observer is not symmetric, or the model is in train mode.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(16, 8), nn.ReLU()).eval()
    >>> rounded = round_weights(model, [torch.randn(64, 16)])
    >>> steps = rounded[0].weight * (127 / rounded[0].weight.abs().amax(1, keepdim=True))
    >>> bool((steps - steps.round()).abs().max() < 1e-3)
    True
    """
    run = runner_of(data)
    model = working_copy(model, inplace)
    make = (qconfig or get_default_qconfig()).weight
    layers = {path: layer for path, layer in layers_of(model).items() if can_reconstruct(layer)}
    grids = {path: _grid(layer, make, path) for path, layer in layers.items()}
    rounded: dict[str, tuple[Tensor, Tensor]] = {}
    # All statistics are those of the float model: nothing is stored before all are there.
    for some in _batches_of(layers):
        for path, statistics in _statistics(model, some, run).items():
            if statistics.count:
                rounded[path] = _rounded(layers[path], *grids[path], statistics)
    for path, found in rounded.items():
        _store(layers[path], *found)
    return model


def _grid(layer: nn.Module, make: Callable[..., Any], path: str) -> tuple[Tensor, int]:
    """Scale `(O, 1)` and the largest integer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    observer = make()
    observer.name = f"{path}.weight"
    observer(weight.detach())
    qparams = observer.choose()
    if bool((qparams.zero_point != 0).any()) or qparams.axis not in (None, 0):
        raise ConfigError(f"'{path}': its weight observer must be symmetric, per tensor or for axis 0")
    most = qparams.limits()[1]
    reach = weight.detach().flatten(1).abs().amax(1)
    if qparams.axis is None:
        reach = reach.amax().expand(len(weight))
    # Never so wide that the largest weight would not have the outermost integer.
    scale = torch.minimum(qparams.scale.expand(len(weight)), (reach / most).clamp(min=2.0**-118))
    return scale[:, None], most


def _batches_of(layers: dict[str, nn.Module]) -> Iterator[dict[str, nn.Module]]:
    batch: dict[str, nn.Module] = {}
    size = 0
    for path, layer in layers.items():
        groups, inputs = input_size(layer)
        cost = groups * inputs * inputs * 4
        if batch and size + cost > MOST_BYTES:
            yield batch
            batch, size = {}, 0
        batch[path] = layer
        size += cost
    yield batch


def _statistics(model: nn.Module, layers: dict[str, nn.Module], run: Run) -> dict[str, InputStatistics]:
    found = {path: InputStatistics(layer) for path, layer in layers.items()}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, path=path: found[path].add(args[0]))
        for path, layer in layers.items()
    ]
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _rounded(
    layer: nn.Module, scale: Tensor, most: int, statistics: InputStatistics
) -> tuple[Tensor, Tensor]:
    """The layer's weight on its grid, and what its bias has to make up for, `(O,)`."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    groups, size = input_size(layer)
    rows = weight.detach().reshape(groups, -1, size)
    steps = scale.reshape(groups, -1, 1)
    codes = round_together(rows, steps, most, statistics.covariance())
    rounded = codes.float() * steps
    shift = ((rows - rounded).double() * statistics.mean()[:, None]).sum(2).reshape(-1)
    return rounded.reshape(weight.shape), shift.to(weight.dtype)


@torch.no_grad()
def _store(layer: nn.Module, weight: Tensor, shift: Tensor) -> None:
    held = layer.weight
    assert isinstance(held, Tensor)
    held.copy_(weight)
    if isinstance(layer.bias, Tensor):
        layer.bias += shift
    else:
        layer.bias = nn.Parameter(shift, held.requires_grad)
