"""Linear with float16 weights: the form that `dtype=torch.float16` gives.

Weights are rounded to IEEE half precision and computed with in float32; activations are not quantized.
The rule that leads here stands in linear.py. May import ops, quantized and errors.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy

from intaglio.nn.quantized import QuantizedModule, StateSpec, register_quantized
from intaglio.ops.half import pack_half_weight, run_linear_half, unpack_half_weight
from intaglio.ops.library import is_eager

__all__ = ["HalfLinear", "round_to_half"]

_float32 = torch.float32

LARGEST_HALF = 65504.0


def round_to_half(weight: Tensor, path: str) -> Tensor:
    """A weight, not an empty one, in float16; values beyond its range are saturated to +-65504.

    Warns, naming the module, when any is.
    """
    weight = weight.detach()
    low, high = torch.aminmax(weight)
    if max(-float(low), float(high)) > LARGEST_HALF:
        beyond = int((weight.abs() > LARGEST_HALF).sum())
        warnings.warn(
            f"'{path}': {beyond} of {weight.numel()} weights lie beyond float16's range and were saturated "
            f"to +-{LARGEST_HALF:.0f}; keep the module in float with {{'{path}': None}}, or use int8",
            UserWarning,
            stacklevel=2,
        )
    return weight.to(torch.float16, copy=True).clamp_(-LARGEST_HALF, LARGEST_HALF)


@register_quantized
class HalfLinear(QuantizedModule):
    """`y = x @ W.T + b` with float16 `W`, computed in float32.

    Takes `(..., in_features)` of any float dtype on the CPU and gives `(..., out_features)` of the same
    dtype. Raises `InputError` for other inputs and in training mode.
    """

    kind = "half_linear"
    packed: Tensor

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, path: str = "") -> None:
        super().__init__(path)
        self.in_features, self.out_features = in_features, out_features
        self.has_bias = bias
        self.register_buffer("packed", None, persistent=False)

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None, path: str) -> HalfLinear:
        """Round an `(out_features, in_features)` float weight; the bias stays float32."""
        quantized = cls(weight.shape[1], weight.shape[0], bias=bias is not None, path=path)
        state = {"weight": round_to_half(weight, path)}
        if bias is not None:
            state["bias"] = bias.detach().to(torch.float32)
        quantized.load_plain_state(state)
        return quantized

    def forward(self, x: Tensor) -> Tensor:
        """Multiply `(..., in_features)`; see the class."""
        if type(x) is Tensor and x.dtype is _float32 and x.is_cpu and not self.training and is_eager():
            # From the dict: nn.Module's attribute access to a buffer takes longer than the kernel's call.
            packed: Tensor = self._buffers["packed"]  # type: ignore[assignment]
            try:
                y = run_linear_half(x, packed, self.out_features)
            except ValueError:
                self.check_input(x, self.in_features)
                raise
            return self.refuse_gradient(x, y) if x.requires_grad else y
        if isinstance(x, Proxy):
            return self.as_fx_node(x)
        self.check_input(x, self.in_features)
        output: Tensor = torch.ops.intaglio.linear_half(x, self.packed, self.out_features)
        return output

    @property
    def weight(self) -> Tensor:
        """The `(out_features, in_features)` float16 weight, unpacked."""
        return unpack_half_weight(self.packed)[0]

    @property
    def bias(self) -> Tensor | None:
        """The `(out_features,)` float32 bias, or None."""
        return unpack_half_weight(self.packed)[1] if self.has_bias else None

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"in_features": self.in_features, "out_features": self.out_features, "bias": self.has_bias}

    def state_spec(self) -> StateSpec:
        """`weight` and, if there is one, `bias`."""
        spec: StateSpec = {"weight": ((self.out_features, self.in_features), torch.float16)}
        if self.has_bias:
            spec["bias"] = ((self.out_features,), torch.float32)
        return spec

    def plain_state(self) -> dict[str, Tensor]:
        """Unpack."""
        weight, bias = unpack_half_weight(self.packed)
        return {"weight": weight, "bias": bias} if self.has_bias else {"weight": weight}

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Pack for the instruction set in use."""
        self.packed = pack_half_weight(state["weight"], state.get("bias"))

    def float_bytes(self) -> int:
        """Bytes of the float weight and bias."""
        return 4 * self.out_features * (self.in_features + self.has_bias)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.has_bias}, "
            "weight=float16, computed in float32"
        )
