"""`Requantization`: how the int32 sums of a layer become its uint8 output.

See docs/numerics.md, "Static quantization". May import errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intaglio.errors import ConfigError

__all__ = ["Requantization", "choose_requantization"]

_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Requantization:
    """How int32 sums become uint8: `clamp(rne(fma(sum, multiplier, offset)) + zero_point, lower, upper)`.

    Attributes:
        multiplier: `(O,)` float32, contiguous, finite.
        offset: `(O,)` float32, contiguous, finite.
        zero_point: of the output, 0..255.
        lower: smallest integer of the output, 0..upper.
        upper: largest integer of the output, lower..255.
    """

    multiplier: Tensor
    offset: Tensor
    zero_point: int
    lower: int = 0
    upper: int = 255

    def __post_init__(self) -> None:
        shape, offset = self.multiplier.shape, self.offset
        if (
            len(shape) != 1
            or offset.shape != shape
            or {offset.dtype, self.multiplier.dtype} != {torch.float32}
        ):
            raise ConfigError(
                "a requantization takes (O,) float32 multipliers and offsets, not "
                f"{tuple(shape)} {self.multiplier.dtype} and {tuple(offset.shape)} {offset.dtype}"
            )
        if not 0 <= self.lower <= self.upper <= 255 or not 0 <= self.zero_point <= 255:
            raise ConfigError(
                f"a uint8 output cannot have zero point {self.zero_point} and limits "
                f"{self.lower}..{self.upper}: all are integers from 0 to 255"
            )


def choose_requantization(
    scale_in: float,
    scale_w: Tensor,
    bias: Tensor | None,
    scale_out: float,
    zero_point_out: int,
    lower: int = 0,
    upper: int = 255,
) -> Requantization:
    """The `Requantization` of a layer with `(O,)` weight scales and bias.

    `multiplier = scale_in * scale_w / scale_out` and `offset = bias / scale_out`, in float64, rounded once;
    what is too large for float32 becomes the largest finite value. Raises `ConfigError` for integers beyond
    0..255 and for `lower > upper`.

    >>> choose_requantization(0.5, torch.tensor([0.1]), None, 0.25, 128).multiplier
    tensor([0.2000])
    """
    multiplier = scale_w.detach().double() * scale_in / scale_out
    offset = torch.zeros_like(multiplier) if bias is None else bias.detach().double() / scale_out
    multiplier, offset = (value.clamp(-_LARGEST, _LARGEST).float() for value in (multiplier, offset))
    return Requantization(
        multiplier.contiguous(), offset.contiguous(), int(zero_point_out), int(lower), int(upper)
    )
