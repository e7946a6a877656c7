"""Tables of 256 bytes: any function of one quantized variable, and other parameters for the same numbers.

Tensors are uint8 (docs/numerics.md, "Static quantization"). A function calls its kernel directly where
nothing watches torch's calls, and its `torch.library` op elsewhere. May import layout, reference_elementwise,
library, qparams, errors and _core.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import InputError
from intaglio.ops.layout import dense_pair
from intaglio.ops.library import define_op, is_direct
from intaglio.ops.reference_elementwise import requantize as _requantize_plain
from intaglio.qparams import QParams, dequantize, quantize

__all__ = ["check_uint8", "lookup", "make_table", "requantization_table", "requantize"]

_permutes_bytes = _core.cpu_permutes_bytes()
_threads = torch.get_num_threads


def check_uint8(name: str, *tensors: Tensor) -> None:
    """Raise `InputError`, naming the function, if one of `tensors` is not uint8."""
    for x in tensors:
        if x.dtype is not torch.uint8:
            raise InputError(f"{name} takes uint8 tensors, the data of QTensors, not one of {x.dtype}")


def make_table(function: Callable[[Tensor], Tensor], x: QParams, output: QParams) -> Tensor:
    """`(256,) uint8`: what `function` makes of each integer of `x`, as integers of `output`."""
    return quantize(function(dequantize(torch.arange(256, dtype=torch.int32), x)), output)


def lookup(x: Tensor, table: Tensor) -> Tensor:
    """`table[x]` for uint8 `x` of any shape and a `(256,)` uint8 table, in the memory layout of `x`."""
    if is_direct(x):
        return _lookup(x, table)
    return torch.ops.intaglio.lookup(x, table)  # type: ignore[no-any-return]


def _lookup(x: Tensor, table: Tensor) -> Tensor:
    """CPU kernel of `intaglio::lookup`."""
    check_uint8("lookup", x, table)
    if table.numel() != 256 or not table.is_contiguous():
        raise InputError(
            f"lookup takes a contiguous table of 256 bytes, not one of shape {tuple(table.shape)}"
        )
    x, y = dense_pair(x, torch.uint8)
    _core.look_up_bytes(x.data_ptr(), x.numel(), table.data_ptr(), y.data_ptr(), _permutes_bytes, _threads())
    return y


def _fake_lookup(x: Tensor, table: Tensor) -> Tensor:
    return torch.empty_like(x)


define_op("lookup(Tensor x, Tensor table) -> Tensor", _lookup, _fake_lookup)


@lru_cache(maxsize=1024)
def requantization_table(
    scale_in: float, zero_point_in: int, scale: float, zero_point: int, lower: int = 0, upper: int = 255
) -> Tensor:
    """The `(256,)` table that takes integers from one pair of parameters to another; do not write to it."""
    every = torch.arange(256, dtype=torch.uint8)
    return _requantize_plain(every, scale_in, zero_point_in, scale, zero_point, lower, upper)


def requantize(
    x: Tensor,
    scale_in: float,
    zero_point_in: int,
    scale: float,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """The same numbers with other parameters: `encode(float(x - zero_point_in) * (scale_in / scale))`."""
    if is_direct(x):
        return _requantize(x, scale_in, zero_point_in, scale, zero_point, lower, upper)
    return torch.ops.intaglio.requantize(  # type: ignore[no-any-return]
        x, scale_in, zero_point_in, scale, zero_point, lower, upper
    )


def _requantize(
    x: Tensor, scale_in: float, zero_point_in: int, scale: float, zero_point: int, lower: int, upper: int
) -> Tensor:
    """CPU kernel of `intaglio::requantize`."""
    return _lookup(x, requantization_table(scale_in, zero_point_in, scale, zero_point, lower, upper))


def _fake_requantize(
    x: Tensor, scale_in: float, zero_point_in: int, scale: float, zero_point: int, lower: int, upper: int
) -> Tensor:
    return torch.empty_like(x)


define_op(
    "requantize(Tensor x, float scale_in, int zero_point_in, float scale, int zero_point, int lower, "
    "int upper) -> Tensor",
    _requantize,
    _fake_requantize,
)
