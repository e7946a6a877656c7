"""Cases of the float tensors around a Program: gathered sums, softmax, arithmetic, means, unit rows."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from intaglio import _core
from intaglio.ops import reference_rows
from intaglio.ops import reference_tensors as reference
from intaglio.ops.reference_rows import Finished, Tail

from .gemm import hard_rows, same
from .rows import WIDTHS, addresses, check, empty_outputs, tail_arguments


def embed(tables: list[Tensor], indices: list[Tensor], tail: Tail, wanted: str, threads: int = 1) -> Finished:
    """Call the driver; shorter indices are repeated."""
    rows, cols = max(i.numel() for i in indices), tables[0].shape[1]
    out = empty_outputs(rows, cols)
    places = {"sum": {"sum": out.sum}, "y": {"y": out.y}}
    places["q"] = {"out_q": out.q, "out_scale": out.scale, "out_zero_point": out.zero_point}
    some = {k: v for name in wanted.split() for k, v in places[name].items()}
    arguments = {k: v for k, v in tail_arguments(tail).items() if k not in ("function", "lower", "upper")}
    _core.embed_rows(
        [
            (t.data_ptr(), t.shape[0], i.data_ptr(), i.numel(), i.dtype == torch.int64)
            for t, i in zip(tables, indices, strict=True)
        ],
        *(rows, cols),
        **arguments,
        **addresses(**some),
        threads=threads,
    )
    return out


def case_gather_sums(isa: str) -> None:
    for cols, count in itertools.product((1, 17, 64, 100), (1, 2, 3, 4)):
        tables = [torch.randn(9, cols) for _ in range(count)]
        indices = [
            torch.randint(0, 9, (n,), dtype=d)
            for n, d in zip((40, 8, 1, 40), (torch.int64, torch.int32) * 2, strict=True)
        ]
        total = tables[0][indices[0].long()]
        for table, index in zip(tables[1:], indices[1:], strict=False):
            total = total + table[index.long().repeat(40 // index.numel())]
        for tail, wanted in ((Tail(), "y"), (Tail(norm="layer", epsilon=1e-5), "sum y q")):
            found = embed(tables, indices[:count], tail, wanted)
            check(found, reference_rows.finish_rows(total, tail), wanted, (isa, cols, count))


def apart(x: Tensor) -> Tensor:
    """The same rows with a stride of their own, off any alignment."""
    wide = torch.full((x.shape[0], x.shape[1] + 5), 9.0)
    wide[:, 1:-4] = x
    return wide[:, 1:-4]


def each_row(run: Callable[..., None], x: Tensor, *more: float) -> Tensor:
    """Call a driver of rows; nothing beside its result may be written."""
    x, y = apart(x), torch.full((x.shape[0], x.shape[1] + 2), -7.0)
    run(x.data_ptr(), x.stride(0), *x.shape, *more, y.data_ptr(), y.stride(0))
    assert bool((y[:, -2:] == -7.0).all())
    return y[:, :-2].contiguous()


def case_softmax_floats(isa: str) -> None:
    for cols in WIDTHS:
        x = torch.cat([hard_rows(cols), torch.randn(3, cols) * 30, torch.full((1, cols), -torch.inf)])
        assert same(each_row(_core.softmax_floats, x), reference.softmax(x)), (isa, cols)


def case_unit_rows(isa: str) -> None:
    for cols in WIDTHS:
        x = hard_rows(cols)
        assert same(each_row(_core.unit_rows, x, 1e-12), reference.unit_rows(x, 1e-12)), (isa, cols)


def case_mean_rows(isa: str) -> None:
    for cols, rows in itertools.product((*WIDTHS, 130), (1, 2, 7)):
        x = torch.randn(3, rows, cols)
        x[1, 0, 0] = torch.nan
        y = torch.empty(3, cols)
        _core.mean_rows(x.data_ptr(), cols, rows, cols, y.data_ptr(), 3, rows * cols)
        assert same(y, reference.mean_rows(x)), (isa, cols, rows)


def case_combine_floats(isa: str) -> None:
    ops = (torch.add, torch.sub, torch.mul, torch.div)
    for cols, (code, op) in itertools.product(WIDTHS, enumerate(ops)):
        full, row, column, one = (torch.randn(s) for s in ((5, cols), (1, cols), (5, 1), (1, 1)))
        full[2, 0] = torch.inf
        for a, b in (
            (full, full.flip(0)),
            (full, row),
            (row, full),
            (full, column),
            (one, full),
            (full, one),
        ):
            y = torch.full((5, cols + 1), -7.0)
            operands = ((t.data_ptr(), t.stride(0) if t.shape[0] > 1 else 0, t.shape[1] == 1) for t in (a, b))
            _core.combine_floats(code, *operands, 5, cols, y.data_ptr(), cols + 1)
            assert same(y[:, :-1].contiguous(), op(a, b)), (isa, cols, op)
            assert bool((y[:, -1] == -7.0).all())
