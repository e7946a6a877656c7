"""The dynamic quantized convolutions: packing, a direct call and a `torch.library` op.

Ordinary and transposed, one to three dimensions: the kernels see three, with leading axes of size 1.
May import packing, library, errors and _core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import ConfigError
from intaglio.ops.library import define_op
from intaglio.ops.packing import MAX_K
from intaglio.runtime.geometry import PADDING_MODES, conv_integers

__all__ = [
    "PADDING_MODES",
    "ConvSpec",
    "check_spec",
    "is_channels_last",
    "pack_conv",
    "run_conv_dynamic",
    "unpack_conv",
]

_AXES = 3
_LARGEST = 2**31 - 1
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_empty = torch.empty
_float32 = torch.float32
_threads = torch.get_num_threads


@dataclass(frozen=True)
class ConvSpec:
    """What fixes a convolution beside its weight; `kernel` and what follows have one value an axis.

    `padding` is what stands before the first pixel (what stands after the last follows from the output's
    size), or what a transposed convolution cuts off there.
    """

    out_channels: int
    in_channels: int
    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    transposed: bool = False
    padding_mode: str = "zeros"

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """`(out_channels, in_channels / groups, *kernel)`, of transposed convolutions too."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    def to_ints(self) -> list[int]:
        """The form in which it crosses to the kernels: three axes, depth, height and width."""
        channels = (self.out_channels, self.in_channels, self.groups)
        return conv_integers(
            *(channels, self.kernel, self.stride, self.dilation, self.padding),
            transposed=self.transposed,
            padding_mode=self.padding_mode,
        )


def pack_conv(spec: ConvSpec, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Pack a `spec.weight_shape` int8 weight and `(out_channels,)` float32 scales and bias for this CPU.

    Returns a 1-d uint8 tensor that holds the hyperparameters too. Raises `ConfigError` for hyperparameters
    that make no convolution, for other shapes and dtypes, and where in_channels / groups times the kernel's
    volume exceeds `MAX_K`.
    """
    check_spec(spec)
    if weight.shape != spec.weight_shape or weight.dtype != torch.int8:
        raise ConfigError(
            f"pack_conv takes a {spec.weight_shape} int8 weight, not {tuple(weight.shape)} {weight.dtype}"
        )
    for name, values in (("scale", scale), ("bias", bias)):
        if values is not None and (values.shape != (spec.out_channels,) or values.dtype != torch.float32):
            raise ConfigError(
                f"pack_conv takes a ({spec.out_channels},) float32 {name}, "
                f"not {tuple(values.shape)} {values.dtype}"
            )
    k = weight[0].numel()
    if k > MAX_K:
        raise ConfigError(f"K = {k} exceeds {MAX_K}, beyond which int32 sums could overflow")
    return _pack(spec.to_ints(), weight.contiguous(), scale.contiguous(), bias)


def check_spec(spec: ConvSpec) -> None:
    """Raise `ConfigError` for what the kernels would divide by, or count past the end with."""
    at_least = {"kernel": 1, "stride": 1, "dilation": 1, "padding": 0}
    values = {name: getattr(spec, name) for name in at_least}
    axes = len(spec.kernel)
    if (
        not 1 <= axes <= _AXES
        or any(len(v) != axes or min(v) < at_least[n] or max(v) > _LARGEST for n, v in values.items())
        or min(spec.groups, spec.in_channels, spec.out_channels) < 1
        or spec.in_channels % spec.groups
        or spec.out_channels % spec.groups
    ):
        raise ConfigError(f"these are not the hyperparameters of a convolution: {spec}")


def _pack(ints: list[int], weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    packed = _empty(_core.packed_conv_bytes(ints), dtype=torch.uint8)
    bias = None if bias is None else bias.contiguous()
    bias_address = 0 if bias is None else bias.data_ptr()
    _core.pack_conv(ints, weight.data_ptr(), scale.data_ptr(), bias_address, packed.data_ptr())
    return packed


def unpack_conv(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The int8 weight, `(out_channels,)` float32 scales and bias in a packed tensor.

    The weight has three kernel axes: `(out_channels, in_channels / groups, depth, height, width)`.
    """
    (out_channels, in_channels, groups, *axes), _ = _core.packed_conv_spec(packed.data_ptr())
    weight = _empty(out_channels, in_channels // groups, *axes[:_AXES], dtype=torch.int8)
    scale, bias = (_empty(out_channels, dtype=torch.float32) for _ in range(2))
    _core.unpack_conv(packed.data_ptr(), weight.data_ptr(), scale.data_ptr(), bias.data_ptr())
    return weight, scale, bias


def is_channels_last(x: Tensor) -> bool:
    """Whether `(N, C, ...)` lies in memory with its channels innermost, and is not plainly contiguous."""
    return not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def run_conv_dynamic(
    x: Tensor, packed: Tensor, out_channels: int, output_size: Sequence[int], channels_last: bool
) -> Tensor:
    """Convolve float32 `(N, C, *size)` on the CPU; `(N, out_channels, *output_size)` float32.

    `channels_last` says how the result lies in memory; `x` may lie either way. The caller has checked
    dtype, device and dimensions; `ValueError` if C is not the weight's or an axis is empty.
    """
    x_channels_last = is_channels_last(x)
    if not x_channels_last:
        x = x.contiguous()
    batch, channels, *size = x.shape
    lead = (1,) * (_AXES - len(size))
    depth, height, width = (*lead, *size)
    out_depth, out_height, out_width = (*lead, *output_size)
    shape = (batch, out_channels, *output_size)
    y = (
        _empty(shape, dtype=_float32, memory_format=_CHANNELS_LAST[x.dim()])
        if channels_last
        else _empty(shape, dtype=_float32)
    )
    _core.conv_dynamic(
        x.data_ptr(),
        batch,
        channels,
        depth,
        height,
        width,
        x_channels_last,
        packed.data_ptr(),
        out_depth,
        out_height,
        out_width,
        y.data_ptr(),
        channels_last,
        _threads(),
    )
    return y


def conv_dynamic(
    x: Tensor, packed: Tensor, out_channels: int, output_size: Sequence[int], channels_last: bool
) -> Tensor:
    """CPU kernel of `intaglio::conv_dynamic`: as `run_conv_dynamic`, for any float dtype.

    A weight packed for another instruction set (an exported program that moved) is packed again for
    each call: right, but slow.
    """
    ints, isa = _core.packed_conv_spec(packed.data_ptr())
    if isa != _core.active_isa():
        packed = _pack(ints, *unpack_conv(packed))
    y = run_conv_dynamic(x.to(torch.float32), packed, out_channels, output_size, channels_last)
    return y.to(x.dtype)


def _fake_conv_dynamic(
    x: Tensor, packed: Tensor, out_channels: int, output_size: Sequence[int], channels_last: bool
) -> Tensor:
    shape = [x.shape[0], out_channels, *output_size]
    memory_format = _CHANNELS_LAST[x.dim()] if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


define_op(
    "conv_dynamic(Tensor x, Tensor packed, SymInt out_channels, SymInt[] output_size, "
    "bool channels_last) -> Tensor",
    conv_dynamic,
    _fake_conv_dynamic,
)
