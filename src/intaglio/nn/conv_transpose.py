"""ConvTranspose1d/2d/3d: the dynamic quantized form and the rule.

Computed output by output (csrc/program/conv_plan.h), so nothing is multiplied by inserted zeros. May import
ops, rules, quantized, conv_geometry, conv and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from intaglio.fake_quantize import round_samples
from intaglio.nn.conv import DynamicConvolution, example_of, refuse_conv, static_form
from intaglio.nn.conv_geometry import FloatConvTranspose, TransposedConv, output_channels_first
from intaglio.nn.conv_static import QuantizedConvTranspose
from intaglio.nn.quantized import register_quantized
from intaglio.nn.trained import TrainedLayer
from intaglio.rules import OpRule, TrainedForm, register_rule

__all__ = ["DynamicConvTranspose"]


@register_quantized
class DynamicConvTranspose(DynamicConvolution, TransposedConv):
    """A transposed convolution with int8 weight and activations quantized dynamically, sample by sample.

    Inputs, outputs, NaN and errors as `DynamicConv`; `padding` is what is cut off at both ends of an axis.
    """

    kind = "dynamic_conv_transpose"

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Convolve; `output_size`, with or without N and channels, chooses among the possible sizes."""
        if isinstance(x, Proxy):
            return self.as_fx_node(x, output_size)
        return self.convolve(x, lambda size: self.output_size(size, output_size))


_FUNCTIONS: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def _train(
    module: nn.Module, weights: dict[str, Tensor], x: Tensor, output_size: Sequence[int] | None = None
) -> Tensor:
    assert isinstance(module, TrainedLayer)
    assert isinstance(module, FloatConvTranspose)
    dims = len(module.kernel_size)
    if module.quantizes_input and module.rounds:
        x = round_samples(x, dims)
    sizes = (module.stride, module.padding, module.kernel_size, dims, module.dilation)
    padding = module._output_padding(x, output_size, *sizes)
    return _FUNCTIONS[dims](
        *(x, weights["weight"], module.bias, module.stride, module.padding),
        *(padding, module.groups, module.dilation),
    )


def _rows(module: nn.Module, weight: Tensor) -> Tensor:
    return output_channels_first(weight, int(module.groups))  # type: ignore[arg-type]


def _unrows(module: nn.Module, weight: Tensor) -> Tensor:
    groups = int(module.groups)  # type: ignore[arg-type]
    outputs, inputs, *kernel = weight.shape
    grouped = weight.reshape(groups, outputs // groups, inputs, *kernel)
    return grouped.transpose(1, 2).reshape(groups * inputs, outputs // groups, *kernel)


_EXAMPLES = (
    example_of(lambda: nn.ConvTranspose1d(6, 4, 8, 4, 2), 2, 6, 10),
    example_of(lambda: nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1, groups=2), 2, 8, 6, 7),
    example_of(lambda: nn.ConvTranspose3d(4, 3, 2, 2, bias=False), 1, 4, 3, 4, 5),
)

CONV_TRANSPOSE = register_rule(
    OpRule(
        name="ConvTranspose",
        float_types=(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        static=static_form(QuantizedConvTranspose, *_EXAMPLES),
        trained=TrainedForm(_train, rows=_rows, unrows=_unrows),
        lower_dynamic=DynamicConvTranspose.from_float,
        weight_dtypes=frozenset({"int8"}),
        default_for=frozenset({"int8"}),
        refuse=refuse_conv,
        examples=_EXAMPLES,
    )
)
