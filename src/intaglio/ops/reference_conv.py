"""The oracle of the convolutions: what the kernels must compute, bit for bit, in plain torch.

The integers are exact in float64, so torch's own convolution sums them; a border of the zero point is a
border of zeros once the zero point is subtracted. May import reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from intaglio.ops.reference import epilogue, quantize_rows

__all__ = ["conv_dynamic", "convolve_exact", "quantize_samples"]

_CONV: dict[int, Callable[..., Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def quantize_samples(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`q` uint8 in the shape of `x` `(N, ...)`, and `(N,)` scales and zero points, one range a sample."""
    q, scale, zero_point = quantize_rows(x.reshape(x.shape[0], -1))
    return q.view(x.shape), scale, zero_point


def convolve_exact(
    centred: Tensor,
    weight: Tensor,
    *,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
    transposed: bool,
    output_padding: Sequence[int],
) -> Tensor:
    """The exact sums, float64, of `(N, C, *size)` float64 integers whose zero is 0; the rest as below."""
    dims = centred.dim() - 2
    if transposed:
        cut = [before for before, _ in padding]
        return _CONV_TRANSPOSE[dims](
            centred, weight.double(), None, stride, cut, output_padding, groups, dilation
        )
    pads = [size for pair in reversed(padding) for size in pair]
    mode = "constant" if padding_mode == "zeros" else padding_mode
    padded = functional.pad(centred, pads, mode=mode)
    return _CONV[dims](padded, weight.double(), None, stride, 0, dilation, groups)


def conv_dynamic(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    *,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int = 1,
    padding_mode: str = "zeros",
    transposed: bool = False,
    output_padding: Sequence[int] = (),
) -> Tensor:
    """Dynamic quantized convolution of `(N, C, *size)` float32.

    `weight` is int8 in the shape that torch gives it, `(C, out_channels / groups, *kernel)` if transposed;
    `weight_scale` and `bias` are `(out_channels,)`; `padding` holds what stands before and after an axis,
    equal for a transposed convolution.
    """
    q, scale, zero_point = quantize_samples(x)
    dims = x.dim() - 2
    acc = convolve_exact(
        q.double() - zero_point.view(-1, *[1] * (x.dim() - 1)),
        weight,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        transposed=transposed,
        output_padding=output_padding,
    )
    channels = acc.shape[1]
    rows = acc.movedim(1, -1)
    base = torch.zeros(channels) if bias is None else bias
    row_scale = scale.view(-1, *[1] * dims).expand(rows.shape[:-1]).reshape(-1)
    y = epilogue(rows.reshape(-1, channels).long(), row_scale, weight_scale, base[None, :])
    return y.view(rows.shape).movedim(-1, 1).contiguous()
