"""Linear: the dynamic quantized form, and the rule of this form, of linear_half.py's and linear_grouped.py's.

Weights are int8 per output channel; activations are quantized to uint8 as they come, per row unless
the qconfig says otherwise. May import ops, rules, linear_dynamic, quantized, linear_half, linear_grouped and
errors.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from intaglio.fake_quantize import round_dynamically
from intaglio.nn.linear_dynamic import Int8Linear
from intaglio.nn.linear_grouped import GroupedLinear
from intaglio.nn.linear_half import HalfLinear
from intaglio.nn.linear_static import QuantizedLinear
from intaglio.nn.quantized import register_quantized
from intaglio.nn.static_product import input_mean_of
from intaglio.nn.trained import TrainedLayer
from intaglio.nn.weights import quantize_weight
from intaglio.ops.library import is_eager
from intaglio.ops.linear import run_linear_columns, run_linear_dynamic
from intaglio.ops.packing import MAX_K, pack_weight, unpack_weight
from intaglio.qconfig import QConfig
from intaglio.qparams import FLOAT16, INT8, PerGroup, PerRow, PerTensor, QParams
from intaglio.rules import Example, OpRule, StaticForm, TrainedForm, register_rule

__all__ = ["DynamicLinear"]

_float32 = torch.float32


@register_quantized
class DynamicLinear(Int8Linear):
    """`y = x @ W.T + b` with int8 `W` and activations quantized dynamically.

    Takes `(..., in_features)` of any float dtype on the CPU and gives `(..., out_features)` of the same
    dtype. A row that holds NaN or infinity comes out as NaN; other rows are not touched by it. Raises
    `InputError` for other inputs and in training mode.
    """

    kind = "dynamic_linear"
    packed: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, per_row: bool = True, path: str = ""
    ) -> None:
        super().__init__(path)
        self.in_features, self.out_features = in_features, out_features
        self.has_bias, self.per_row = bias, per_row
        self.register_buffer("packed", None, persistent=False)

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: QConfig, path: str = "") -> DynamicLinear:
        """Quantize an `nn.Linear`, or GPT-2's `Conv1D`, whose weight is stored transposed."""
        return cls.from_weight(*_weight_and_bias(module), qconfig, path)

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None, qconfig: QConfig, path: str) -> DynamicLinear:
        """Quantize an `(out_features, in_features)` float weight and its bias."""
        data, scale = quantize_weight(weight, qconfig, path)
        per_row = not isinstance(_granularity(qconfig), PerTensor)
        quantized = cls(weight.shape[1], weight.shape[0], bias=bias is not None, per_row=per_row, path=path)
        state = {"weight": data, "weight_scale": scale}
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
                y = run_linear_dynamic(x, packed, self.out_features, self.per_row)
            except ValueError:
                self.check_input(x, self.in_features)
                raise
            return self.refuse_gradient(x, y) if x.requires_grad else y
        if isinstance(x, Proxy):
            return self.as_fx_node(x)
        self.check_input(x, self.in_features)
        op = torch.ops.intaglio.linear_dynamic
        output: Tensor = op(x, self.packed, self.out_features, self.per_row, False, 0.0, 0.0)
        return output

    def columns(self, x: Tensor, begin: int, end: int) -> Tensor:
        """Outputs `begin..end-1` alone: `(..., end - begin)`. For layers that pack several projections."""
        self.check_input(x, self.in_features)
        if type(x) is Tensor and x.dtype is _float32 and x.is_cpu and not x.requires_grad and is_eager():
            return run_linear_columns(x, self.packed, begin, end, self.per_row)
        y: Tensor = torch.ops.intaglio.linear_columns(x, self.packed, begin, end, self.per_row)
        return y

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.has_bias,
            "per_row": self.per_row,
        }

    def plain_state(self) -> dict[str, Tensor]:
        """Unpack."""
        weight, scale, bias = unpack_weight(self.packed)
        state = {"weight": weight, "weight_scale": scale}
        return state | {"bias": bias} if self.has_bias else state

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Pack for the instruction set in use."""
        self.packed = pack_weight(state["weight"], state["weight_scale"], state.get("bias"))

    def extra_repr(self) -> str:
        """What `print` shows."""
        granularity = "per row" if self.per_row else "per tensor"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.has_bias}, "
            f"weight=int8 per channel, activations=uint8 {granularity}"
        )


def _weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The `(out_features, in_features)` weight and the bias; GPT-2's `Conv1D` stores the transpose."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    return _as_linear(module, weight), bias


def _as_linear(module: nn.Module, weight: Tensor) -> Tensor:
    return weight if isinstance(module, nn.Linear) else weight.T


def _lower(module: nn.Module, qconfig: QConfig, path: str) -> nn.Module:
    if qconfig.weight().dtype is FLOAT16:
        return HalfLinear.from_weight(*_weight_and_bias(module), path)
    granularity = _granularity(qconfig)
    if isinstance(granularity, PerGroup):
        return GroupedLinear.from_weight(*_weight_and_bias(module), qconfig, path, granularity.size)
    return DynamicLinear.from_float(module, qconfig, path)


def _granularity(qconfig: QConfig) -> Any:
    return getattr(qconfig.activation(), "granularity", PerRow())


def _lower_static(module: nn.Module, qconfig: QConfig, path: str, output: QParams | None) -> nn.Module:
    assert output is not None
    return QuantizedLinear.from_weight(
        *_weight_and_bias(module), qconfig, path, output, input_mean=input_mean_of(module)
    )


def _refuse(module: nn.Module, qconfig: QConfig) -> str | None:
    weight, _ = _weight_and_bias(module)
    k = weight.shape[1]
    if k > MAX_K and qconfig.weight().dtype is INT8:
        return f"{k} input features exceed {MAX_K}, beyond which int32 sums could overflow"
    if weight.numel() == 0:
        return "its weight is empty"
    return None


def _example() -> Example:
    return nn.Linear(37, 19), (torch.randn(5, 3, 37),)


def _example_without_bias() -> Example:
    return nn.Linear(64, 96, bias=False), (torch.randn(4, 64),)


def _train(module: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    assert isinstance(module, TrainedLayer)
    if module.quantizes_input and module.rounds:
        x = round_dynamically(x, _granularity(module.qconfig))  # type: ignore[arg-type]
    bias = module.bias
    assert bias is None or isinstance(bias, Tensor)
    return F.linear(x, _as_linear(module, weights["weight"]), bias)


LINEAR = register_rule(
    OpRule(
        name="Linear",
        float_types=(nn.Linear,),
        float_type_names=frozenset({"transformers.pytorch_utils.Conv1D"}),
        static=StaticForm(
            _lower_static,
            input_channels=lambda module: (_weight_and_bias(module)[0].shape[1], -1),
            refuse=_refuse,
            examples=(_example, _example_without_bias),
        ),
        trained=TrainedForm(
            _train,
            rows=_as_linear,
            unrows=_as_linear,  # a transposition is its own inverse
        ),
        lower_dynamic=_lower,
        weight_dtypes=frozenset({"int8", "float16"}),
        default_for=frozenset({"int8", "float16"}),
        refuse=_refuse,
        examples=(_example, _example_without_bias),
    )
)
