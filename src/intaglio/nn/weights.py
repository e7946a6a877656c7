"""Float weights to int8, as a qconfig says. May import qconfig, qparams and errors."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from intaglio.errors import ConfigError
from intaglio.qconfig import QConfig
from intaglio.qparams import INT8, quantize

__all__ = ["check_finite", "quantize_weight"]

BLOCK_VALUES = 1 << 18
"""Weights are quantized this many at a time: temporaries stay in the cache, and small beside a layer."""


def check_finite(weight: Tensor, path: str) -> None:
    """Raise `ConfigError` for a weight that holds NaN or infinity, which an observer would pass over."""
    if weight.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(weight))).all()):
        raise ConfigError(
            f"'{path}': its weight holds NaN or infinity and cannot be quantized: mend the weight"
        )


def quantize_weight(weight: Tensor, qconfig: QConfig, path: str) -> tuple[Tensor, Tensor]:
    """The int8 form of a weight and one float32 scale for each index of axis 0, as `qconfig.weight` says.

    `ConfigError`, naming the module, for a weight that is not finite or an observer that is not symmetric.
    """
    weight = weight.detach().to(torch.float32)
    check_finite(weight, path)
    observer = qconfig.weight()
    observer(weight)
    try:
        qparams = observer.choose()
    except ConfigError as error:
        raise ConfigError(f"'{path}': its weight cannot be quantized: {error}") from error
    if qparams.dtype is not INT8 or bool((qparams.zero_point != 0).any()):
        raise ConfigError(f"'{path}': its qconfig's weight observer must be symmetric int8")
    if qparams.axis not in (None, 0):
        raise ConfigError(f"'{path}': its qconfig's weight observer must look at axis 0, not {qparams.axis}")
    scale = qparams.scale.expand(weight.shape[0]).contiguous()
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    data = torch.empty(weight.shape, dtype=torch.int8)
    rows = max(1, BLOCK_VALUES // max(1, weight[0].numel()))
    for begin in range(0, len(weight), rows):
        block = slice(begin, begin + rows)
        part = replace(qparams, scale=scale[block], zero_point=zero_point[block], axis=0)
        data[block] = quantize(weight[block], part)
    return data, scale
