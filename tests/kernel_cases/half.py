"""Cases of the float16-weight family: packing, and the product on a bias or an addend."""

import torch
from torch import Tensor

from intaglio import _core
from intaglio.ops import reference
from intaglio.ops.half import pack_half_weight, run_linear_half, unpack_half_weight

from .gemm import DEPTHS, ROWS, WIDTHS, same

# Several panels side by side, which one or two rows compute together.
PANELS = (128, 256, 300)


def random_half_weight(n: int, k: int) -> tuple[Tensor, Tensor]:
    """Weights of every size that a half can have, its subnormals and its largest included."""
    weight = torch.randn(n, k) * 2.0 ** torch.randint(-30, 1, (n, k))
    weight[0, 0], weight[-1, -1] = 65504.0, -(2.0**-24)
    return weight.half(), torch.randn(n)


def case_pack_half(isa: str) -> None:
    for n in (*WIDTHS, *PANELS):
        for k in DEPTHS:
            weight, bias = random_half_weight(n, k)
            packed = pack_half_weight(weight, bias)
            assert _core.packed_shape(packed.data_ptr()) == (n, k, isa)
            assert same(unpack_half_weight(packed)[0], weight), (isa, n, k)
            assert same(unpack_half_weight(packed)[1], bias), (isa, n, k)


case_unpack_half = case_pack_half


def case_gemm_half(isa: str) -> None:
    for n in (*WIDTHS, *PANELS):
        for k in (1, 5, 64):
            weight, bias = random_half_weight(n, k)
            packed = pack_half_weight(weight, bias)
            x = torch.randn(max(ROWS), k)
            x[2, 0], x[4, k // 2], x[6, -1] = torch.nan, torch.inf, 1e38
            expected = reference.linear_half(x, weight, bias)
            addend = torch.randn(max(ROWS), n)
            expected_sum = reference.linear_half(x, weight, addend)
            for m in ROWS:
                assert same(run_linear_half(x[:m], packed, n), expected[:m]), (isa, m, n, k)
                found = run_linear_half(x[:m], packed, n, addend[:m])
                assert same(found, expected_sum[:m]), (isa, m, n, k)
    check_every_half(isa)


def check_every_half(isa: str) -> None:
    """Each of the 65536 halves widens to itself, infinities and NaN included."""
    weight = torch.arange(-32768, 32768).to(torch.int16).view(torch.float16).reshape(-1, 1)
    found = run_linear_half(torch.ones(1, 1), pack_half_weight(weight, None), len(weight))
    assert same(found, weight.float().T), isa
