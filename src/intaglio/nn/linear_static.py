"""Linear between `QTensor`s: int8 weight per output feature, uint8 in and out.

May import ops, static_product and errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy

from intaglio.errors import InputError
from intaglio.nn.fused import Clamp
from intaglio.nn.quantized import register_quantized
from intaglio.nn.static_product import StaticProduct
from intaglio.observer import InputMean
from intaglio.ops.conv_static import pack_linear_static, unpack_linear_static
from intaglio.ops.library import is_direct
from intaglio.ops.static_calls import LinearCall
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams
from intaglio.qtensor import QTensor

__all__ = ["QuantizedLinear"]


@register_quantized
class QuantizedLinear(StaticProduct):
    """`y = x @ W.T + b` from `QTensor` to `QTensor`, with or without a clamping activation.

    Takes uint8 of shape `(..., in_features)` and gives `(..., out_features)` with the parameters that were
    observed. Raises `InputError` for float tensors and other widths.
    """

    kind = "linear"

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, **more: Any) -> None:
        super().__init__(**more)
        self.in_features, self.out_features, self.has_bias = in_features, out_features, bias

    @classmethod
    def from_weight(
        cls,
        weight: Tensor,
        bias: Tensor | None,
        qconfig: QConfig,
        path: str,
        output: QParams,
        clamp: Clamp = (None, None),
        input_mean: InputMean | None = None,
    ) -> QuantizedLinear:
        """Quantize an `(out_features, in_features)` float weight and its bias, followed by a clamp."""
        quantized = cls(weight.shape[1], weight.shape[0], bias=bias is not None, path=path)
        quantized.fill(weight, bias, qconfig, output, clamp, input_mean)
        return quantized

    def forward(self, x: QTensor, residual: QTensor | None = None) -> QTensor:
        """Multiply, and add `residual` before the clamp; see the class."""
        known = self.call_for(x, residual)
        if known is not None:
            return self.give(known(x.data, None if residual is None else residual.data))
        if isinstance(x, Proxy):
            proxy: QTensor = self.as_fx_node(*((x,) if residual is None else (x, residual)))
            return proxy
        self.check_quantized(x)
        data = x.data
        if data.dim() == 0 or data.shape[-1] != self.in_features:
            raise InputError(
                f"{self.where()}: input has shape {tuple(data.shape)}, "
                f"but its last dimension must be {self.in_features}"
            )
        if residual is not None:
            self.check_residual(residual, (*data.shape[:-1], self.out_features))
        return self.give(self._plan(x, residual))

    def _plan(self, x: QTensor, residual: QTensor | None) -> Tensor:
        """Multiply an input of a new shape or with new parameters."""
        zero_point, r = x.qparams.scalars[1], self.requantization(x.qparams)
        added = None if residual is None else residual.data
        added_zero_point, added_multiplier = self.residual_parameters(residual)
        if not is_direct(x.data, added):
            y: Tensor = torch.ops.intaglio.linear_static(
                *(x.data, zero_point, self.packed, r.multiplier, r.offset, r.zero_point, r.lower, r.upper),
                *(added, added_zero_point, added_multiplier),
            )
            return y
        call = LinearCall(
            *(x.data.shape, zero_point, self.packed, r),
            residual_zero_point=added_zero_point,
            residual_multiplier=added_multiplier,
        )
        self._planned = (x.qparams, call, None if residual is None else residual.qparams)
        return call(x.data, added)

    def mean_error(self, error: Tensor, mean: Tensor, size: Sequence[int]) -> Tensor:
        """By how much the mean of each output is off."""
        return error @ mean

    def weight_shape(self) -> tuple[int, ...]:
        """`(out_features, in_features)`."""
        return (self.out_features, self.in_features)

    def pack(self, weight: Tensor) -> Tensor:
        """Pack the plain int8 weight for the instruction set in use."""
        return pack_linear_static(weight)

    def unpack(self) -> Tensor:
        """The plain int8 weight."""
        return unpack_linear_static(self.packed)

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.has_bias,
        } | self.product_config()

    def float_bytes(self) -> int:
        """Bytes of the float weight and bias."""
        return 4 * self.out_features * (self.in_features + self.has_bias)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.has_bias}, "
            f"{self.describe_clamp()}"
        )
