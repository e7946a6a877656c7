"""Cases of the static family: the GEMM from uint8 to uint8."""

import itertools

import torch
from torch import Tensor

from intaglio import _core
from intaglio.ops.packing import pack_weight
from intaglio.ops.reference import matmul_exact
from intaglio.ops.reference_conv_static import requantize_sums

from .gemm import ROWS, WIDTHS

# multiplier, zero point, lower, upper: ordinary, saturating both ends, clamped, one value
FORMS = ((3e-4, 131, 0, 255), (1e9, 0, 0, 255), (1e-3, 17, 17, 99), (0.5, 255, 7, 7))


def case_gemm_static(isa: str) -> None:
    for n, runs in itertools.product(WIDTHS, ((0, 4), (1, 1), (1, 5), (1, 64), (3, 21), (9, 8))):
        for vectors in (0, 1, 2, 3, 4):
            weight = torch.randint(-128, 128, (n, runs[0] * runs[1]), dtype=torch.int8)
            packed = pack_runs(weight, *runs, vectors)
            for m in ROWS if vectors == 0 else (13,):
                form = FORMS[(m + n) % len(FORMS)]
                check_gemm(isa, m, weight, packed, runs, form, table=(m + n) % 2 == 0)


def pack_runs(weight: Tensor, count: int, length: int, vectors: int) -> Tensor:
    """`weight` packed with each run of K padded to 4."""
    n = len(weight)
    padded = torch.nn.functional.pad(weight.view(n, count, length), (0, -length % 4))
    return pack_weight(padded.reshape(n, -1), torch.ones(n), None, panel_vectors=vectors)


def check_gemm(
    isa: str,
    m: int,
    weight: Tensor,
    packed: Tensor,
    runs: tuple[int, int],
    form: tuple[float, int, int, int],
    table: bool,
) -> None:
    n = len(weight)
    count, length = runs
    scale, zero_point, lower, upper = form
    image = torch.randint(0, 256, (4096,), dtype=torch.uint8)
    run = [(7 + 301 * r) % 997 for r in range(count)]
    start = [(i * 37) % 2003 for i in range(m)] if table else []
    place = [i * (n + 3) + 5 for i in range(m)][::-1] if table else []
    rows = torch.stack(
        [
            torch.cat([image[:0], *(image[at + r : at + r + length] for r in run)])
            for at in (start or range(0, 24 * m, 24))
        ]
    )
    multiplier = torch.rand(n) * scale
    offset = torch.randn(n) * 40
    for residual in (None, torch.randint(0, 256, (m * (n + 3) + 8,), dtype=torch.uint8)):
        y = torch.full((m * (n + 3) + 8,), 99, dtype=torch.uint8)
        _core.gemm_static(
            image.data_ptr(),
            start,
            24,
            m,
            run,
            length,
            113,
            packed.data_ptr(),
            multiplier.data_ptr(),
            offset.data_ptr(),
            zero_point,
            lower,
            upper,
            0 if residual is None else residual.data_ptr(),
            200,
            0.37,
            y.data_ptr(),
            place,
            n + 3,
        )
        at = torch.tensor(place or range(0, m * (n + 3), n + 3))[:, None] + torch.arange(n)
        expected = torch.full_like(y, 99)
        expected[at] = requantize_sums(
            matmul_exact(rows.to(torch.int32) - 113, weight),
            multiplier,
            offset,
            zero_point,
            lower,
            upper,
            residual=None if residual is None else residual[at],
            residual_zero_point=200,
            residual_multiplier=0.37,
        )
        assert torch.equal(y, expected), (isa, m, n, runs, form, table, residual is None)
