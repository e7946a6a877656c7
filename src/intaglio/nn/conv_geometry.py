"""What a convolution is apart from its arithmetic: sizes, padding, where the output's pixels are.

`OrdinaryConv` and `TransposedConv` are shared by the dynamic forms (conv.py, conv_transpose.py) and the
static ones (conv_static.py). May import ops, padded_conv, quantized and errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from intaglio.errors import InputError
from intaglio.nn.padded_conv import PaddedConv1d, PaddedConv2d, PaddedConv3d
from intaglio.nn.quantized import QuantizedModule
from intaglio.ops.conv import ConvSpec, is_channels_last
from intaglio.runtime.geometry import conv_size, transposed_size

__all__ = [
    "ConvGeometry",
    "FloatConv",
    "FloatConvTranspose",
    "OrdinaryConv",
    "TransposedConv",
    "lies_channels_last",
    "output_channels_first",
]

FloatConv = nn.Conv1d | nn.Conv2d | nn.Conv3d
PaddedConv = PaddedConv1d | PaddedConv2d | PaddedConv3d
FloatConvTranspose = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


class ConvGeometry(QuantizedModule):
    """One to three dimensions, as `kernel_size` has.

    `channels_last` says that the float weight lay so, in which case results do too, as torch has it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        *,
        stride: Sequence[int],
        dilation: Sequence[int],
        groups: int = 1,
        bias: bool = True,
        channels_last: bool = False,
        path: str = "",
    ) -> None:
        super().__init__(path)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = tuple(kernel_size), tuple(stride), tuple(dilation)
        self.has_bias, self.channels_last = bias, channels_last

    def conv_spec(self) -> ConvSpec:
        """What the kernels need to know."""
        raise NotImplementedError

    @classmethod
    def geometry_of(cls, module: nn.Module) -> dict[str, Any]:
        """Arguments of the constructor, read from a float module."""
        raise NotImplementedError

    @classmethod
    def weight_of(cls, module: nn.Module) -> Tensor:
        """The float weight as `conv_spec().weight_shape` has it."""
        raise NotImplementedError

    @property
    def dims(self) -> int:
        """1, 2 or 3."""
        return len(self.kernel_size)

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise `InputError` unless `shape` is `(N, in_channels, *size)` with pixels."""
        if len(shape) != self.dims + 2 or shape[1] != self.in_channels:
            axes = ("length", "height, width", "depth, height, width")[self.dims - 1]
            raise InputError(
                f"{self.where()}: input has shape {tuple(shape)}, but (batch, {self.in_channels}, {axes}) "
                f"or ({self.in_channels}, {axes}) is needed"
            )
        if any(length < 1 for length in shape[2:]):
            raise InputError(f"{self.where()}: input of shape {tuple(shape)} has no pixels")

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "kernel_size": list(self.kernel_size),
            "stride": list(self.stride),
            "dilation": list(self.dilation),
            "groups": self.groups,
            "bias": self.has_bias,
            "channels_last": self.channels_last,
        }

    def float_bytes(self) -> int:
        """Bytes of the float weight and bias."""
        spec = self.conv_spec()
        weight = spec.out_channels
        for size in spec.weight_shape[1:]:
            weight *= size
        return 4 * (weight + self.has_bias * self.out_channels)

    def describe(self, *more: str) -> str:
        """What `print` shows of the geometry."""
        return ", ".join(
            [
                f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}",
                f"stride={self.stride}",
                *more,
                *([f"dilation={self.dilation}"] if set(self.dilation) != {1} else []),
                *([f"groups={self.groups}"] if self.groups != 1 else []),
                f"bias={self.has_bias}",
            ]
        )


class OrdinaryConv(ConvGeometry):
    """`padding` holds what stands before and after each axis."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        *,
        padding: Sequence[Sequence[int]],
        padding_mode: str = "zeros",
        **shared: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **shared)
        self.padding = tuple((before, after) for before, after in padding)
        self.padding_mode = padding_mode

    @classmethod
    def geometry_of(cls, module: nn.Module) -> dict[str, Any]:
        """Read an `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`."""
        assert isinstance(module, FloatConv)
        return _shared_geometry(module) | {
            "padding": _padding_pairs(module),
            "padding_mode": "zeros" if isinstance(module, PaddedConv) else module.padding_mode,
        }

    @classmethod
    def weight_of(cls, module: nn.Module) -> Tensor:
        """The weight as it is."""
        assert isinstance(module, FloatConv)
        return module.weight

    def conv_spec(self) -> ConvSpec:
        """What the kernels need to know."""
        return ConvSpec(
            self.out_channels,
            self.in_channels,
            self.groups,
            self.kernel_size,
            self.stride,
            self.dilation,
            tuple(pair[0] for pair in self.padding),
            padding_mode=self.padding_mode,
        )

    def output_size(self, size: Sequence[int]) -> list[int]:
        """The output's size for an input's; `InputError` where there is none."""
        self._check_padding(size)
        found = conv_size(size, self.kernel_size, self.stride, self.dilation, self.padding)
        if found is None:
            raise InputError(
                f"{self.where()}: input of size {tuple(size)} is smaller than the kernel, "
                f"even padded by {self.padding}"
            )
        return found

    def _check_padding(self, size: Sequence[int]) -> None:
        """The modes that copy pixels cannot reach beyond them."""
        if self.padding_mode not in ("reflect", "circular"):
            return
        spare = 1 if self.padding_mode == "reflect" else 0
        if any(max(pair) > length - spare for pair, length in zip(self.padding, size, strict=True)):
            raise InputError(
                f"{self.where()}: input of size {tuple(size)} is too small for "
                f"{self.padding_mode} padding by {self.padding}"
            )

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        padding = [list(pair) for pair in self.padding]
        return super().config() | {"padding": padding, "padding_mode": self.padding_mode}

    def describe(self, *more: str) -> str:
        """What `print` shows of the geometry."""
        return super().describe(
            *([f"padding={self.padding}"] if any(map(any, self.padding)) else []),
            *([f"padding_mode={self.padding_mode}"] if self.padding_mode != "zeros" else []),
            *more,
        )


class TransposedConv(ConvGeometry):
    """`padding` is what is cut off at both ends of an axis.

    The weight is stored as that of an ordinary convolution, output channels first, so that there is one scale
    for each of them whatever the groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        *,
        padding: Sequence[int],
        output_padding: Sequence[int],
        **shared: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **shared)
        self.padding, self.output_padding = tuple(padding), tuple(output_padding)

    @classmethod
    def geometry_of(cls, module: nn.Module) -> dict[str, Any]:
        """Read an `nn.ConvTranspose1d`, `nn.ConvTranspose2d` or `nn.ConvTranspose3d`."""
        assert isinstance(module, FloatConvTranspose)
        assert not isinstance(module.padding, str)
        return _shared_geometry(module) | {
            "padding": module.padding,
            "output_padding": module.output_padding,
        }

    @classmethod
    def weight_of(cls, module: nn.Module) -> Tensor:
        """The weight with its output channels first."""
        assert isinstance(module, FloatConvTranspose)
        return output_channels_first(module.weight, module.groups)

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

    def output_size(self, size: Sequence[int], asked: Sequence[int] | None = None) -> list[int]:
        """The output's size for an input's, or the one asked for, if it is possible."""
        return self._default_size(size) if asked is None else self._asked_size(size, list(asked))

    def _smallest_size(self, size: Sequence[int]) -> list[int]:
        return transposed_size(size, self.kernel_size, self.stride, self.dilation, self.padding)

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
        return super().config() | padding

    def describe(self, *more: str) -> str:
        """What `print` shows of the geometry."""
        return super().describe(
            *([f"padding={self.padding}"] if any(self.padding) else []),
            *([f"output_padding={self.output_padding}"] if any(self.output_padding) else []),
            *more,
        )


def _shared_geometry(module: FloatConv | FloatConvTranspose) -> dict[str, Any]:
    return {
        "in_channels": module.in_channels,
        "out_channels": module.out_channels,
        "kernel_size": module.kernel_size,
        "stride": module.stride,
        "dilation": module.dilation,
        "groups": module.groups,
        "bias": module.bias is not None,
        "channels_last": lies_channels_last(module.weight),
    }


def _padding_pairs(module: FloatConv) -> list[tuple[int, int]]:
    """What stands before and after each axis; `'same'` puts the odd one after, as torch does."""
    if isinstance(module, PaddedConv):
        sides = module._reversed_padding_repeated_twice  # of the last axis first
        return [(sides[i], sides[i + 1]) for i in range(len(sides) - 2, -1, -2)]
    if module.padding == "valid":
        return [(0, 0)] * len(module.kernel_size)
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(size, size) for size in module.padding if isinstance(size, int)]


def lies_channels_last(weight: Tensor) -> bool:
    """Whether a float weight makes torch give results that lie so."""
    return weight.dim() > 3 and is_channels_last(weight)


def output_channels_first(weight: Tensor, groups: int) -> Tensor:
    """`(in, out / groups, ...)` as `(out, in / groups, ...)`."""
    inputs, outputs, *kernel = weight.shape
    grouped = weight.reshape(groups, inputs // groups, outputs, *kernel)
    return grouped.transpose(1, 2).reshape(groups * outputs, inputs // groups, *kernel)
