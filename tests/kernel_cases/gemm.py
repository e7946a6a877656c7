"""Cases of the GEMM family: quantization of activations, packing, and the product with its epilogue."""

import math

import torch
from torch import Tensor

from intaglio import _core
from intaglio.ops import reference
from intaglio.ops.linear import quantize_activations
from intaglio.ops.packing import pack_weight, unpack_weight

# Rows and widths about every tile, panel, vector and group of any instruction set.
ROWS = (1, 2, 3, 5, 6, 7, 8, 9, 12, 13, 17)
WIDTHS = (1, 3, 8, 15, 16, 17, 31, 48, 50, 64, 72, 96, 129)
DEPTHS = (1, 2, 3, 4, 5, 7, 8, 33, 64, 127)


def hard_rows(cols: int) -> Tensor:
    """Rows that a quantizer gets wrong: constant, one-sided, tiny, huge, subnormal, not finite, ties."""
    rows = [
        torch.zeros(cols),
        torch.full((cols,), 3.0),
        torch.full((cols,), -3.0),
        torch.linspace(0, 1, cols),
        torch.linspace(-1, 0, cols),
        torch.randn(cols) * 1e-30,
        torch.randn(cols) * 1e30,
        torch.full((cols,), 1e-42),
        torch.arange(cols).float() / 2,
        torch.full((cols,), torch.nan),
        torch.randn(cols).index_fill_(0, torch.tensor([cols - 1]), torch.inf),
        torch.randn(cols).index_fill_(0, torch.tensor([0]), -torch.inf),
        torch.randn(cols).index_fill_(0, torch.tensor([cols // 2]), torch.nan),
        torch.full((cols,), 3e38) * torch.linspace(-1, 1, cols).sign(),
    ]
    return torch.cat([torch.stack(rows), torch.randn(3, cols)])


def same(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit, any NaN equal to any other."""
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def case_quantize_rows(isa: str) -> None:
    for cols in (*DEPTHS, 300):
        x = hard_rows(cols)
        for found, expected in zip(quantize_activations(x), reference.quantize_rows(x), strict=True):
            assert same(found, expected), (isa, cols)


def case_find_range(isa: str) -> None:
    for cols in DEPTHS:
        for row in hard_rows(cols):
            x = row.reshape(1, -1)
            _, scale, zero_point = quantize_activations(x, per_row=False)
            _, expected_scale, expected_zero_point = reference.quantize_rows(x, per_row=False)
            assert same(scale, expected_scale), (isa, cols, row)
            assert same(zero_point, expected_zero_point), (isa, cols, row)


def case_quantize_values(isa: str) -> None:
    for cols in DEPTHS:
        x = torch.randn(6, cols) * torch.tensor([1.0, 0.1, 1e-4, 1e4, 0.0, -3.0])[:, None]
        q, _, _ = quantize_activations(x, per_row=False)
        expected, _, _ = reference.quantize_rows(x, per_row=False)
        assert same(q, expected), (isa, cols)


def random_weight(n: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    weight = torch.randint(-127, 128, (n, k), dtype=torch.int8)
    return weight, torch.rand(n) * 0.01 + 1e-4, torch.randn(n)


def case_pack_gemm(isa: str) -> None:
    for n in WIDTHS:
        for k in DEPTHS:
            plain = random_weight(n, k)
            for panel_vectors in (0, 1, 2, 3, 4):
                packed = pack_weight(*plain, panel_vectors=panel_vectors)
                assert _core.packed_shape(packed.data_ptr()) == (n, k, isa)
                for found, expected in zip(unpack_weight(packed), plain, strict=True):
                    assert same(found, expected), (isa, n, k, panel_vectors)


case_unpack_gemm = case_pack_gemm


def run_gemm(
    q: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    packed: Tensor,
    out: Tensor,
    *,
    addend: Tensor | None = None,
    clamp: tuple[float, float] | None = None,
    requantize: tuple[float, int] | None = None,
) -> Tensor:
    """Call the kernel; `q` is `(M, K padded to 4)`."""
    stride = 1 if scale.numel() == q.shape[0] and q.shape[0] > 1 else 0
    lower, upper = clamp or (0.0, 0.0)
    inverse, out_zero_point = requantize or (0.0, 0)
    addend_at = (0, 0) if addend is None else (addend.data_ptr(), addend.stride(0))
    _core.gemm(
        q.data_ptr(),
        q.stride(0),
        q.shape[0],
        packed.data_ptr(),
        scale.data_ptr(),
        zero_point.data_ptr(),
        stride,
        *addend_at,
        clamp is not None,
        lower,
        upper,
        requantize is not None,
        inverse,
        out_zero_point,
        out.data_ptr(),
        out.stride(0),
    )
    return out


def case_gemm(isa: str) -> None:
    for n in WIDTHS:
        for k in (1, 5, 64):
            weight, weight_scale, bias = random_weight(n, k)
            packed = pack_weight(weight, weight_scale, bias)
            for m in ROWS:
                check_epilogues(isa, m, weight, weight_scale, bias, packed)


def check_epilogues(
    isa: str, m: int, weight: Tensor, weight_scale: Tensor, bias: Tensor, packed: Tensor
) -> None:
    n, k = weight.shape
    q = torch.full((m, (k + 3) // 4 * 4 + 8), 77, dtype=torch.uint8)  # what lies beyond K is any value
    q[:, :k] = torch.randint(0, 256, (m, k))
    scale, zero_point = torch.rand(m) * 0.1, torch.randint(0, 256, (m,), dtype=torch.int32)
    scale[m // 2] = torch.nan
    acc = reference.matmul_exact(q[:, :k].to(torch.int32) - zero_point[:, None], weight)
    plain = reference.epilogue(acc, scale, weight_scale, bias[None])
    out = torch.full((m, n + 3), -7.0)  # a row stride of its own: nothing beyond N may be written
    run_gemm(q, scale, zero_point, packed, out)
    assert same(out[:, :n].contiguous(), plain), (isa, m, n, k)
    assert bool((out[:, n:] == -7.0).all())

    out = run_gemm(q, scale, zero_point, packed, torch.empty(m, n), clamp=(-0.5, math.inf))
    assert same(out, reference.clamp_activation(plain, -0.5, math.inf)), (isa, m, n, k)

    addend = torch.randn(m, n)
    out = run_gemm(q, scale, zero_point, packed, torch.empty(m, n), addend=addend)
    assert same(out, reference.epilogue(acc, scale, weight_scale, addend)), (isa, m, n, k)

    for inverse, out_zero_point in ((3.7, 128), (1e30, 0), (0.01, 255)):
        found = run_gemm(
            q,
            scale,
            zero_point,
            packed,
            torch.empty(m, n, dtype=torch.uint8),
            requantize=(inverse, out_zero_point),
        )
        assert same(found, reference.requantize(plain, inverse, out_zero_point)), (isa, m, n, k, inverse)

    one_scale, one_zero_point = scale[:1].nan_to_num(0.1), zero_point[:1]
    out = run_gemm(q, one_scale, one_zero_point, packed, torch.empty(m, n))
    acc = reference.matmul_exact(q[:, :k].to(torch.int32) - one_zero_point, weight)
    assert same(out, reference.epilogue(acc, one_scale.expand(m), weight_scale, bias[None])), (isa, m, n, k)
