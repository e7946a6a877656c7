"""LayerNorm, GroupNorm and InstanceNorm between `QTensor`s: statistics from exact sums of the integers.

Weight and bias stay float and are part of how the result is requantized. May import ops, rules, static and
errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from intaglio.errors import InputError
from intaglio.nn.quantized import StateSpec, register_quantized
from intaglio.nn.static import StaticModule
from intaglio.ops.normalize import MAX_VALUES, choose_affine, group_norm, layer_norm
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams
from intaglio.qtensor import QTensor
from intaglio.rules import Example, OpRule, StaticForm, register_rule

__all__ = ["QuantizedGroupNorm", "QuantizedLayerNorm"]

FloatInstanceNorm = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d


class Normalization(StaticModule):
    """What they share: epsilon, and a float weight and bias of which either may be missing."""

    def __init__(
        self, *, epsilon: float, weight: bool, bias: bool, limits: Sequence[int] = (0, 255), path: str = ""
    ) -> None:
        super().__init__(path, limits=(limits[0], limits[1]))
        self.epsilon, self.has_weight, self.has_bias = epsilon, weight, bias
        for name in ("weight", "bias"):
            self.register_buffer(name, None, persistent=False)
        self._affine: tuple[Tensor, Tensor] | None = None

    def affine_shape(self) -> tuple[int, ...]:
        """Shape of weight and bias."""
        raise NotImplementedError

    def affine(self) -> tuple[Tensor, Tensor]:
        """Multiplier and offset of the result in steps of the output."""
        if self._affine is None:
            count = prod(self.affine_shape())
            scale = self.output.scalars[0]
            self._affine = choose_affine(self._buffers["weight"], self._buffers["bias"], count, scale)
        return self._affine

    def fill(self, module: nn.Module, output: QParams) -> None:
        """Take over a float module's weight and bias."""
        self.set_output(output)
        for name in ("weight", "bias"):
            tensor = getattr(module, name, None)
            self._buffers[name] = None if tensor is None else tensor.detach().to(torch.float32).clone()

    def normalization_config(self) -> dict[str, Any]:
        """The part of `config` that they share."""
        shared = {"epsilon": self.epsilon, "weight": self.has_weight, "bias": self.has_bias}
        return shared | self.output_config()

    def state_spec(self) -> StateSpec:
        """`weight` and `bias`, where there are any, and the output's `scale` and `zero_point`."""
        there = {"weight": self.has_weight, "bias": self.has_bias}
        spec: StateSpec = {
            n: (self.affine_shape(), torch.float32) for n, is_there in there.items() if is_there
        }
        return spec | self.output_spec()

    def plain_state(self) -> dict[str, Tensor]:
        """The plain tensors."""
        found = {name: self._buffers[name] for name in ("weight", "bias")}
        return {name: tensor for name, tensor in found.items() if tensor is not None} | self.output_state()

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Take the plain tensors."""
        self._buffers["weight"], self._buffers["bias"] = state.get("weight"), state.get("bias")
        self.load_output_state(state)

    def buffers_taken(self) -> None:
        """Forget what followed from other weights and parameters."""
        super().buffers_taken()
        self._affine = None

    def float_bytes(self) -> int:
        """Bytes of weight and bias."""
        return 4 * prod(self.affine_shape()) * (self.has_weight + self.has_bias)


@register_quantized
class QuantizedLayerNorm(Normalization):
    """LayerNorm of uint8 `(..., *normalized_shape)`, with the parameters that were observed."""

    kind = "layer_norm"

    def __init__(self, normalized_shape: Sequence[int], **more: Any) -> None:
        super().__init__(**more)
        self.normalized_shape = tuple(normalized_shape)

    def forward(self, x: QTensor) -> QTensor:
        """Normalize; see the class."""
        if isinstance(x, Proxy):
            proxy: QTensor = self.as_fx_node(x)
            return proxy
        self.check_quantized(x)
        axes = len(self.normalized_shape)
        if tuple(x.data.shape[x.data.dim() - axes :]) != self.normalized_shape:
            raise InputError(
                f"{self.where()}: input has shape {tuple(x.data.shape)}, "
                f"but it must end in {self.normalized_shape}"
            )
        epsilon = self.epsilon / x.qparams.scalars[0] ** 2
        return self.give(
            layer_norm(x.data, axes, *self.affine(), epsilon, self.output.scalars[1], *self.limits)
        )

    def affine_shape(self) -> tuple[int, ...]:
        """`normalized_shape`."""
        return self.normalized_shape

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"normalized_shape": list(self.normalized_shape)} | self.normalization_config()

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.normalized_shape}, eps={self.epsilon}, {self.describe_output()}"


@register_quantized
class QuantizedGroupNorm(Normalization):
    """GroupNorm of uint8 `(N, channels, *size)`; InstanceNorm is one with a group for each channel."""

    kind = "group_norm"

    def __init__(self, groups: int, channels: int, *, dims: int | None = None, **more: Any) -> None:
        super().__init__(**more)
        self.groups, self.channels, self.dims = groups, channels, dims

    def forward(self, x: QTensor) -> QTensor:
        """Normalize; see the class."""
        if isinstance(x, Proxy):
            proxy: QTensor = self.as_fx_node(x)
            return proxy
        self.check_quantized(x)
        if self.dims is not None and x.data.dim() == self.dims + 1:  # an InstanceNorm of one sample
            return self.give(self._normalize(QTensor(x.data[None], x.qparams))[0])
        return self.give(self._normalize(x))

    def _normalize(self, x: QTensor) -> Tensor:
        if x.data.dim() < 2 or x.data.shape[1] != self.channels:
            raise InputError(
                f"{self.where()}: input has shape {tuple(x.data.shape)}, "
                f"but (batch, {self.channels}, ...) is needed"
            )
        epsilon = self.epsilon / x.qparams.scalars[0] ** 2
        return group_norm(x.data, self.groups, *self.affine(), epsilon, self.output.scalars[1], *self.limits)

    def affine_shape(self) -> tuple[int, ...]:
        """`(channels,)`."""
        return (self.channels,)

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        own = {"groups": self.groups, "channels": self.channels, "dims": self.dims}
        return own | self.normalization_config()

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.groups}, {self.channels}, eps={self.epsilon}, {self.describe_output()}"


def _options(module: nn.Module, path: str) -> dict[str, Any]:
    parts = {name: getattr(module, name, None) is not None for name in ("weight", "bias")}
    return {"epsilon": float(module.eps), "path": path} | parts  # type: ignore[arg-type]


def _lower_layer_norm(module: nn.Module, qconfig: QConfig, path: str, output: QParams | None) -> nn.Module:
    assert isinstance(module, nn.LayerNorm)
    assert output is not None
    quantized = QuantizedLayerNorm(module.normalized_shape, **_options(module, path))
    quantized.fill(module, output)
    return quantized


def _lower_group_norm(module: nn.Module, qconfig: QConfig, path: str, output: QParams | None) -> nn.Module:
    assert isinstance(module, nn.GroupNorm)
    assert output is not None
    quantized = QuantizedGroupNorm(module.num_groups, module.num_channels, **_options(module, path))
    quantized.fill(module, output)
    return quantized


def _lower_instance_norm(module: nn.Module, qconfig: QConfig, path: str, output: QParams | None) -> nn.Module:
    assert isinstance(module, FloatInstanceNorm)
    assert output is not None
    dims = {nn.InstanceNorm1d: 1, nn.InstanceNorm2d: 2, nn.InstanceNorm3d: 3}
    axes = next(count for kind, count in dims.items() if isinstance(module, kind))
    channels = module.num_features
    quantized = QuantizedGroupNorm(channels, channels, dims=axes, **_options(module, path))
    quantized.fill(module, output)
    return quantized


def _refuse_layer_norm(module: nn.Module, qconfig: QConfig) -> str | None:
    assert isinstance(module, nn.LayerNorm)
    if prod(module.normalized_shape) > MAX_VALUES:
        return f"it normalizes more than {MAX_VALUES} values together"
    return None


def _refuse_instance_norm(module: nn.Module, qconfig: QConfig) -> str | None:
    assert isinstance(module, FloatInstanceNorm)
    if module.track_running_stats:
        return "it normalizes with running statistics, not with those of the sample"
    return None


def _layer_norm_example() -> Example:
    module = nn.LayerNorm(33)
    nn.init.normal_(module.weight, 1.0, 0.3)
    nn.init.normal_(module.bias)
    return module, (3 * torch.randn(2, 5, 33) + 1,)


def _plain_example() -> Example:
    return nn.LayerNorm((4, 6), elementwise_affine=False), (torch.randn(3, 4, 6),)


def _group_norm_example() -> Example:
    module = nn.GroupNorm(3, 12)
    nn.init.normal_(module.weight, 1.0, 0.3)
    nn.init.normal_(module.bias)
    return module, (torch.randn(2, 12, 5, 7),)


LAYER_NORM = register_rule(
    OpRule(
        name="LayerNorm",
        float_types=(nn.LayerNorm,),
        static=StaticForm(
            _lower_layer_norm,
            refuse=_refuse_layer_norm,
            examples=(_layer_norm_example, _plain_example),
        ),
    )
)
GROUP_NORM = register_rule(
    OpRule(
        name="GroupNorm",
        float_types=(nn.GroupNorm,),
        static=StaticForm(_lower_group_norm, examples=(_group_norm_example,)),
    )
)
INSTANCE_NORM = register_rule(
    OpRule(
        name="InstanceNorm",
        float_types=(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        static=StaticForm(
            _lower_instance_norm,
            refuse=_refuse_instance_norm,
            examples=(
                lambda: (nn.InstanceNorm1d(4, affine=True), (torch.randn(2, 4, 19),)),
                lambda: (nn.InstanceNorm2d(5), (torch.randn(2, 5, 6, 7),)),
            ),
        ),
    )
)
