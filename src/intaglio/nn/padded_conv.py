"""Convolutions whose zero padding differs from side to side: what an `nn.ZeroPad2d` before one is fused into.

Networks that came from TensorFlow pad so. May import errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from intaglio.errors import ConversionError

__all__ = ["PADDINGS", "PaddedConv1d", "PaddedConv2d", "PaddedConv3d", "pad_conv", "why_not_padded"]


class _Padded(nn.modules.conv._ConvNd):
    """Zeros around the input, counted as `torch.nn.functional.pad` does; the forward is the base's own."""

    def __init__(self, *args: Any, sides: Sequence[int], **more: Any) -> None:
        super().__init__(*args, **more)
        # So that the base pads before it convolves, as it does for the modes that copy pixels.
        self.padding_mode = "constant"  # type: ignore[assignment]
        self._reversed_padding_repeated_twice = list(sides)

    def extra_repr(self) -> str:
        """What `print` shows: the padding by sides, in the order of `torch.nn.functional.pad`."""
        base: str = super().extra_repr()  # type: ignore[no-untyped-call]
        shown = base.replace(", padding_mode=constant", "")
        return f"{shown}, sides={tuple(self._reversed_padding_repeated_twice)}"


class PaddedConv1d(_Padded, nn.Conv1d):
    """`nn.Conv1d` on its input padded with zeros by `sides`: left, right."""


class PaddedConv2d(_Padded, nn.Conv2d):
    """`nn.Conv2d` on its input padded with zeros by `sides`: left, right, top, bottom."""


class PaddedConv3d(_Padded, nn.Conv3d):
    """`nn.Conv3d` on its input padded with zeros by `sides`: left, right, top, bottom, front, back."""


_CONVS: dict[type[nn.Module], type[PaddedConv1d | PaddedConv2d | PaddedConv3d]] = {
    nn.Conv1d: PaddedConv1d,
    nn.Conv2d: PaddedConv2d,
    nn.Conv3d: PaddedConv3d,
}

PADDINGS: dict[type[nn.Module], type[nn.Module]] = {
    nn.ConstantPad1d: nn.Conv1d,
    nn.ConstantPad2d: nn.Conv2d,
    nn.ConstantPad3d: nn.Conv3d,
    nn.ZeroPad1d: nn.Conv1d,
    nn.ZeroPad2d: nn.Conv2d,
    nn.ZeroPad3d: nn.Conv3d,
}
"""The modules that pad with a constant, and the convolution into which each can go."""


def why_not_padded(padding: nn.Module, conv: nn.Module) -> str | None:
    """Why `padding` cannot become part of `conv`, or None if it can."""
    name, found = type(padding).__name__, type(conv).__name__
    if PADDINGS.get(type(padding)) is not type(conv):
        return f"a {name} does not go into a {found}"
    assert isinstance(padding, nn.modules.padding._ConstantPadNd)
    assert isinstance(conv, nn.modules.conv._ConvNd)
    if padding.value != 0:
        return f"the {name} pads with {padding.value}, a convolution only with 0"
    if min(padding.padding) < 0:
        return f"the {name} cuts pixels off (padding={tuple(padding.padding)})"
    if conv.padding_mode != "zeros":
        return f"the {found} itself pads in mode {conv.padding_mode!r}"
    if padding._forward_hooks or conv._forward_pre_hooks:
        return f"a hook sees what the {name} gives to the {found}"
    return None


def pad_conv(padding: nn.Module, conv: nn.Module) -> nn.Module:
    """A convolution that computes `conv(padding(x))`, with the parameters of `conv`.

    Raises `ConversionError` where there is none.

    >>> pad_conv(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, stride=2))
    PaddedConv2d(3, 8, kernel_size=(3, 3), stride=(2, 2), sides=(0, 1, 0, 1))
    """
    reason = why_not_padded(padding, conv)
    if reason is not None:
        raise ConversionError(f"{reason}: leave it out of the group")
    assert isinstance(padding, nn.modules.padding._ConstantPadNd)
    assert isinstance(conv, nn.modules.conv._ConvNd)
    own = conv._reversed_padding_repeated_twice
    made = _CONVS[type(conv)](
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",
        sides=[a + b for a, b in zip(padding.padding, own, strict=True)],
    )
    made.weight, made.bias = conv.weight, conv.bias
    made.training = conv.training
    return made
