"""Embeddings of 8 and 4 bit: packing, lookups and bags, each a direct call and a `torch.library` op.

A packed table is one `(N, 8 + D * bits / 8)` uint8 tensor whose rows hold scale, offset and codes side by
side (csrc/kernels/kernels.h, EmbeddingTable); it is the same on every instruction set. Every index is
checked; errors name `layer`. May import packing, library, errors and _core.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import ConfigError, InputError
from intaglio.ops.library import define_op
from intaglio.ops.packing import for_active_isa

__all__ = [
    "BAG_MODES",
    "bytes_of_row",
    "pack_table",
    "run_embedding",
    "run_embedding_bag",
    "run_linear_rows",
    "unpack_table",
]

BAG_MODES = ("sum", "mean", "max")
_PARAMS = 8
"""Bytes of a row's scale and offset."""

_empty = torch.empty
_float32 = torch.float32
_int64 = torch.int64
_threads = torch.get_num_threads


def bytes_of_row(width: int, bits: int) -> int:
    """Bytes of the codes of one row; of two 4-bit codes in a byte the first is the low one."""
    return (width * bits + 7) // 8


def pack_table(weight: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Rows for lookups from `(N, bytes_of_row)` uint8 codes and `(N,)` float32 scales and offsets."""
    rows = weight.shape[:1]
    if weight.dtype != torch.uint8 or not scale.shape == offset.shape == rows:
        raise ConfigError(
            f"pack_table takes (N, bytes) uint8 codes and (N,) scales and offsets, not {tuple(weight.shape)} "
            f"{weight.dtype}, {tuple(scale.shape)} and {tuple(offset.shape)}"
        )
    params = torch.stack([scale, offset], 1).to(torch.float32).view(torch.uint8)
    return torch.cat([params, weight], 1)


def unpack_table(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The codes, scales and offsets that `pack_table` took."""
    params = table[:, :_PARAMS].contiguous().view(torch.float32)
    return table[:, _PARAMS:].contiguous(), params[:, 0].contiguous(), params[:, 1].contiguous()


# ---- Lookups -------------------------------------------------------------------------------------------


def run_embedding(table: Tensor, indices: Tensor, width: int, bits: int, layer: str) -> Tensor:
    """Rows of `table` at int32 or int64 `indices` of any shape: `(*indices.shape, width)` float32.

    The caller has checked dtypes and device. `InputError`, naming `layer`, for an index that is no row.
    """
    if not indices.is_contiguous():
        indices = indices.contiguous()
    y = _empty(*indices.shape, width, dtype=_float32)
    try:
        _core.embedding_rows(
            table.data_ptr(),
            table.shape[0],
            width,
            bits,
            indices.data_ptr(),
            indices.numel(),
            indices.dtype is _int64,
            y.data_ptr(),
            _threads(),
        )
    except IndexError as error:
        raise InputError(f"{layer}: {error}") from None
    return y


def _fake_embedding(table: Tensor, indices: Tensor, width: int, bits: int, layer: str) -> Tensor:
    return indices.new_empty([*indices.shape, width], dtype=torch.float32)


define_op(
    "embedding(Tensor table, Tensor indices, int width, int bits, str layer) -> Tensor",
    run_embedding,
    _fake_embedding,
)


# ---- Bags ----------------------------------------------------------------------------------------------


def run_embedding_bag(
    table: Tensor,
    indices: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    width: int,
    bits: int,
    mode: str,
    include_last_offset: bool,
    padding_idx: int,
    layer: str,
) -> Tensor:
    """Bags of rows reduced by `mode`: `(bags, width)` float32.

    `indices` is `(bags, size)` with no offsets, or 1-d with `offsets` where each bag begins; `weights`
    float32 of the same shape, for 'sum' only; `padding_idx` -1 for none. The caller has checked dtypes,
    shapes and device. `InputError`, naming `layer`, for an index that is no row and offsets that make no
    bags.
    """
    indices = indices.contiguous()
    offsets = None if offsets is None else offsets.contiguous()
    weights = None if weights is None else weights.contiguous()
    bags = indices.shape[0] if offsets is None else offsets.shape[0] - int(include_last_offset)
    y = _empty(bags, width, dtype=_float32)
    try:
        _core.embedding_bags(
            table.data_ptr(),
            table.shape[0],
            width,
            bits,
            indices.data_ptr(),
            indices.numel(),
            indices.dtype is _int64,
            0 if offsets is None else offsets.data_ptr(),
            0 if offsets is None else offsets.shape[0],
            offsets is not None and offsets.dtype is _int64,
            include_last_offset,
            bags,
            0 if weights is None else weights.data_ptr(),
            BAG_MODES.index(mode),
            padding_idx,
            y.data_ptr(),
            _threads(),
        )
    except (IndexError, ValueError) as error:
        raise InputError(f"{layer}: {error}") from None
    return y


def _fake_embedding_bag(
    table: Tensor,
    indices: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    width: int,
    bits: int,
    mode: str,
    include_last_offset: bool,
    padding_idx: int,
    layer: str,
) -> Tensor:
    bags = indices.shape[0] if offsets is None else offsets.shape[0] - int(include_last_offset)
    return indices.new_empty([bags, width], dtype=torch.float32)


define_op(
    "embedding_bag(Tensor table, Tensor indices, Tensor? offsets, Tensor? weights, int width, int bits, "
    "str mode, bool include_last_offset, int padding_idx, str layer) -> Tensor",
    run_embedding_bag,
    _fake_embedding_bag,
)


# ---- Rows of a Linear's weight -------------------------------------------------------------------------


def run_linear_rows(packed: Tensor, indices: Tensor, width: int, layer: str) -> Tensor:
    """Rows of the `(N, width)` int8 weight that was packed, times their scales, as `run_embedding`.

    For an embedding that shares its weight with a Linear.
    """
    indices = indices.contiguous()
    y = _empty(*indices.shape, width, dtype=_float32)
    try:
        _core.packed_rows(
            packed.data_ptr(),
            indices.data_ptr(),
            indices.numel(),
            indices.dtype is _int64,
            y.data_ptr(),
            _threads(),
        )
    except IndexError as error:
        raise InputError(f"{layer}: {error}") from None
    return y


def linear_rows(packed: Tensor, indices: Tensor, width: int, layer: str) -> Tensor:
    """CPU kernel of `intaglio::linear_rows`: as `run_linear_rows`."""
    return run_linear_rows(for_active_isa(packed), indices, width, layer)


def _fake_linear_rows(packed: Tensor, indices: Tensor, width: int, layer: str) -> Tensor:
    return indices.new_empty([*indices.shape, width], dtype=torch.float32)


define_op(
    "linear_rows(Tensor packed, Tensor indices, int width, str layer) -> Tensor",
    linear_rows,
    _fake_linear_rows,
)
