"""Every kernel of the list, on every instruction set of this CPU, equals the reference bit for bit."""

import pytest
import torch

from intaglio import _core
from intaglio.ops import reference
from intaglio.ops.linear import run_linear_dynamic
from intaglio.ops.packing import MAX_K, pack_weight

from .kernel_cases import find_case
from .kernel_cases.gemm import same

ISAS = _core.available_isas()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", _core.kernel_names())
def test_kernel_equals_reference(kernel: str, isa: str) -> None:
    case = find_case(kernel)
    assert case is not None, f"kernel {kernel!r} is in the list but has no case in tests/kernel_cases"
    _core.force_isa(isa)
    case(isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("per_row", [True, False])
def test_threads_and_blocks_do_not_change_bits(isa: str, threads: int, per_row: bool) -> None:
    _core.force_isa(isa)
    torch.set_num_threads(threads)
    for m, k, n in ((1, 2000, 900), (40, 500, 130), (700, 700, 100), (2, 3, 5)):
        weight = torch.randint(-127, 128, (n, k), dtype=torch.int8)
        scale, bias = torch.rand(n) * 0.01, torch.randn(n)
        x = torch.randn(m, k)
        found = run_linear_dynamic(x, pack_weight(weight, scale, bias), n, per_row)
        expected = reference.linear_dynamic(x, weight, scale, bias, per_row=per_row)
        assert same(found, expected), (isa, threads, m, k, n)


@pytest.mark.parametrize("isa", ISAS)
def test_largest_sums_do_not_overflow(isa: str) -> None:
    # pytorch/FBGEMM#125: 255 * 127 twice saturates 16 bits; MAX_K of them still fit 32.
    _core.force_isa(isa)
    for k in (2, 64, MAX_K):
        weight = torch.full((2, k), 127, dtype=torch.int8)
        weight[1] = -128
        x = torch.ones(1, k)
        found = run_linear_dynamic(x, pack_weight(weight, torch.ones(2), None), 2)
        assert torch.equal(found, reference.linear_dynamic(x, weight, torch.ones(2)))


def test_forcing_an_unknown_or_missing_isa_raises() -> None:
    with pytest.raises(ValueError, match="not one that this CPU can run; it has: scalar"):
        _core.force_isa("avx1024")
