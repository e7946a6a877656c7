"""What Linears with int8 weights between float values share: their weight, bias and state.

May import quantized, qparams and qtensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.nn.quantized import QuantizedModule, StateSpec
from intaglio.qparams import INT8, QParams
from intaglio.qtensor import QTensor

__all__ = ["Int8Linear"]


class Int8Linear(QuantizedModule):
    """A Linear with an `(out_features, in_features)` int8 weight, one scale for each output."""

    in_features: int
    out_features: int
    has_bias: bool

    @property
    def weight(self) -> QTensor:
        """The `(out_features, in_features)` int8 weight with its scales, unpacked."""
        state = self.plain_state()
        scale = state["weight_scale"]
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
        return QTensor(state["weight"], QParams(scale, zero_point, INT8, 0, -127, 127))

    @property
    def bias(self) -> Tensor | None:
        """The `(out_features,)` float32 bias, or None."""
        return self.plain_state().get("bias")

    def state_spec(self) -> StateSpec:
        """`weight`, `weight_scale` and, if there is one, `bias`."""
        spec: StateSpec = {
            "weight": ((self.out_features, self.in_features), torch.int8),
            "weight_scale": ((self.out_features,), torch.float32),
        }
        if self.has_bias:
            spec["bias"] = ((self.out_features,), torch.float32)
        return spec

    def float_bytes(self) -> int:
        """Bytes of the float weight and bias."""
        return 4 * self.out_features * (self.in_features + self.has_bias)
