"""The arithmetic of quantization in plain torch: what docs/numerics.md says, line by line.

Holds the quantized types, `QParams` and the functions between real numbers and integers.
Kernels, observers and fake quantization all compute exactly this. May import only errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from intaglio.errors import ConfigError

__all__ = [
    "FLOAT16",
    "FLOAT32",
    "INT8",
    "UINT4",
    "UINT8",
    "PerAxis",
    "PerGroup",
    "PerRow",
    "PerTensor",
    "QParams",
    "QuantizedType",
    "as_uint8",
    "choose_qparams",
    "choose_row_params",
    "dequantize",
    "parse_dtype",
    "parse_stored_dtype",
    "quantize",
    "quantize_row_codes",
]

SMALLEST_RANGE = 2.0**-118
"""Ranges below this count as this: the inverse of their scale would overflow float32."""


@dataclass(frozen=True)
class QuantizedType:
    """A type of stored values: its name, its limits, and the torch dtype that holds it.

    `quant_min` and `quant_max` are both 0 for `float16` and `float32`, which are stored, not quantized.
    """

    name: str
    quant_min: int
    quant_max: int
    storage: torch.dtype

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Copies and pickles are the type itself: each exists once, and is compared by identity."""
        return parse_stored_dtype, (self.name,)


INT8 = QuantizedType("int8", -128, 127, torch.int8)
UINT8 = QuantizedType("uint8", 0, 255, torch.uint8)
UINT4 = QuantizedType("uint4", 0, 15, torch.uint8)
FLOAT16 = QuantizedType("float16", 0, 0, torch.float16)
FLOAT32 = QuantizedType("float32", 0, 0, torch.float32)
"""What stays as it is; `parse_stored_dtype` knows it, and `parse_dtype` does not."""

# Legacy spellings are compared by name, so that nothing breaks when torch drops the dtypes themselves.
_TYPES_BY_NAME = {
    "qint8": INT8,
    "int8": INT8,
    "quint8": UINT8,
    "uint8": UINT8,
    "quint4x2": UINT4,
    "uint4": UINT4,
    "float16": FLOAT16,
    "half": FLOAT16,
}


def parse_dtype(dtype: torch.dtype | str | QuantizedType) -> QuantizedType:
    """The `QuantizedType` meant by a torch dtype, new or legacy, or by its name.

    Raises `ConfigError` for anything else.

    >>> parse_dtype("int8") is parse_dtype(torch.int8) is INT8
    True
    """
    if isinstance(dtype, QuantizedType):
        return dtype
    name = str(dtype).removeprefix("torch.")
    if name not in _TYPES_BY_NAME:
        raise ConfigError(
            f"dtype {dtype!r} is not one that intaglio quantizes to; use one of "
            f"{', '.join(sorted(_TYPES_BY_NAME))}"
        )
    return _TYPES_BY_NAME[name]


def parse_stored_dtype(dtype: torch.dtype | str | QuantizedType) -> QuantizedType:
    """As `parse_dtype`, where float32 may stand for values that are left as they are.

    >>> parse_stored_dtype(torch.float) is FLOAT32
    True
    """
    return FLOAT32 if str(dtype) in ("torch.float32", "float32", "float") else parse_dtype(dtype)


@dataclass(frozen=True)
class PerTensor:
    """One scale and zero point for the whole tensor."""


@dataclass(frozen=True)
class PerRow:
    """One scale and zero point for each row, that is, for each slice along the last axis."""


@dataclass(frozen=True)
class PerAxis:
    """One scale and zero point for each index of `axis`."""

    axis: int


@dataclass(frozen=True)
class PerGroup:
    """One scale and zero point for each run of `size` values along the last axis."""

    size: int


@dataclass(frozen=True)
class QParams:
    """How integers stand for real numbers: `real = (integer - zero_point) * scale`.

    `scale` is float32 and positive, `zero_point` int32; both are 0-dim tensors, or `(shape[axis],)` when
    `axis` is given. Integers lie in `quant_min..quant_max` of `dtype`, or in the narrower limits given.
    """

    scale: Tensor
    zero_point: Tensor
    dtype: QuantizedType
    axis: int | None = None
    quant_min: int | None = None
    quant_max: int | None = None

    @cached_property
    def scalars(self) -> tuple[float, int]:
        """`scale` and `zero_point` as Python numbers; for parameters per tensor."""
        return float(self.scale), int(self.zero_point)

    def limits(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        low = self.dtype.quant_min if self.quant_min is None else self.quant_min
        high = self.dtype.quant_max if self.quant_max is None else self.quant_max
        return low, high

    def broadcast(self, ndim: int) -> tuple[Tensor, Tensor]:
        """`scale` and `zero_point` shaped to stand beside a tensor of `ndim` dimensions."""
        if self.axis is None:
            return self.scale, self.zero_point
        shape = [1] * ndim
        shape[self.axis] = -1
        return self.scale.view(shape), self.zero_point.view(shape)


def quantize(x: Tensor, qparams: QParams) -> Tensor:
    """`clamp(round(x * (1 / scale)) + zero_point, quant_min, quant_max)`, ties to even; NaN gives 0.

    `x` is float32 of any shape; the result has its shape and the storage dtype of `qparams.dtype`.

    >>> quantize(torch.tensor([0.0, 0.26]), QParams(torch.tensor(0.1), torch.tensor(3), UINT8))
    tensor([3, 6], dtype=torch.uint8)
    """
    scale, zero_point = qparams.broadcast(x.dim())
    low, high = qparams.limits()
    steps = torch.clamp(x * (1.0 / scale), -(2.0**20), 2.0**20).round()
    q = torch.clamp(steps + zero_point.to(torch.float32), low, high)
    return torch.nan_to_num(q, nan=float(max(low, 0))).to(qparams.dtype.storage)


def dequantize(q: Tensor, qparams: QParams) -> Tensor:
    """`(q - zero_point) * scale` in float32, in the shape of `q`."""
    scale, zero_point = qparams.broadcast(q.dim())
    return (q.to(torch.int32) - zero_point).to(torch.float32) * scale


def choose_qparams(
    low: Tensor,
    high: Tensor,
    dtype: QuantizedType,
    *,
    symmetric: bool = False,
    axis: int | None = None,
    quant_min: int | None = None,
    quant_max: int | None = None,
    smallest_scale: float = 0.0,
) -> QParams:
    """Parameters that represent the range `low..high`, zero included.

    Symmetric: `scale = max(-low, high) / quant_max`, zero point 0 (the middle for an unsigned type) and
    integers of equal reach both ways. Affine: `scale = (high - low) / (quant_max - quant_min)`. Both in
    float32. `low` and `high` are 0-dim, or one value for each index of `axis`. `quant_min` and `quant_max`
    are those of `dtype`, or narrower ones; a scale below `smallest_scale` counts as that. Raises
    `ConfigError` if a limit is not finite, or if an affine range is wider than float32 can hold.
    """
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise ConfigError("a range that holds NaN or infinity cannot be quantized")
    low, high = torch.clamp(low, max=0.0), torch.clamp(high, min=0.0)
    least = dtype.quant_min if quant_min is None else quant_min
    most = dtype.quant_max if quant_max is None else quant_max
    if symmetric:
        reach = min(-least, most) if least < 0 else (most - least) // 2
        middle = 0 if least < 0 else most - reach
        smallest = max(SMALLEST_RANGE, smallest_scale * reach)
        scale = torch.clamp(torch.maximum(-low, high), min=smallest) / reach
        zero_point = torch.full_like(scale, middle, dtype=torch.int32)
        return QParams(scale, zero_point, dtype, axis, middle - reach, middle + reach)
    steps = most - least
    span = torch.clamp(high - low, min=max(SMALLEST_RANGE, smallest_scale * steps))
    if not bool(torch.isfinite(span).all()):
        raise ConfigError("a range wider than the largest float32 cannot be quantized")
    zero_point = least + torch.round(-low * (torch.full_like(span, steps) / span)).to(torch.int32)
    return QParams(span / steps, zero_point, dtype, axis, quant_min, quant_max)


def as_uint8(qparams: QParams) -> QParams:
    """The same real numbers in uint8: what `int8` holds as `q`, `uint8` holds as `q + 128`.

    >>> found = as_uint8(QParams(torch.tensor(0.5), torch.tensor(0), INT8, quant_min=-127, quant_max=127))
    >>> int(found.zero_point), found.limits()
    (128, (1, 255))
    """
    if qparams.dtype is UINT8:
        return qparams
    if qparams.dtype is not INT8:
        raise ConfigError(f"{qparams.dtype} parameters have no uint8 form: use int8 or uint8")
    low, high = qparams.limits()
    return QParams(qparams.scale, qparams.zero_point + 128, UINT8, qparams.axis, low + 128, high + 128)


def choose_row_params(low: Tensor, high: Tensor, dtype: QuantizedType) -> tuple[Tensor, Tensor]:
    """`scale` and `offset` of rows that range over `low..high`: `real = integer * scale + offset`.

    `scale = max(high - low, 2^-118) / (quant_max - quant_min)`, computed in float64; `offset = low`. Unlike
    `choose_qparams` the range is not widened to hold zero: a table of embeddings is only looked up.
    """
    span = torch.clamp(high.double() - low.double(), min=SMALLEST_RANGE)
    return (span / (dtype.quant_max - dtype.quant_min)).float(), low.float()


def quantize_row_codes(x: Tensor, scale: Tensor, offset: Tensor, dtype: QuantizedType) -> Tensor:
    """`clamp(round((x - offset) / scale), 0, quant_max)` in float64; `(N, D)`, of `(N,)` parameters."""
    steps = (x.double() - offset.double()[:, None]) / scale.double()[:, None]
    return steps.round_().clamp_(0, dtype.quant_max).to(torch.uint8)
