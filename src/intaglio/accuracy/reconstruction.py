"""What a layer's inputs are like, and rounding of its weights that keeps its outputs.

The outputs' squared error is a quadratic form of the weights' errors, whose matrix is the covariance of the
inputs. May import nn.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intaglio.nn.fused import kind_of

__all__ = ["InputStatistics", "can_reconstruct", "input_size", "round_together", "swapped"]

MOST_PATCHES = 8192
"""Of a call with more output pixels than this, evenly spaced ones are looked at."""

DAMPING = 0.01
"""Part of the mean variance that is added to every input's, so that none counts for nothing."""

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def can_reconstruct(layer: nn.Module) -> bool:
    """Whether the layer is an ordinary convolution or a Linear."""
    return kind_of(layer, (*_CONVS, nn.Linear)) is not None


def input_size(layer: nn.Module) -> tuple[int, int]:
    """Groups of the layer, and how many inputs each of a group's outputs is the sum of."""
    groups = int(getattr(layer, "groups", 1))  # a Linear has none
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return groups, weight[0].numel()


def swapped(weight: Tensor, groups: int) -> Tensor:
    """The weight with inputs and outputs of each group exchanged: `(G * A, B, ...)` to `(G * B, A, ...)`."""
    return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)


class InputStatistics:
    """Mean `(G, D)` and covariance `(G, D, D)` of the inputs of a layer's outputs, group by group."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        groups, size = input_size(layer)
        self.count = 0
        self.sum = torch.zeros(groups, size, dtype=torch.float64)
        self.squares = torch.zeros(groups, size, size)

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Take in one input of the layer."""
        patches = _patches(self.layer, x.detach().float(), self.sum.shape[0])
        self.count += patches.shape[2]
        self.sum += patches.double().sum(2)
        self.squares += patches @ patches.transpose(1, 2)

    def mean(self) -> Tensor:
        """The mean input, `(G, D)` float64."""
        return self.sum / max(self.count, 1)

    def covariance(self) -> Tensor:
        """The covariance, `(G, D, D)` float64, damped."""
        mean = self.mean()
        found = self.squares.double() / max(self.count, 1) - mean[:, :, None] * mean[:, None, :]
        diagonal = found.diagonal(dim1=1, dim2=2)
        damping = DAMPING * diagonal.mean(1, keepdim=True).clamp(min=1e-12)
        diagonal += damping
        return found


def _patches(layer: nn.Module, x: Tensor, groups: int) -> Tensor:
    """What each output pixel is the sum of, `(G, D, pixels)`."""
    if kind_of(layer, (nn.Linear,)):
        rows = x.reshape(-1, x.shape[-1])
        step = max(1, len(rows) // MOST_PATCHES)
        return rows[::step].t()[None]
    dims = len(layer.kernel_size)  # type: ignore[arg-type]
    x = x[None] if x.dim() == dims + 1 else x
    mode = "constant" if layer.padding_mode == "zeros" else str(layer.padding_mode)
    # What torch itself pads with, for the modes that copy pixels and for 'same'.
    x = F.pad(x, tuple(layer._reversed_padding_repeated_twice), mode)  # type: ignore[arg-type]
    for axis in range(dims):
        kernel, stride, dilation = (
            int(getattr(layer, name)[axis]) for name in ("kernel_size", "stride", "dilation")
        )
        x = x.unfold(2 + axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    pixels = len(x) * math.prod(x.shape[2 : 2 + dims])
    step = max(1, math.ceil((pixels / MOST_PATCHES) ** (1 / dims)))
    kept = (slice(None), slice(None), *[slice(None, None, step)] * dims)
    x = x[kept]
    # (N, C, *pixels, *kernel) to (G, C / G * kernel, N * pixels)
    order = (1, *range(2 + dims, 2 + 2 * dims), 0, *range(2, 2 + dims))
    x = x.permute(order)
    return x.reshape(groups, -1, math.prod(x.shape[1 + dims :]))


@torch.no_grad()
def round_together(weight: Tensor, scale: Tensor, most: int, covariance: Tensor) -> Tensor:
    """Integers, `(G, R, D)` like `weight`, whose outputs are near those of `weight / scale`.

    One input after the other is rounded, the one that matters most first, and the weights that are still to
    be rounded are moved so as to make up for its error, as well as the covariance lets them (Frantar et al.,
    "GPTQ", 2022). The largest weight of a row keeps the outermost integer, so that any observer finds the
    same scale again. `scale` is `(G, R, 1)`, `covariance` `(G, D, D)`.
    """
    order = covariance.diagonal(dim1=1, dim2=2).argsort(1, descending=True)  # (G, D)
    left = (weight.double() / scale.double()).gather(2, order[:, None].expand_as(weight))
    rows = order[:, :, None].expand_as(covariance)
    ordered = covariance.gather(1, rows).gather(2, order[:, None].expand_as(covariance))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(ordered))
    factor = torch.linalg.cholesky(inverse, upper=True)
    outermost = left.abs().argmax(2)
    signs = left.gather(2, outermost[:, :, None])[:, :, 0].sign() * most
    codes = torch.empty_like(left)
    for column in range(left.shape[2]):
        value = left[:, :, column]
        code = value.round().clamp(-most, most)
        code = torch.where(outermost == column, signs, code)
        codes[:, :, column] = code
        error = (value - code) / factor[:, column, column][:, None]
        left[:, :, column + 1 :] -= error[:, :, None] * factor[:, column, None, column + 1 :]
    return torch.empty_like(codes).scatter_(2, order[:, None].expand_as(weight), codes)
