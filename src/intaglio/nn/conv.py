"""Conv1d/2d/3d: the dynamic quantized form, the rule, and what conv_transpose.py shares with it.

Weights are int8 per output channel; each sample of a batch is quantized to uint8 with a range of its own,
and padding is exact (a border of the zero point). May import ops, rules, quantized, conv_geometry,
conv_static, linear and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from intaglio.fake_quantize import round_samples
from intaglio.nn.conv_geometry import ConvGeometry, FloatConv, FloatConvTranspose, OrdinaryConv
from intaglio.nn.conv_static import QuantizedConv, StaticConvolution
from intaglio.nn.quantized import StateSpec, register_quantized
from intaglio.nn.static_product import input_mean_of
from intaglio.nn.trained import TrainedLayer
from intaglio.nn.weights import quantize_weight
from intaglio.ops.conv import is_channels_last, pack_conv, run_conv_dynamic, unpack_conv
from intaglio.ops.library import is_eager
from intaglio.ops.packing import MAX_K
from intaglio.qconfig import QConfig
from intaglio.qparams import INT8, QParams
from intaglio.qtensor import QTensor
from intaglio.rules import Example, OpRule, StaticForm, TrainedForm, register_rule

__all__ = ["DynamicConv", "DynamicConvolution", "conv_channels", "example_of", "refuse_conv", "static_form"]

_Self = TypeVar("_Self", bound="DynamicConvolution")


class DynamicConvolution(ConvGeometry):
    """The dynamic arithmetic of an ordinary or a transposed convolution."""

    packed: Tensor

    def __init__(self, *sizes: Any, **more: Any) -> None:
        super().__init__(*sizes, **more)
        self.register_buffer("packed", None, persistent=False)

    @classmethod
    def from_float(cls: type[_Self], module: nn.Module, qconfig: QConfig, path: str = "") -> _Self:
        """Quantize a float module of the same geometry."""
        quantized = cls(**cls.geometry_of(module), path=path)
        data, scale = quantize_weight(cls.weight_of(module), qconfig, path)
        state = {"weight": data, "weight_scale": scale}
        if module.bias is not None:
            assert isinstance(module.bias, Tensor)
            state["bias"] = module.bias.detach().to(torch.float32)
        quantized.load_plain_state(state)
        return quantized

    @property
    def weight(self) -> QTensor:
        """The int8 weight with its scales, `(out_channels, in_channels / groups, *kernel_size)`.

        Output channels come first in a transposed convolution too.
        """
        data, scale, _ = unpack_conv(self.packed)
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
        return QTensor(
            data.view(self.conv_spec().weight_shape), QParams(scale, zero_point, INT8, 0, -127, 127)
        )

    @property
    def bias(self) -> Tensor | None:
        """The `(out_channels,)` float32 bias, or None."""
        return unpack_conv(self.packed)[2] if self.has_bias else None

    def state_spec(self) -> StateSpec:
        """`weight`, as `conv_spec().weight_shape` says, `weight_scale` and, if there is one, `bias`."""
        spec: StateSpec = {
            "weight": (self.conv_spec().weight_shape, torch.int8),
            "weight_scale": ((self.out_channels,), torch.float32),
        }
        if self.has_bias:
            spec["bias"] = ((self.out_channels,), torch.float32)
        return spec

    def plain_state(self) -> dict[str, Tensor]:
        """Unpack."""
        weight, scale, bias = unpack_conv(self.packed)
        state = {"weight": weight.view(self.conv_spec().weight_shape), "weight_scale": scale}
        return state | {"bias": bias} if self.has_bias else state

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Pack for the instruction set in use."""
        self.packed = pack_conv(self.conv_spec(), state["weight"], state["weight_scale"], state.get("bias"))

    def convolve(self, x: Tensor, size_of: Callable[[Sequence[int]], Sequence[int]]) -> Tensor:
        """Convolve `(N, C, *size)` or, as one sample, `(C, *size)`; `size_of(size)` is the output's."""
        self.check_input(x)
        if x.dim() == self.dims + 1:
            return self.convolve(x.unsqueeze(0), size_of).squeeze(0)
        self.check_shape(x.shape)
        output_size = size_of(x.shape[2:])
        channels_last = self.dims > 1 and (self.channels_last or is_channels_last(x))
        if type(x) is Tensor and x.dtype is torch.float32 and x.is_cpu and is_eager():
            found = run_conv_dynamic(x, self.packed, self.out_channels, output_size, channels_last)
            return self.refuse_gradient(x, found) if x.requires_grad else found
        op = torch.ops.intaglio.conv_dynamic
        y: Tensor = op(x, self.packed, self.out_channels, output_size, channels_last)
        return y

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.describe()}, weight=int8 per channel, activations=uint8 per sample"


@register_quantized
class DynamicConv(DynamicConvolution, OrdinaryConv):
    """A convolution with int8 weight and activations quantized dynamically, sample by sample.

    Takes `(N, in_channels, *size)` of any float dtype on the CPU, or one sample without N, contiguous or
    channels-last, and gives `(N, out_channels, *output_size)` of the same dtype, in the memory format that
    the float module would give. A sample that holds NaN or infinity comes out as NaN; other samples are not
    touched by it. `padding` holds what stands before and after each axis. Raises `InputError` for other
    inputs and in training mode.
    """

    kind = "dynamic_conv"

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; see the class."""
        if isinstance(x, Proxy):
            return self.as_fx_node(x)
        return self.convolve(x, self.output_size)


def refuse_conv(module: nn.Module, qconfig: QConfig) -> str | None:
    """Why a convolution, ordinary or transposed, must stay float."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if weight.numel() == 0:
        return "its weight is empty"
    if weight.is_complex():
        return "its weight is complex"
    k = int(module.in_channels) // int(module.groups) * weight[0, 0].numel()  # type: ignore[arg-type]
    if k > MAX_K:
        return f"{k} products in each output exceed {MAX_K}, beyond which int32 sums could overflow"
    return None


def example_of(make: Callable[[], nn.Module], *shape: int) -> Callable[[], Example]:
    """An example of a rule: a float module and a random input."""
    return lambda: (make(), (torch.randn(*shape),))


def conv_channels(module: nn.Module) -> tuple[int, int]:
    """How many channels the input of a convolution has, and their axis, counted from the last."""
    assert isinstance(module, FloatConv | FloatConvTranspose)
    return module.in_channels, -(len(module.kernel_size) + 1)


def static_form(quantized: type[StaticConvolution], *examples: Callable[[], Example]) -> StaticForm:
    """The form between `QTensor`s that `quantized` is."""

    def lower(module: nn.Module, qconfig: QConfig, path: str, output: QParams | None) -> nn.Module:
        assert output is not None
        return quantized.from_float(module, qconfig, path, output, input_mean=input_mean_of(module))

    return StaticForm(lower, input_channels=conv_channels, refuse=refuse_conv, examples=examples)


def _train(module: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    assert isinstance(module, TrainedLayer)
    assert isinstance(module, FloatConv)
    if module.quantizes_input and module.rounds:
        x = round_samples(x, len(module.kernel_size))
    y: Tensor = module._conv_forward(x, weights["weight"], module.bias)
    return y


_EXAMPLES = (
    example_of(lambda: nn.Conv1d(6, 8, 5, padding="same"), 2, 6, 20),
    example_of(lambda: nn.Conv2d(8, 20, 3, padding=1), 2, 8, 9, 10),
    example_of(lambda: nn.Conv2d(12, 12, 3, 2, 1, groups=12, bias=False), 2, 12, 9, 9),
    example_of(lambda: nn.Conv2d(8, 8, 3, padding=2, groups=2, padding_mode="reflect"), 2, 8, 7, 7),
    example_of(lambda: nn.Conv3d(3, 5, (1, 2, 3), dilation=(1, 2, 1)), 1, 3, 4, 6, 6),
)

CONV = register_rule(
    OpRule(
        name="Conv",
        float_types=(nn.Conv1d, nn.Conv2d, nn.Conv3d),
        static=static_form(QuantizedConv, *_EXAMPLES),
        trained=TrainedForm(_train),
        lower_dynamic=DynamicConv.from_float,
        weight_dtypes=frozenset({"int8"}),
        default_for=frozenset({"int8"}),
        refuse=refuse_conv,
        examples=_EXAMPLES,
    )
)
