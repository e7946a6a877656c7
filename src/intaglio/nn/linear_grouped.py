"""Linear whose activations have a range for each group of input features, row by row.

One large value among the inputs of a row then makes its own group coarse and no other: what language models
with gated layers need. May import ops, linear_dynamic, quantized and weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy

from intaglio.nn.linear_dynamic import Int8Linear
from intaglio.nn.quantized import register_quantized
from intaglio.nn.weights import quantize_weight
from intaglio.ops.library import is_direct
from intaglio.ops.linear import run_linear_dynamic
from intaglio.ops.packing import pack_weight, unpack_weight
from intaglio.qconfig import QConfig

__all__ = ["GroupedLinear"]


@register_quantized
class GroupedLinear(Int8Linear):
    """`y = x @ W.T + b` with int8 `W`, activations quantized for each row and each `group` input features.

    The sum over groups is made in float32, in their order. Takes and gives what `DynamicLinear` does.
    """

    kind = "grouped_linear"

    def __init__(
        self, in_features: int, out_features: int, *, group: int, bias: bool = True, path: str = ""
    ) -> None:
        super().__init__(path)
        self.in_features, self.out_features, self.group, self.has_bias = (
            in_features,
            out_features,
            group,
            bias,
        )
        self.names = tuple(f"packed_{i}" for i in range(-(-in_features // group)))
        for name in self.names:
            self.register_buffer(name, None, persistent=False)

    @classmethod
    def from_weight(
        cls, weight: Tensor, bias: Tensor | None, qconfig: QConfig, path: str, group: int
    ) -> GroupedLinear:
        """Quantize an `(out_features, in_features)` float weight and its bias."""
        data, scale = quantize_weight(weight, qconfig, path)
        quantized = cls(weight.shape[1], weight.shape[0], group=group, bias=bias is not None, path=path)
        state = {"weight": data, "weight_scale": scale}
        if bias is not None:
            state["bias"] = bias.detach().to(torch.float32)
        quantized.load_plain_state(state)
        return quantized

    def forward(self, x: Tensor) -> Tensor:
        """Multiply `(..., in_features)`; see the class."""
        if isinstance(x, Proxy):
            return self.as_fx_node(x)
        self.check_input(x, self.in_features)
        parts = torch.split(x, self.group, -1)
        y = self._multiply(parts[0], self.names[0])
        for part, name in zip(parts[1:], self.names[1:], strict=True):
            y = y + self._multiply(part, name)
        return self.refuse_gradient(x, y) if x.requires_grad else y

    def _multiply(self, x: Tensor, name: str) -> Tensor:
        packed: Tensor = self._buffers[name]  # type: ignore[assignment]
        if is_direct(x) and x.dtype is torch.float32:
            return run_linear_dynamic(x.detach().contiguous(), packed, self.out_features, True)
        y: Tensor = torch.ops.intaglio.linear_dynamic(
            x.contiguous(), packed, self.out_features, True, False, 0.0, 0.0
        )
        return y

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "group": self.group,
            "bias": self.has_bias,
        }

    def plain_state(self) -> dict[str, Tensor]:
        """Unpack."""
        parts = [unpack_weight(self._buffers[name]) for name in self.names]  # type: ignore[arg-type]
        state = {"weight": torch.cat([weight for weight, _, _ in parts], 1), "weight_scale": parts[0][1]}
        return state | ({"bias": parts[0][2]} if self.has_bias else {})

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Pack for the instruction set in use; the bias goes with the first group."""
        for number, (name, part) in enumerate(
            zip(self.names, torch.split(state["weight"], self.group, 1), strict=True)
        ):
            bias = state.get("bias") if number == 0 else None
            self._buffers[name] = pack_weight(part.contiguous(), state["weight_scale"], bias)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.has_bias}, "
            f"weight=int8 per channel, activations=uint8 per row and {self.group} features"
        )
