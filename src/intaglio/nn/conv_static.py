"""Convolutions between `QTensor`s, ordinary and transposed: int8 weights, uint8 in and out.

May import ops, static_product, conv_geometry and errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from intaglio.nn.conv_geometry import ConvGeometry, OrdinaryConv, TransposedConv
from intaglio.nn.fused import Clamp
from intaglio.nn.quantized import register_quantized
from intaglio.nn.static_product import StaticProduct
from intaglio.observer import InputMean
from intaglio.ops.conv_static import pack_conv_static, unpack_conv_static
from intaglio.ops.library import is_direct
from intaglio.ops.static_calls import ConvCall
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams
from intaglio.qtensor import QTensor

__all__ = ["QuantizedConv", "QuantizedConvTranspose"]

_Self = TypeVar("_Self", bound="StaticConvolution")


class StaticConvolution(StaticProduct, ConvGeometry):
    """The static arithmetic of an ordinary or a transposed convolution."""

    @classmethod
    def from_float(
        cls: type[_Self],
        module: nn.Module,
        qconfig: QConfig,
        path: str,
        output: QParams,
        clamp: Clamp = (None, None),
        input_mean: InputMean | None = None,
    ) -> _Self:
        """Quantize a float module of the same geometry, followed by a clamp."""
        quantized = cls(**cls.geometry_of(module), path=path)
        bias = module.bias
        assert bias is None or isinstance(bias, Tensor)
        quantized.fill(cls.weight_of(module), bias, qconfig, output, clamp, input_mean)
        return quantized

    def mean_error(self, error: Tensor, mean: Tensor, size: Sequence[int]) -> Tensor:
        """By how much the mean of each output is off, all pixels of a channel having its mean."""
        groups, inputs = self.groups, self.in_channels // self.groups
        sums = (error * self.tap_shares(size)).flatten(2).sum(2).view(groups, -1, inputs)
        return torch.einsum("goi,gi->go", sums, mean.view(groups, inputs)).reshape(-1)

    def tap_shares(self, size: Sequence[int]) -> Tensor:
        """Of each tap, the share of the outputs in which it meets a pixel; float64 in the kernel's shape."""
        raise NotImplementedError

    def weight_shape(self) -> tuple[int, ...]:
        """`(out_channels, in_channels / groups, *kernel_size)`."""
        return self.conv_spec().weight_shape

    def pack(self, weight: Tensor) -> Tensor:
        """Pack the plain int8 weight for the instruction set in use."""
        return pack_conv_static(self.conv_spec(), weight)

    def unpack(self) -> Tensor:
        """The plain int8 weight."""
        return unpack_conv_static(self.packed).view(self.weight_shape())

    def convolve(
        self, x: QTensor, asked: Sequence[int] | None = None, residual: QTensor | None = None
    ) -> QTensor:
        """Convolve a `QTensor` of `(N, C, *size)` or, as one sample, `(C, *size)`, and add the residual."""
        self.check_quantized(x)
        data = x.data
        if data.dim() == self.dims + 1:
            alone = QTensor(data.unsqueeze(0), x.qparams)
            added = None if residual is None else residual.unsqueeze(0)
            return self.give(self.convolve(alone, asked, added).data.squeeze(0))
        self.check_shape(data.shape)
        size = self.size_of(data.shape[2:], asked)
        if residual is not None:
            self.check_residual(residual, (data.shape[0], self.out_channels, *size))
        return self.give(self._plan(x, size, residual, keep=asked is None))

    def _plan(self, x: QTensor, size: Sequence[int], residual: QTensor | None, *, keep: bool) -> Tensor:
        """Convolve an input of a new shape or with new parameters."""
        zero_point, r = x.qparams.scalars[1], self.requantization(x.qparams)
        added = None if residual is None else residual.data
        added_zero_point, added_multiplier = self.residual_parameters(residual)
        if not is_direct(x.data, added):
            y: Tensor = torch.ops.intaglio.conv_static(
                *(x.data, zero_point, self.packed, r.multiplier, r.offset, r.zero_point, r.lower, r.upper),
                *(size, added, added_zero_point, added_multiplier),
            )
            return y
        call = ConvCall(
            *(x.data.shape, zero_point, self.packed, r, size),
            residual_zero_point=added_zero_point,
            residual_multiplier=added_multiplier,
        )
        if keep:
            self._planned = (x.qparams, call, None if residual is None else residual.qparams)
        return call(x.data, added)

    def size_of(self, size: Sequence[int], asked: Sequence[int] | None) -> list[int]:
        """The output's size for an input's."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return super().config() | self.product_config()

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.describe()}, {self.describe_clamp()}"


@register_quantized
class QuantizedConv(StaticConvolution, OrdinaryConv):
    """A convolution from `QTensor` to `QTensor`, with or without a clamping activation.

    Takes uint8 of shape `(N, in_channels, *size)`, or one sample without N, and gives
    `(N, out_channels, *output_size)` with the parameters that were observed. Padding is exact: it is the
    input's zero point. Raises `InputError` for float tensors and other shapes.
    """

    kind = "conv"

    def tap_shares(self, size: Sequence[int]) -> Tensor:
        """One, but for taps that meet padding: on small images those are many."""
        shares = torch.ones(self.kernel_size, dtype=torch.float64)
        if self.padding_mode != "zeros":
            return shares
        for axis, (length, outputs) in enumerate(zip(size, self.output_size(size), strict=True)):
            taps = torch.arange(self.kernel_size[axis])[:, None] * self.dilation[axis] - self.padding[axis][0]
            place = torch.arange(outputs) * self.stride[axis] + taps
            inside = ((place >= 0) & (place < length)).double().mean(1)
            shares *= inside.view(-1, *[1] * (self.dims - axis - 1))
        return shares

    def forward(self, x: QTensor, residual: QTensor | None = None) -> QTensor:
        """Convolve, and add `residual` before the clamp; see the class."""
        call = self.call_for(x, residual)
        if call is not None:
            return self.give(call(x.data, None if residual is None else residual.data))
        if isinstance(x, Proxy):
            proxy: QTensor = self.as_fx_node(*((x,) if residual is None else (x, residual)))
            return proxy
        return self.convolve(x, residual=residual)

    def size_of(self, size: Sequence[int], asked: Sequence[int] | None) -> list[int]:
        """The output's size for an input's."""
        return self.output_size(size)


@register_quantized
class QuantizedConvTranspose(StaticConvolution, TransposedConv):
    """A transposed convolution from `QTensor` to `QTensor`; see `QuantizedConv`."""

    kind = "conv_transpose"

    def tap_shares(self, size: Sequence[int]) -> Tensor:
        """Each output gets one in `stride` taps along each axis."""
        return torch.full(self.kernel_size, 1 / prod(self.stride), dtype=torch.float64)

    def forward(self, x: QTensor, output_size: Sequence[int] | None = None) -> QTensor:
        """Convolve; `output_size`, with or without N and channels, chooses among the possible sizes."""
        call = self.call_for(x) if output_size is None else None
        if call is not None:
            return self.give(call(x.data))
        if isinstance(x, Proxy):
            proxy: QTensor = self.as_fx_node(x, output_size)
            return proxy
        return self.convolve(x, output_size)

    def size_of(self, size: Sequence[int], asked: Sequence[int] | None) -> list[int]:
        """The output's size for an input's, or the one asked for, if it is possible."""
        return self.output_size(size, asked)
