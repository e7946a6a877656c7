"""The dynamic quantized Linear: one kernel behind a direct call and a `torch.library` op.

`run_linear_dynamic` passes addresses, for modules in eager mode; `torch.ops.intaglio.linear_dynamic`
takes plain tensors, for tracing, compiling and exporting. May import packing, rows, library and _core.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio import _core
from intaglio.ops.library import define_op
from intaglio.ops.packing import for_active_isa
from intaglio.ops.rows import allocate_rows

__all__ = [
    "linear_columns",
    "linear_dynamic",
    "quantize_activations",
    "run_linear_columns",
    "run_linear_dynamic",
]

_threads = torch.get_num_threads


def run_linear_dynamic(
    x: Tensor,
    packed: Tensor,
    out_features: int,
    per_row: bool = True,
    clamp: bool = False,
    lower: float = 0.0,
    upper: float = 0.0,
) -> Tensor:
    """Multiply float32 `(..., K)` on the CPU by a packed `(N, K)` weight; `(..., N)` float32.

    The caller has checked dtype and device. `ValueError` if K is not that of the weight.
    """
    if not x.is_contiguous():
        x = x.contiguous()
    y, rows, k = allocate_rows(x, out_features)
    _core.linear_dynamic(
        x.data_ptr(),
        rows,
        k,
        packed.data_ptr(),
        per_row,
        clamp,
        lower,
        upper,
        y.data_ptr(),
        _threads(),
    )
    return y


def linear_dynamic(
    x: Tensor,
    packed: Tensor,
    out_features: int,
    per_row: bool,
    clamp: bool,
    lower: float,
    upper: float,
) -> Tensor:
    """CPU kernel of `intaglio::linear_dynamic`: as `run_linear_dynamic`, for any float dtype."""
    packed = for_active_isa(packed)
    y = run_linear_dynamic(x.to(torch.float32), packed, out_features, per_row, clamp, lower, upper)
    return y.to(x.dtype)


def _fake_linear_dynamic(
    x: Tensor, packed: Tensor, out_features: int, per_row: bool, clamp: bool, lower: float, upper: float
) -> Tensor:
    return x.new_empty([*x.shape[:-1], out_features])


define_op(
    "linear_dynamic(Tensor x, Tensor packed, SymInt out_features, bool per_row, bool clamp, "
    "float lower, float upper) -> Tensor",
    linear_dynamic,
    _fake_linear_dynamic,
)


def run_linear_columns(x: Tensor, packed: Tensor, begin: int, end: int, per_row: bool = True) -> Tensor:
    """As `run_linear_dynamic`, but only columns `begin..end-1` of the result: `(..., end - begin)`.

    Whole panels are computed, so that the result may be a view of a wider tensor.
    """
    if not x.is_contiguous():
        x = x.contiguous()
    panel = _core.packed_panel(packed.data_ptr())
    first, last = begin // panel, -(-end // panel)
    width = min(last * panel, _core.packed_shape(packed.data_ptr())[0]) - first * panel
    y, rows, k = allocate_rows(x, width)
    _core.linear_dynamic_panels(
        x.data_ptr(), rows, k, packed.data_ptr(), per_row, first, last, y.data_ptr(), _threads()
    )
    return y[..., begin - first * panel : end - first * panel]


def linear_columns(x: Tensor, packed: Tensor, begin: int, end: int, per_row: bool) -> Tensor:
    """CPU kernel of `intaglio::linear_columns`: as `linear_dynamic`, for some of the columns."""
    packed = for_active_isa(packed)
    y = run_linear_columns(x.to(torch.float32), packed, begin, end, per_row)
    return y.to(x.dtype).contiguous()


def _fake_linear_columns(x: Tensor, packed: Tensor, begin: int, end: int, per_row: bool) -> Tensor:
    return x.new_empty([*x.shape[:-1], end - begin])


define_op(
    "linear_columns(Tensor x, Tensor packed, SymInt begin, SymInt end, bool per_row) -> Tensor",
    linear_columns,
    _fake_linear_columns,
)


def quantize_activations(x: Tensor, *, per_row: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Dynamic quantization of a contiguous `(M, K)` float32 tensor to uint8.

    Returns `q` `(M, K)` uint8, `scale` and `zero_point`, `(M,)`, or `(1,)` with `per_row=False`.
    """
    rows, cols = x.shape
    count = rows if per_row else 1
    q = torch.empty(rows, cols, dtype=torch.uint8)
    scale, zero_point = torch.empty(count), torch.empty(count, dtype=torch.int32)
    _core.quantize_activations(
        x.data_ptr(),
        rows,
        cols,
        per_row,
        q.data_ptr(),
        cols,
        scale.data_ptr(),
        zero_point.data_ptr(),
        _threads(),
    )
    return q, scale, zero_point
