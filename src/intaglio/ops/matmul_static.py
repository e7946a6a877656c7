"""Products of two quantized activations, uint8 by uint8 to uint8, batched as `torch.matmul` is.

A direct call where nothing watches torch's calls, and a `torch.library` op elsewhere (docs/numerics.md,
"Static quantization"). May import library, errors and _core.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import InputError
from intaglio.ops.library import define_op, is_direct

__all__ = ["matmul"]

_threads = torch.get_num_threads


def matmul(
    a: Tensor,
    b: Tensor,
    scale_a: float,
    zero_point_a: int,
    scale_b: float,
    zero_point_b: int,
    scale: float,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """`(..., M, K)` by `(..., K, N)` uint8 to `(..., M, N)`; vectors and batches as in `torch.matmul`.

    `encode(float(acc) * (scale_a * scale_b / scale))`, with `acc` the exact sum of
    `(a - zero_point_a) * (b - zero_point_b)`. Transposed operands are read where they lie. `InputError` for
    shapes that do not fit and for K beyond 33025.
    """
    params = (scale_a, zero_point_a, scale_b, zero_point_b, scale, zero_point, lower, upper)
    if is_direct(a, b):
        return _matmul(a, b, *params)
    return torch.ops.intaglio.matmul_quantized(a, b, *params)  # type: ignore[no-any-return]


def _matmul(
    a: Tensor,
    b: Tensor,
    scale_a: float,
    zero_point_a: int,
    scale_b: float,
    zero_point_b: int,
    scale: float,
    zero_point: int,
    lower: int,
    upper: int,
) -> Tensor:
    """CPU kernel of `intaglio::matmul_quantized`."""
    shape = _shape_of_product(a, b)
    a = a.unsqueeze(0) if a.dim() == 1 else a
    b = b.unsqueeze(1) if b.dim() == 1 else b
    a = a if a.stride(-1) == 1 else a.contiguous()
    b = b if 1 in b.stride()[-2:] else b.contiguous()
    (m, k), n = a.shape[-2:], b.shape[-1]
    batch, a_strides, b_strides = _batch(a, b)
    k_stride, n_stride = b.stride()[-2:]
    if n_stride != 1 and k_stride != 1:  # an axis of size 1 may have any stride
        b = b.contiguous()
        k_stride, n_stride = b.stride()[-2:]
    y = torch.empty(shape, dtype=torch.uint8)
    try:
        _core.matmul_static(
            a.data_ptr(),
            b.data_ptr(),
            batch,
            a_strides,
            b_strides,
            m,
            k,
            n,
            a.stride(-2),
            k_stride,
            n_stride,
            scale_a,
            zero_point_a,
            scale_b,
            zero_point_b,
            scale,
            zero_point,
            lower,
            upper,
            y.data_ptr(),
            _threads(),
        )
    except ValueError as error:
        raise InputError(f"matmul of {tuple(a.shape)} by {tuple(b.shape)}: {error}") from None
    return y


def _batch(a: Tensor, b: Tensor) -> tuple[list[int], list[int], list[int]]:
    """Sizes of the batch's axes and the strides of both operands along them, 0 where one repeats."""
    a_sizes, b_sizes = tuple(a.shape[:-2]), tuple(b.shape[:-2])
    if a_sizes == b_sizes:
        return list(a_sizes), list(a.stride()[:-2]), list(b.stride()[:-2])
    axes = max(len(a_sizes), len(b_sizes))
    a_sizes, b_sizes = (1,) * (axes - len(a_sizes)) + a_sizes, (1,) * (axes - len(b_sizes)) + b_sizes
    a_strides = [0] * (axes - a.dim() + 2) + list(a.stride()[:-2])
    b_strides = [0] * (axes - b.dim() + 2) + list(b.stride()[:-2])
    batch = [y if x == 1 else x for x, y in zip(a_sizes, b_sizes, strict=True)]
    return (
        batch,
        [0 if size == 1 else stride for size, stride in zip(a_sizes, a_strides, strict=True)],
        [0 if size == 1 else stride for size, stride in zip(b_sizes, b_strides, strict=True)],
    )


def _shape_of_product(a: Tensor, b: Tensor) -> Sequence[int]:
    for x in (a, b):
        if x.dtype is not torch.uint8:
            raise InputError(f"matmul takes uint8 tensors, the data of QTensors, not one of {x.dtype}")
    if a.dim() == 0 or b.dim() == 0 or a.shape[-1] != b.shape[0 if b.dim() == 1 else -2]:
        raise _misfit(a, b)
    batch = list(a.shape[:-2])
    if b.dim() > 2 and b.shape[:-2] != a.shape[:-2]:  # spelled out: torch.broadcast_shapes takes 10 us
        try:
            batch = list(torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]))  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise _misfit(a, b) from None
    return [*batch, *a.shape[-2:-1], *(b.shape[-1:] if b.dim() > 1 else ())]


def _misfit(a: Tensor, b: Tensor) -> InputError:
    return InputError(f"tensors of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be multiplied")


def _fake_matmul(a: Tensor, b: Tensor, *params: float) -> Tensor:
    return a.new_empty(_shape_of_product(a, b))


define_op(
    "matmul_quantized(Tensor a, Tensor b, float scale_a, int zero_point_a, float scale_b, int zero_point_b, "
    "float scale, int zero_point, int lower, int upper) -> Tensor",
    _matmul,
    _fake_matmul,
)
