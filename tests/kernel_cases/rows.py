"""Cases of a Program's float kernels: functions, normalization and quantization of rows."""

import itertools

import torch
from torch import Tensor

from intaglio import _core
from intaglio.ops import reference_rows as reference
from intaglio.ops.reference_rows import FUNCTIONS, NORMS, Finished, Tail

from .gemm import hard_rows, same

WIDTHS = (1, 3, 8, 15, 16, 17, 31, 33, 50, 64, 100)


def addresses(**tensors: Tensor | None) -> dict[str, int]:
    """Pointers and row strides of the tensors that there are, as `_core.run_rows` takes them."""
    found = {}
    for name, tensor in tensors.items():
        if tensor is not None:
            found[name] = tensor.data_ptr()
            if tensor.dim() == 2:
                found[f"{name}_stride"] = tensor.stride(0)
    return found


def tail_arguments(tail: Tail) -> dict[str, object]:
    """The fields of RowsCall that say what follows a product."""
    return {
        "function": list(FUNCTIONS).index(tail.function),
        "lower": tail.lower,
        "upper": tail.upper,
        "norm": NORMS.index(tail.norm),
        "epsilon": tail.epsilon,
        **addresses(residual=tail.residual, weight=tail.weight, bias=tail.bias),
    }


def empty_outputs(rows: int, cols: int) -> Finished:
    """Room for every result, a little apart; what must not be written is -7 or 77."""
    return Finished(
        torch.full((rows, cols + 3), -7.0),
        torch.full((rows, cols + 1), -7.0),
        torch.full((rows, (cols + 3) // 4 * 4), 77, dtype=torch.uint8),
        torch.empty(rows),
        torch.empty(rows, dtype=torch.int32),
    )


def run_rows(x: Tensor, tail: Tail, cols: int, wanted: str = "sum y q", **more: object) -> Finished:
    """Call the driver; `x` is `(M, K)` float32. What is not `wanted` is not stored."""
    out = empty_outputs(x.shape[0], cols)
    to = {"sum": {"sum": out.sum}, "y": {"y": out.y}}
    to["q"] = {"out_q": out.q, "out_scale": out.scale, "out_zero_point": out.zero_point}
    places = {k: v for name in wanted.split() for k, v in to[name].items()}
    arguments = addresses(x=x) | tail_arguments(tail) | addresses(**places) | more
    _core.run_rows(x.shape[0], x.shape[1], **arguments)
    return out


def check(found: Finished, expected: Finished, wanted: str, where: object) -> None:
    cols = expected.y.shape[1]
    for name in wanted.split():
        got, rest = (
            t.contiguous()
            for t in getattr(found, name).split([cols, getattr(found, name).shape[1] - cols], 1)
        )
        assert same(got, getattr(expected, name)), (where, name)
        assert bool((rest == (0 if name == "q" else -7.0)).all()), (where, name)
    if "q" in wanted:
        assert same(found.scale, expected.scale), where
        assert same(found.zero_point, expected.zero_point), where


def case_finish_rows(isa: str) -> None:
    for function, wanted in itertools.product(FUNCTIONS, ("y", "q")):
        x = torch.cat([hard_rows(33), torch.randn(2, 33) * 4, torch.linspace(-15, 15, 33)[None]])
        tail = Tail(function, -0.25, 1.5)
        check(run_rows(x, tail, 33, wanted), reference.finish_rows(x, tail), wanted, (isa, function))
    for cols, norm, residual in itertools.product(WIDTHS, NORMS, (False, True)):
        x = hard_rows(cols)
        tail = Tail(
            residual=torch.randn(len(x), cols) if residual else None,
            norm=norm,
            weight=torch.randn(cols) if cols % 2 else None,
            bias=torch.randn(cols) if cols % 3 else None,
            epsilon=1e-5,
        )
        expected = reference.finish_rows(x, tail)
        for wanted in ("sum", "y", "q", "sum y", "sum q", "y q", "sum y q"):
            check(run_rows(x, tail, cols, wanted), expected, wanted, (isa, cols, norm, residual))
    x = torch.randn(3, 40)
    tail = Tail("gelu", residual=torch.randn(3, 40), norm="layer", epsilon=1e-5)
    for wanted in ("y", "q", "sum y q"):
        check(run_rows(x, tail, 40, wanted), reference.finish_rows(x, tail), wanted, isa)
    run_rows(torch.empty(0, 8), tail, 8, "y q")
