"""`StaticProduct`: what Linear and the convolutions between `QTensor`s share: weight, bias, clamp, state.

An activation that only clamps (ReLU, ReLU6, Hardtanh) is part of the output's limits and costs nothing. May
import ops, static, linear and errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from intaglio.errors import InputError
from intaglio.nn.fused import Clamp
from intaglio.nn.quantized import StateSpec
from intaglio.nn.static import StaticModule, clamped_limits
from intaglio.nn.weights import quantize_weight
from intaglio.observer import InputMean
from intaglio.ops.library import is_direct
from intaglio.ops.requantization import Requantization, choose_requantization
from intaglio.ops.static_calls import ConvCall, LinearCall
from intaglio.qconfig import QConfig
from intaglio.qparams import INT8, QParams
from intaglio.qtensor import QTensor

__all__ = ["Clamp", "StaticProduct", "input_mean_of"]

_uint8 = torch.uint8
_Self = TypeVar("_Self", bound="StaticProduct")


def input_mean_of(module: nn.Module) -> InputMean | None:
    """What `prepare` recorded of the input of a float layer, if that has seen any."""
    recorder = module._modules.get("input_mean")
    return recorder if isinstance(recorder, InputMean) and recorder.mean() is not None else None


class StaticProduct(StaticModule):
    """A layer with an int8 weight per output channel.

    `clamp` are the integers between which an activation keeps the output; without one, the output's limits.
    """

    packed: Tensor
    weight_scale: Tensor
    has_bias: bool

    def __init__(self, *args: Any, clamp: Sequence[int] | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.clamp = self.limits if clamp is None else (clamp[0], clamp[1])
        for name in ("packed", "weight_scale", "bias"):
            self.register_buffer(name, None, persistent=False)
        # For the parameters of an input, and those of what is added if anything is: the call worked out.
        self._planned: tuple[QParams, ConvCall | LinearCall, QParams | None] | None = None

    # ---- What a subclass defines -----------------------------------------------------------------------

    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the plain weight, output channels first."""
        raise NotImplementedError

    def pack(self, weight: Tensor) -> Tensor:
        """Pack the plain int8 weight for the instruction set in use."""
        raise NotImplementedError

    def unpack(self) -> Tensor:
        """The plain int8 weight."""
        raise NotImplementedError

    # ---- What they share ---------------------------------------------------------------------------------

    def mean_error(self, error: Tensor, mean: Tensor, size: Sequence[int]) -> Tensor:
        """By how much the mean of each output is off, `(O,) float64`.

        `error` is what rounding did to the weight, in its shape; `mean` that of each channel of the input,
        `(C,) float64`; `size` that of its image.
        """
        raise NotImplementedError

    def fill(
        self,
        weight: Tensor,
        bias: Tensor | None,
        qconfig: QConfig,
        output: QParams,
        clamp: Clamp,
        input_mean: InputMean | None,
    ) -> None:
        """Quantize a float weight and its bias, and give results with these parameters.

        The bias takes up by how much rounding the weights shifts the outputs for the mean input.
        """
        self.set_output(output)
        self.clamp = clamped_limits(output, *clamp)
        data, scale = quantize_weight(weight, qconfig, self.path)
        state = {"weight": data, "weight_scale": scale, **self.output_state()}
        if bias is not None:
            state["bias"] = bias.detach().to(torch.float32)
        mean = None if input_mean is None else input_mean.mean()
        if input_mean is not None and mean is not None:
            shape = (-1, *[1] * (data.dim() - 1))
            error = data.double() * scale.double().view(shape) - weight.detach().double()
            exact = bias.detach().double() if bias is not None else 0.0
            state["bias"] = (exact - self.mean_error(error, mean, input_mean.size())).float()
            self.has_bias = True
        self.load_plain_state(state)

    @property
    def weight(self) -> QTensor:
        """The int8 weight with its scales, output channels first."""
        zero_point = torch.zeros_like(self.weight_scale, dtype=torch.int32)
        return QTensor(self.unpack(), QParams(self.weight_scale, zero_point, INT8, 0, -127, 127))

    def requantization(self, x: QParams) -> Requantization:
        """How sums are requantized whose input has the parameters `x`."""
        return choose_requantization(
            x.scalars[0], self.weight_scale, self._buffers["bias"], *self.output.scalars, *self.clamp
        )

    def call_for(self, x: Any, residual: Any = None) -> ConvCall | LinearCall | None:
        """The call that was worked out for inputs just like these, or None."""
        planned = self._planned
        if (
            planned is not None
            and type(x) is QTensor
            and planned[0] is x.qparams
            and planned[1].shape == x.data.shape
            and x.data.dtype is _uint8
            and (planned[2] is None if residual is None else planned[2] is getattr(residual, "qparams", ...))
            and not self.training
            and is_direct(x.data)
        ):
            return planned[1]
        return None

    def check_residual(self, residual: Any, shape: Sequence[int]) -> None:
        """Raise `InputError` unless `residual` is a `QTensor` of the output's shape."""
        self.check_quantized(residual, "residual")
        if tuple(residual.shape) != tuple(shape):
            raise InputError(
                f"{self.where()}: the residual has shape {tuple(residual.shape)}, but it is added to an "
                f"output of shape {tuple(shape)}"
            )

    def residual_parameters(self, residual: QTensor | None) -> tuple[int, float]:
        """Its zero point and its scale over the output's: what a kernel needs to add it."""
        if residual is None:
            return 0, 0.0
        scale, zero_point = residual.qparams.scalars
        return zero_point, scale / self.output.scalars[0]

    def product_config(self) -> dict[str, Any]:
        """The part of `config` that they share."""
        return self.output_config() | {"clamp": list(self.clamp)}

    def state_spec(self) -> StateSpec:
        """`weight`, `weight_scale`, `bias` if there is one, and the output's `scale` and `zero_point`."""
        shape = self.weight_shape()
        spec: StateSpec = {"weight": (shape, torch.int8), "weight_scale": (shape[:1], torch.float32)}
        if self.has_bias:
            spec["bias"] = (shape[:1], torch.float32)
        return spec | self.output_spec()

    def plain_state(self) -> dict[str, Tensor]:
        """Unpack."""
        state = {"weight": self.unpack(), "weight_scale": self.weight_scale}
        bias = self._buffers["bias"]
        return state | ({} if bias is None else {"bias": bias}) | self.output_state()

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Pack for the instruction set in use."""
        self.packed = self.pack(state["weight"])
        self.weight_scale = state["weight_scale"]
        self._buffers["bias"] = state.get("bias")
        self.load_output_state(state)

    def packed_how(self) -> object | None:
        """The geometry: bias and output are not in the packed weight."""
        own = ("bias", *self.product_config())
        return repr({name: value for name, value in self.config().items() if name not in own})

    def buffers_taken(self) -> None:
        """Forget what followed from other weights and parameters."""
        super().buffers_taken()
        self._planned = None

    def describe_clamp(self) -> str:
        """What `print` shows of clamp and output."""
        clamp = "" if self.clamp == self.limits else f"clamp={self.clamp}, "
        return clamp + self.describe_output()
