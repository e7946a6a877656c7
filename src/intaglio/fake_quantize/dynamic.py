"""Fake quantization of values that get their range when they come: each row, sample or group by itself.

May import straight_through, ops and qparams.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.fake_quantize.straight_through import keep_gradient
from intaglio.ops.reference import fma32, quantize_rows
from intaglio.qparams import (
    UINT4,
    UINT8,
    PerGroup,
    PerTensor,
    QuantizedType,
    choose_row_params,
    quantize_row_codes,
)

__all__ = ["round_dynamically", "round_samples", "round_table_rows"]


def round_dynamically(x: Tensor, granularity: object = None) -> Tensor:
    """`x`, each row of its last axis rounded to uint8 by its own range, or as `granularity` says.

    `PerTensor()`, `PerGroup(size)` and `PerRow()` as dynamic qconfigs have them. Nothing is cut off, so the
    gradient passes everywhere. A row with NaN or infinity becomes NaN, as it does in the quantized layer.

    >>> round_dynamically(torch.tensor([[0.0, 0.2, 1.0], [0.0, 0.009, 5.0]]))
    tensor([[0.0000, 0.2000, 1.0000],
            [0.0000, 0.0000, 5.0000]])
    """
    if isinstance(granularity, PerTensor):
        return _rounded(x, (1, -1))
    width = granularity.size if isinstance(granularity, PerGroup) else x.shape[-1] if x.dim() else 1
    if x.numel() and width < x.shape[-1] and x.shape[-1] % width:
        whole = x.shape[-1] // width * width
        return torch.cat([_rounded(x[..., :whole], (-1, width)), round_dynamically(x[..., whole:])], -1)
    return _rounded(x, (-1, width))


def round_samples(x: Tensor, dims: int) -> Tensor:
    """`(N, C, *size)`, or one sample without N, each rounded by its own range; `size` has `dims` axes."""
    return _rounded(x, (1 if x.dim() == dims + 1 else len(x), -1))


def _rounded(x: Tensor, shape: tuple[int, int]) -> Tensor:
    if x.numel() == 0:
        return x
    rows = x.detach().float().reshape(shape)
    q, scale, zero_point = quantize_rows(rows)
    rounded = (q.to(torch.int32) - zero_point[:, None]).float() * scale[:, None]
    return keep_gradient(x, rounded.view(x.shape).to(x.dtype))


def round_table_rows(rows: Tensor, dtype: QuantizedType) -> Tensor:
    """Rows of an embedding, each by its own range, as `QuantizedEmbedding` stores them."""
    if rows.numel() == 0:
        return rows
    flat = rows.reshape(-1, rows.shape[-1])
    kind = UINT4 if dtype is UINT4 else UINT8
    scale, offset = choose_row_params(*torch.aminmax(flat, dim=1), kind)
    codes = quantize_row_codes(flat, scale, offset, kind)
    return fma32(codes.float(), scale[:, None], offset[:, None]).view(rows.shape)
