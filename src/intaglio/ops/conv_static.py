"""Static quantized convolutions and Linear, uint8 to uint8: packing, direct calls and `torch.library` ops.

Activations have one scale and zero point, fixed before the call; `Requantization` holds what follows from
them (docs/numerics.md, "Static quantization"). Images lie with their channels innermost. May import conv,
packing, library, errors and _core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import ConfigError, InputError
from intaglio.ops.conv import ConvSpec, check_spec
from intaglio.ops.library import define_op
from intaglio.ops.packing import MAX_K, pack_weight, unpack_weight

__all__ = [
    "Requantization",
    "choose_requantization",
    "pack_conv_static",
    "pack_linear_static",
    "run_conv_static",
    "run_linear_static",
    "unpack_conv_static",
    "unpack_linear_static",
]

_AXES = 3
_LARGEST = torch.finfo(torch.float32).max
_empty = torch.empty
_empty_strided = torch.empty_strided
_uint8 = torch.uint8
_float32 = torch.float32
_threads = torch.get_num_threads
_channels_last = torch.channels_last


@dataclass(frozen=True)
class Requantization:
    """How int32 sums become uint8: `clamp(rne(fma(sum, multiplier, offset)) + zero_point, lower, upper)`.

    Attributes:
        multiplier: `(O,)` float32, contiguous, finite.
        offset: `(O,)` float32, contiguous, finite.
        zero_point: of the output, 0..255.
        lower: smallest integer of the output, 0..upper.
        upper: largest integer of the output, lower..255.
    """

    multiplier: Tensor
    offset: Tensor
    zero_point: int
    lower: int = 0
    upper: int = 255

    def __post_init__(self) -> None:
        shape, offset = self.multiplier.shape, self.offset
        if len(shape) != 1 or offset.shape != shape or {offset.dtype, self.multiplier.dtype} != {_float32}:
            raise ConfigError(
                "a requantization takes (O,) float32 multipliers and offsets, not "
                f"{tuple(shape)} {self.multiplier.dtype} and {tuple(offset.shape)} {offset.dtype}"
            )
        if not 0 <= self.lower <= self.upper <= 255 or not 0 <= self.zero_point <= 255:
            raise ConfigError(
                f"a uint8 output cannot have zero point {self.zero_point} and limits "
                f"{self.lower}..{self.upper}: all are integers from 0 to 255"
            )


def choose_requantization(
    scale_in: float,
    scale_w: Tensor,
    bias: Tensor | None,
    scale_out: float,
    zero_point_out: int,
    lower: int = 0,
    upper: int = 255,
) -> Requantization:
    """The `Requantization` of a layer with `(O,)` weight scales and bias.

    `multiplier = scale_in * scale_w / scale_out` and `offset = bias / scale_out`, in float64, rounded once;
    what is too large for float32 becomes the largest finite value. Raises `ConfigError` for integers beyond
    0..255 and for `lower > upper`.

    >>> choose_requantization(0.5, torch.tensor([0.1]), None, 0.25, 128).multiplier
    tensor([0.2000])
    """
    multiplier = scale_w.detach().double() * scale_in / scale_out
    offset = torch.zeros_like(multiplier) if bias is None else bias.detach().double() / scale_out
    multiplier, offset = (value.clamp(-_LARGEST, _LARGEST).float() for value in (multiplier, offset))
    return Requantization(
        multiplier.contiguous(), offset.contiguous(), int(zero_point_out), int(lower), int(upper)
    )


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
    packed = _empty(_core.packed_static_conv_bytes(ints, weight.data_ptr(), winograd), dtype=torch.uint8)
    _core.pack_static_conv(ints, weight.data_ptr(), winograd, packed.data_ptr())
    return packed


def unpack_conv_static(packed: Tensor) -> Tensor:
    """The int8 weight in a packed tensor: `(out_channels, in_channels / groups, depth, height, width)`."""
    (out_channels, in_channels, groups, *axes), _ = _core.packed_static_conv_spec(packed.data_ptr())
    weight = _empty(out_channels, in_channels // groups, *axes[:_AXES], dtype=torch.int8)
    _core.unpack_static_conv(packed.data_ptr(), weight.data_ptr())
    return weight


def _channels_innermost(x: Tensor) -> Tensor:
    """`(N, C, *size)` with its channels innermost in memory: itself, or a copy."""
    if x.dim() == 4:
        return x.contiguous(memory_format=_channels_last)
    last = x.movedim(1, -1)
    return x if last.is_contiguous() else last.contiguous().movedim(-1, 1)


def _check_residual(residual: Tensor, y: Tensor) -> None:
    if residual.shape != y.shape or residual.dtype != _uint8:
        raise InputError(
            f"the residual is added to a uint8 output of shape {tuple(y.shape)}: it cannot be "
            f"{residual.dtype} of shape {tuple(residual.shape)}"
        )


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
    x = _channels_innermost(x)
    outputs = requantization.multiplier.shape[0]
    if x.dim() == 4:  # spelled out, because it is the usual case: the rest takes a microsecond more
        batch, channels, height, width = x.shape
        out_height, out_width = output_size
        depth = out_depth = 1
        row = out_width * outputs
        y = _empty_strided(
            (batch, outputs, out_height, out_width), (out_height * row, 1, row, outputs), dtype=_uint8
        )
    else:
        batch, channels, *size = x.shape
        lead = (1,) * (_AXES - len(size))
        depth, height, width = (*lead, *size)
        out_depth, out_height, out_width = (*lead, *output_size)
        y = _empty((batch, *output_size, outputs), dtype=_uint8).movedim(-1, 1)
    if residual is not None:
        _check_residual(residual, y)
        residual = _channels_innermost(residual)
    _core.conv_static(
        x.data_ptr(),
        batch,
        channels,
        depth,
        height,
        width,
        zero_point_in,
        packed.data_ptr(),
        out_depth,
        out_height,
        out_width,
        outputs,
        requantization.multiplier.data_ptr(),
        requantization.offset.data_ptr(),
        requantization.zero_point,
        requantization.lower,
        requantization.upper,
        0 if residual is None else residual.data_ptr(),
        residual_zero_point,
        residual_multiplier,
        y.data_ptr(),
        _threads(),
    )
    return y


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
    x = x.contiguous()
    outputs = requantization.multiplier.shape[0]
    if x.dim() == 2:
        rows, k = x.shape
        y = _empty(rows, outputs, dtype=_uint8)
    else:
        *sizes, k = x.shape
        rows = prod(sizes)
        y = _empty((*sizes, outputs), dtype=_uint8)
    if residual is not None:
        _check_residual(residual, y)
        residual = residual.contiguous()
    _core.linear_static(
        x.data_ptr(),
        rows,
        k,
        zero_point_in,
        packed.data_ptr(),
        outputs,
        requantization.multiplier.data_ptr(),
        requantization.offset.data_ptr(),
        requantization.zero_point,
        requantization.lower,
        requantization.upper,
        0 if residual is None else residual.data_ptr(),
        residual_zero_point,
        residual_multiplier,
        y.data_ptr(),
        _threads(),
    )
    return y


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
