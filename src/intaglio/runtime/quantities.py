"""What kernels are told of scales and zero points: requantizations and tables, in numpy.

The arithmetic of docs/numerics.md, "Static quantization": float64, rounded once to float32. May import array.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from intaglio.runtime.array import Quant

__all__ = [
    "clamp_integer",
    "encode",
    "every_value",
    "function_table",
    "requantization",
    "requantization_table",
]

Floats = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_LARGEST = np.finfo(np.float32).max


def requantization(
    scale_in: float, scale_w: Floats, bias: Floats | None, scale_out: float
) -> tuple[Floats, Floats]:
    """The multiplier and the offset of each output channel: sums times one plus the other, in output
    steps."""
    multiplier = scale_w.astype(np.float64) * scale_in / scale_out
    offset = np.zeros_like(multiplier) if bias is None else bias.astype(np.float64) / scale_out
    return tuple(np.clip(v, -_LARGEST, _LARGEST).astype(np.float32) for v in (multiplier, offset))  # type: ignore[return-value]


def encode(values: Floats, quant: Quant) -> Bytes:
    """float32 values as integers of `quant`: `clamp(rne(x * (1 / scale)) + zero_point, lower, upper)`."""
    inverse = np.float32(1.0) / np.float32(quant.scale)
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.rint(values.astype(np.float32) * inverse)
    steps = np.where(np.isnan(steps), -np.inf, steps)
    found: Bytes = np.clip(steps + quant.zero_point, quant.lower, quant.upper).astype(np.uint8)
    return found


def clamp_integer(value: float, quant: Quant) -> int:
    """The integer that stands for a number."""
    return int(encode(np.array(value, np.float32), quant))


def every_value(quant: Quant) -> Floats:
    """`(256,)`: the number that each integer stands for."""
    return (np.arange(256, dtype=np.int32) - quant.zero_point).astype(np.float32) * np.float32(quant.scale)


def function_table(function: Callable[[Floats], Floats], x: Quant, output: Quant) -> Bytes:
    """`(256,)`: what `function` makes of each integer of `x`, as integers of `output`."""
    with np.errstate(all="ignore"):
        return encode(function(every_value(x)), output)


@lru_cache(maxsize=1024)
def requantization_table(x: Quant, output: Quant) -> Bytes:
    """`(256,)`: the same numbers with other parameters; do not write to it."""
    steps = (np.arange(256, dtype=np.int32) - x.zero_point).astype(np.float32) * np.float32(
        x.scale / output.scale
    )
    found: Bytes = np.clip(np.rint(steps) + output.zero_point, output.lower, output.upper).astype(np.uint8)
    return found
