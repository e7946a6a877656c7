"""ConvTranspose1d/2d/3d: the dynamic quantized form and its rule.

Computed output by output (csrc/program/conv_plan.h), so nothing is multiplied by inserted zeros. May import
ops, rules, quantized, conv and errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy

from intaglio.errors import InputError
from intaglio.nn.conv import ConvModule, example_of, lies_channels_last, refuse_conv
from intaglio.nn.quantized import register_quantized
from intaglio.ops.conv import ConvSpec
from intaglio.qconfig import QConfig
from intaglio.rules import OpRule, register_rule

__all__ = ["DynamicConvTranspose"]

FloatConvTranspose = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@register_quantized
class DynamicConvTranspose(ConvModule):
    """A transposed convolution with int8 weight and activations quantized dynamically, sample by sample.

    Inputs, outputs, NaN and errors as `DynamicConv`; `padding` is what is cut off at both ends of an axis.
    The int8 weight is stored as that of an ordinary convolution, output channels first, so that there is
    one scale for each of them whatever the groups.
    """

    kind = "dynamic_conv_transpose"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        *,
        stride: Sequence[int],
        padding: Sequence[int],
        output_padding: Sequence[int],
        dilation: Sequence[int],
        groups: int = 1,
        bias: bool = True,
        channels_last: bool = False,
        path: str = "",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            dilation=dilation,
            groups=groups,
            bias=bias,
            channels_last=channels_last,
            path=path,
        )
        self.padding, self.output_padding = tuple(padding), tuple(output_padding)

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: QConfig, path: str = "") -> DynamicConvTranspose:
        """Quantize an `nn.ConvTranspose1d`, `nn.ConvTranspose2d` or `nn.ConvTranspose3d`."""
        assert isinstance(module, FloatConvTranspose)
        assert not isinstance(module.padding, str)
        quantized = cls(
            module.in_channels,
            module.out_channels,
            module.kernel_size,
            stride=module.stride,
            padding=module.padding,
            output_padding=module.output_padding,
            dilation=module.dilation,
            groups=module.groups,
            bias=module.bias is not None,
            channels_last=lies_channels_last(module.weight),
            path=path,
        )
        quantized._fill(_output_channels_first(module.weight, module.groups), module.bias, qconfig)
        return quantized

    def conv_spec(self) -> ConvSpec:
        """What the kernels need to know."""
        return ConvSpec(
            self.out_channels,
            self.in_channels,
            self.groups,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.padding,
            transposed=True,
        )

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Convolve; `output_size`, with or without N and channels, chooses among the possible sizes."""
        if isinstance(x, Proxy):
            return self.as_fx_node(x, output_size)
        if output_size is None:
            return self._convolve(x, self._default_size)
        return self._convolve(x, lambda size: self._asked_size(size, list(output_size)))

    def _smallest_size(self, size: Sequence[int]) -> list[int]:
        return [
            (length - 1) * stride - 2 * cut + dilation * (kernel - 1) + 1
            for length, stride, cut, dilation, kernel in zip(
                size, self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        ]

    def _default_size(self, size: Sequence[int]) -> list[int]:
        found = [a + b for a, b in zip(self._smallest_size(size), self.output_padding, strict=True)]
        if any(length < 1 for length in found):
            raise InputError(
                f"{self.where()}: input of size {tuple(size)} gives an output of size {tuple(found)}: "
                f"padding={self.padding} cuts off everything"
            )
        return found

    def _asked_size(self, size: Sequence[int], asked: list[int]) -> list[int]:
        asked = asked[-self.dims :] if len(asked) in (self.dims + 1, self.dims + 2) else asked
        smallest = self._smallest_size(size)
        largest = [low + stride - 1 for low, stride in zip(smallest, self.stride, strict=True)]
        fits = len(asked) == self.dims and all(
            max(low, 1) <= length <= high for low, length, high in zip(smallest, asked, largest, strict=True)
        )
        if not fits:
            raise InputError(
                f"{self.where()}: output_size={tuple(asked)} is not possible for an input of size "
                f"{tuple(size)}: choose from {tuple(smallest)} to {tuple(largest)}"
            )
        return asked

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        padding = {"padding": list(self.padding), "output_padding": list(self.output_padding)}
        return self._shared_config() | padding

    def extra_repr(self) -> str:
        """What `print` shows."""
        return self._describe(
            *([f"padding={self.padding}"] if any(self.padding) else []),
            *([f"output_padding={self.output_padding}"] if any(self.output_padding) else []),
        )


def _output_channels_first(weight: Tensor, groups: int) -> Tensor:
    """`(in, out / groups, ...)` as `(out, in / groups, ...)`."""
    inputs, outputs, *kernel = weight.shape
    grouped = weight.detach().reshape(groups, inputs // groups, outputs, *kernel)
    return grouped.transpose(1, 2).reshape(groups * outputs, inputs // groups, *kernel)


CONV_TRANSPOSE = register_rule(
    OpRule(
        name="ConvTranspose",
        float_types=(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        lower_dynamic=DynamicConvTranspose.from_float,
        weight_dtypes=frozenset({"int8"}),
        default_for=frozenset({"int8"}),
        refuse=refuse_conv,
        examples=(
            example_of(lambda: nn.ConvTranspose1d(6, 4, 8, 4, 2), 2, 6, 10),
            example_of(lambda: nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1, groups=2), 2, 8, 6, 7),
            example_of(lambda: nn.ConvTranspose3d(4, 3, 2, 2, bias=False), 1, 4, 3, 4, 5),
        ),
    )
)
