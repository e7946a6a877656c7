"""Cases of products of two activations: every tail of the packing, of the tiles, and sums at their limits."""

import itertools

import torch
from torch import Tensor

from intaglio.ops import reference_elementwise as reference
from intaglio.ops.matmul_static import matmul

ROWS = (1, 2, 5, 6, 8, 12, 13, 30)
WIDTHS = (1, 7, 8, 16, 17, 33, 48, 64, 70, 130)
DEPTHS = (1, 3, 4, 5, 16, 18, 32, 67)
# scale_a, zero_point_a, scale_b, zero_point_b, scale, zero_point, lower, upper
PARAMS = (
    (0.02, 120, 0.05, 3, 0.6, 99, 0, 255),
    (1.0, 0, 1.0, 128, 100.0, 128, 1, 255),
    (3.0, 255, 3.0, 255, 1e-9, 10, 10, 200),
)


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def case_matmul_static(isa: str) -> None:
    for m, n, k in itertools.product(ROWS, WIDTHS, DEPTHS):
        a, b = bytes_of(m, k), bytes_of(k, n)
        params = PARAMS[(m + n + k) % len(PARAMS)]
        expected = reference.matmul(a, b, *params)
        assert torch.equal(matmul(a, b, *params), expected), (isa, m, n, k, params)
        turned = b.t().contiguous().t()
        assert torch.equal(matmul(a, turned, *params), expected), (isa, m, n, k, params)
    for k, value, zero_point in itertools.product((256, 33025), (0, 255), (0, 255)):
        a, b = torch.full((2, k), value, dtype=torch.uint8), bytes_of(k, 3)
        b[:, 1], b[:, 2] = value, 255 - value
        params = (1.0, zero_point, 1.0, zero_point, 2.0**24, 100, 0, 255)
        assert torch.equal(matmul(a, b, *params), reference.matmul(a, b, *params)), (isa, k, value)


case_pack_matmul = case_matmul_static
