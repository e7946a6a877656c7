"""BatchNorm that could not be folded: a scale and a shift for each channel, between `QTensor`s.

That is a depthwise 1 x 1 convolution whose integer weights are all +-127, with the scale of each channel in
its weight's scale: nothing is lost by it. May import ops, rules, conv_static, static and errors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from intaglio.nn.conv_static import QuantizedConv
from intaglio.nn.fused import Clamp
from intaglio.nn.quantized import register_quantized
from intaglio.nn.static import clamped_limits
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams
from intaglio.qtensor import QTensor
from intaglio.rules import Example, OpRule, StaticForm, register_rule

__all__ = ["QuantizedBatchNorm"]

FloatBatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@register_quantized
class QuantizedBatchNorm(QuantizedConv):
    """`y = x * scale[c] + shift[c]` from `QTensor` to `QTensor`, of shape `(N, C, *size)` or `(N, C)`."""

    kind = "batch_norm"

    @classmethod
    def from_batch_norm(
        cls, module: nn.Module, path: str, output: QParams, clamp: Clamp = (None, None)
    ) -> QuantizedBatchNorm:
        """Take over the running statistics of a BatchNorm in eval mode, followed by a clamp."""
        assert isinstance(module, FloatBatchNorm)
        dims = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}
        axes = next(count for kind, count in dims.items() if isinstance(module, kind))
        channels = module.num_features
        ones, zeros = [1] * axes, [(0, 0)] * axes
        quantized = cls(
            channels, channels, ones, stride=ones, padding=zeros, dilation=ones, groups=channels, path=path
        )
        factor, shift = _factor_and_shift(module)
        quantized.set_output(output)
        quantized.clamp = clamped_limits(output, *clamp)
        weight = torch.where(factor < 0, -127, 127).to(torch.int8).reshape(quantized.weight_shape())
        state = {"weight": weight, "weight_scale": (factor.abs() / 127).float(), "bias": shift.float()}
        quantized.load_plain_state(state | quantized.output_state())
        return quantized

    def convolve(self, x: QTensor, asked: Any = None, residual: Any = None) -> QTensor:
        """As the convolution; a 2-d input is one pixel a sample."""
        if isinstance(x, QTensor) and x.data.dim() == 2 and self.dims == 1:
            return self.give(super().convolve(QTensor(x.data[:, :, None], x.qparams)).data[:, :, 0])
        return super().convolve(x, asked, residual)

    def float_bytes(self) -> int:
        """Bytes of weight, bias and running statistics."""
        return 16 * self.out_channels

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.out_channels}, {self.describe_clamp()}"


def _factor_and_shift(module: FloatBatchNorm) -> tuple[Tensor, Tensor]:
    """`(C,) float64` each: what BatchNorm multiplies by and adds in eval mode."""
    assert module.running_mean is not None
    assert module.running_var is not None
    factor = torch.rsqrt(module.running_var.detach().double() + module.eps)
    shift = torch.zeros_like(factor)
    if module.affine:
        factor = factor * module.weight.detach().double()
        shift = module.bias.detach().double()
    return factor, shift - module.running_mean.double() * factor


def _lower(module: nn.Module, qconfig: QConfig, path: str, output: QParams | None) -> nn.Module:
    assert output is not None
    return QuantizedBatchNorm.from_batch_norm(module, path, output)


def _refuse(module: nn.Module, qconfig: QConfig) -> str | None:
    if getattr(module, "running_mean", None) is None:
        return "it keeps no running statistics, so that it depends on the batch"
    return None


def _example(kind: type[nn.Module], *shape: int) -> Any:
    def make() -> Example:
        module = kind(shape[1])
        with torch.no_grad():
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.normal_()  # type: ignore[operator]
            module.running_var.uniform_(0.5, 2.0)  # type: ignore[operator]
        return module, (torch.randn(*shape),)

    return make


BATCH_NORM = register_rule(
    OpRule(
        name="BatchNorm",
        float_types=(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
        static=StaticForm(
            _lower,
            refuse=_refuse,
            examples=(
                _example(nn.BatchNorm1d, 4, 6),
                _example(nn.BatchNorm1d, 2, 6, 9),
                _example(nn.BatchNorm2d, 2, 19, 5, 6),
                _example(nn.BatchNorm3d, 2, 5, 3, 4, 5),
            ),
        ),
    )
)
