"""Static quantized convolutions and Linear, uint8 to uint8: packing, direct calls and `torch.library` ops.

Activations have one scale and zero point, fixed before the call; `Requantization` holds what follows from
them. Images lie with their channels innermost. May import static_calls, requantization, conv, packing,
library, errors and _core.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import ConfigError
from intaglio.ops.conv import ConvSpec, check_spec
from intaglio.ops.library import define_op
from intaglio.ops.packing import MAX_K, pack_weight, unpack_weight
from intaglio.ops.requantization import Requantization
from intaglio.ops.static_calls import ConvCall, LinearCall

__all__ = [
    "pack_conv_static",
    "pack_linear_static",
    "run_conv_static",
    "run_linear_static",
    "unpack_conv_static",
    "unpack_linear_static",
]

_AXES = 3


def pack_conv_static(spec: ConvSpec, weight: Tensor, *, winograd: bool = True) -> Tensor:
    """Pack a `spec.weight_shape` int8 weight for this CPU, as a 1-d uint8 tensor.

    With `winograd`, a 3 x 3 convolution of at least 64 input channels takes 9 times the memory where the form
    of that name is exact; it gives the same bits, sooner.

    Raises `ConfigError` for hyperparameters that make no convolution, for another shape or dtype, and where
    in_channels / groups times the kernel's volume exceeds `MAX_K`.
    """
    check_spec(spec)
    if weight.shape != spec.weight_shape or weight.dtype != torch.int8:
        raise ConfigError(
            f"pack_conv_static takes a {spec.weight_shape} int8 weight, "
            f"not {tuple(weight.shape)} {weight.dtype}"
        )
    k = weight[0].numel()
    if k > MAX_K:
        raise ConfigError(f"K = {k} exceeds {MAX_K}, beyond which int32 sums could overflow")
    return _pack(spec.to_ints(), weight.contiguous(), winograd)


def _pack(ints: list[int], weight: Tensor, winograd: bool) -> Tensor:
    packed = torch.empty(_core.packed_static_conv_bytes(ints, weight.data_ptr(), winograd), dtype=torch.uint8)
    _core.pack_static_conv(ints, weight.data_ptr(), winograd, packed.data_ptr())
    return packed


def unpack_conv_static(packed: Tensor) -> Tensor:
    """The int8 weight in a packed tensor: `(out_channels, in_channels / groups, depth, height, width)`."""
    (out_channels, in_channels, groups, *axes), _ = _core.packed_static_conv_spec(packed.data_ptr())
    weight = torch.empty(out_channels, in_channels // groups, *axes[:_AXES], dtype=torch.int8)
    _core.unpack_static_conv(packed.data_ptr(), weight.data_ptr())
    return weight


def run_conv_static(
    x: Tensor,
    zero_point_in: int,
    packed: Tensor,
    requantization: Requantization,
    output_size: Sequence[int],
    residual: Tensor | None = None,
    residual_zero_point: int = 0,
    residual_multiplier: float = 0.0,
) -> Tensor:
    """Convolve uint8 `(N, C, *size)`; `(N, O, *output_size)` uint8 with its channels innermost.

    `residual` is uint8 of the output's shape; `residual_multiplier` is its scale over the output's. The
    caller has checked dtypes, device and dimensions; `ValueError` if C is not the weight's or an axis is
    empty, or `requantization` is not of the weight's outputs; `InputError` for another residual.
    """
    call = ConvCall(
        x.shape,
        zero_point_in,
        packed,
        requantization,
        output_size,
        residual_zero_point=residual_zero_point,
        residual_multiplier=residual_multiplier,
    )
    return call(x, residual)


def pack_linear_static(weight: Tensor) -> Tensor:
    """Pack an `(N, K)` int8 weight for this CPU, as a 1-d uint8 tensor; raises as `pack_weight` does."""
    n = len(weight)
    return pack_weight(weight, torch.zeros(n), None, panel_vectors=_core.static_panel_vectors(n))


def unpack_linear_static(packed: Tensor) -> Tensor:
    """The `(N, K)` int8 weight in a packed tensor."""
    return unpack_weight(packed)[0]


def run_linear_static(
    x: Tensor,
    zero_point_in: int,
    packed: Tensor,
    requantization: Requantization,
    residual: Tensor | None = None,
    residual_zero_point: int = 0,
    residual_multiplier: float = 0.0,
) -> Tensor:
    """Multiply uint8 `(..., K)` by a packed `(N, K)` weight; `(..., N)` uint8.

    `residual` is uint8 of the output's shape. The caller has checked dtypes and device; `ValueError` if K is
    not the weight's or `requantization` is not of its outputs, `InputError` for another residual.
    """
    call = LinearCall(
        x.shape,
        zero_point_in,
        packed,
        requantization,
        residual_zero_point=residual_zero_point,
        residual_multiplier=residual_multiplier,
    )
    return call(x, residual)


def conv_static(
    x: Tensor,
    zero_point_in: int,
    packed: Tensor,
    multiplier: Tensor,
    offset: Tensor,
    zero_point: int,
    lower: int,
    upper: int,
    output_size: Sequence[int],
    residual: Tensor | None,
    residual_zero_point: int,
    residual_multiplier: float,
) -> Tensor:
    """CPU kernel of `intaglio::conv_static`: as `run_conv_static`.

    A weight packed for another instruction set (an exported program that moved) is packed again for
    each call: right, but slow.
    """
    ints, isa = _core.packed_static_conv_spec(packed.data_ptr())
    if isa != _core.active_isa():
        packed = _pack(ints, unpack_conv_static(packed), False)
    requantization = Requantization(multiplier.contiguous(), offset.contiguous(), zero_point, lower, upper)
    return run_conv_static(
        x,
        zero_point_in,
        packed,
        requantization,
        output_size,
        residual,
        residual_zero_point,
        residual_multiplier,
    )


def _fake_conv_static(
    x: Tensor,
    zero_point_in: int,
    packed: Tensor,
    multiplier: Tensor,
    offset: Tensor,
    zero_point: int,
    lower: int,
    upper: int,
    output_size: Sequence[int],
    residual: Tensor | None,
    residual_zero_point: int,
    residual_multiplier: float,
) -> Tensor:
    shape = (x.shape[0], *output_size, multiplier.shape[0])
    return torch.empty(shape, dtype=torch.uint8, device=x.device).movedim(-1, 1)


_REQUANTIZATION = "Tensor multiplier, Tensor offset, int zero_point, int lower, int upper"
_RESIDUAL = "Tensor? residual, int residual_zero_point, float residual_multiplier"

define_op(
    f"conv_static(Tensor x, int zero_point_in, Tensor packed, {_REQUANTIZATION}, SymInt[] output_size, "
    f"{_RESIDUAL}) -> Tensor",
    conv_static,
    _fake_conv_static,
)


def linear_static(
    x: Tensor,
    zero_point_in: int,
    packed: Tensor,
    multiplier: Tensor,
    offset: Tensor,
    zero_point: int,
    lower: int,
    upper: int,
    residual: Tensor | None,
    residual_zero_point: int,
    residual_multiplier: float,
) -> Tensor:
    """CPU kernel of `intaglio::linear_static`: `run_linear_static` for a weight of any instruction set."""
    if _core.packed_shape(packed.data_ptr())[2] != _core.active_isa():
        packed = pack_linear_static(unpack_linear_static(packed))
    requantization = Requantization(multiplier.contiguous(), offset.contiguous(), zero_point, lower, upper)
    return run_linear_static(
        x, zero_point_in, packed, requantization, residual, residual_zero_point, residual_multiplier
    )


def _fake_linear_static(
    x: Tensor,
    zero_point_in: int,
    packed: Tensor,
    multiplier: Tensor,
    offset: Tensor,
    zero_point: int,
    lower: int,
    upper: int,
    residual: Tensor | None,
    residual_zero_point: int,
    residual_multiplier: float,
) -> Tensor:
    return x.new_empty([*x.shape[:-1], multiplier.shape[0]])


define_op(
    f"linear_static(Tensor x, int zero_point_in, Tensor packed, {_REQUANTIZATION}, {_RESIDUAL}) -> Tensor",
    linear_static,
    _fake_linear_static,
)
