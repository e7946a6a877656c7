"""Products of two quantized activations: batches, broadcasting, strides, vectors, threads."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from intaglio import InputError, _core
from intaglio.ops import reference_elementwise as reference
from intaglio.ops.matmul_static import matmul

from .kernel_cases.matmul import PARAMS, bytes_of

SHAPES = [
    ((3, 5), (5, 4)),
    ((2, 3, 5), (2, 5, 4)),
    ((2, 3, 5), (5, 4)),
    ((3, 5), (2, 5, 4)),
    ((2, 1, 3, 5), (4, 5, 6)),
    ((5,), (5, 4)),
    ((3, 5), (5,)),
    ((5,), (5,)),
    ((2, 3, 5), (5,)),
    ((5,), (2, 5, 4)),
    ((0, 3, 5), (5, 4)),
    ((3, 0), (0, 4)),
]


@pytest.mark.parametrize(("shape_a", "shape_b"), SHAPES, ids=str)
def test_shapes_are_those_of_torch(shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> None:
    a, b = bytes_of(*shape_a), bytes_of(*shape_b)
    found = matmul(a, b, *PARAMS[0])
    assert found.shape == torch.matmul(a.float(), b.float()).shape
    assert torch.equal(found, reference.matmul(a, b, *PARAMS[0]))


def test_operands_are_read_where_they_lie() -> None:
    # Queries and keys of attention, the heads split off by views.
    q, k, v = (bytes_of(2, 9, 3, 8).transpose(1, 2) for _ in range(3))
    scores = matmul(q, k.transpose(-2, -1), *PARAMS[0])
    assert torch.equal(scores, reference.matmul(q, k.transpose(-2, -1), *PARAMS[0]))
    assert torch.equal(matmul(scores, v, *PARAMS[0]), reference.matmul(scores, v, *PARAMS[0]))

    def forms(rows: int, cols: int) -> list[Tensor]:
        found = [bytes_of(rows, cols), bytes_of(cols, rows).t(), bytes_of(rows, 2 * cols)[:, ::2]]
        return [*found, bytes_of(rows, cols).flip(0), bytes_of(1, cols).expand(rows, -1)]

    for a, b in itertools.product(forms(8, 16), forms(16, 9)):
        assert torch.equal(matmul(a, b, *PARAMS[1]), reference.matmul(a, b, *PARAMS[1]))


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_bits(isa: str, threads: int) -> None:
    _core.force_isa(isa)
    torch.set_num_threads(threads)
    for shape_a, shape_b in (((12, 60, 70), (12, 70, 65)), ((500, 80), (80, 130)), ((2, 300, 64), (64, 90))):
        a, b = bytes_of(*shape_a), bytes_of(*shape_b)
        assert torch.equal(matmul(a, b, *PARAMS[0]), reference.matmul(a, b, *PARAMS[0]))


def test_what_cannot_be_multiplied_is_refused() -> None:
    def refused(a: Tensor, b: Tensor, message: str) -> None:
        with pytest.raises(InputError, match=message):
            matmul(a, b, *PARAMS[0])

    refused(bytes_of(2, 3), bytes_of(4, 5), r"\(2, 3\) and \(4, 5\) cannot be multiplied")
    refused(bytes_of(2, 3, 4), bytes_of(3, 4, 5), r"cannot be multiplied")
    refused(bytes_of(2, 3).float(), bytes_of(3, 5), r"not one of torch\.float32")
    refused(bytes_of(1, 33026), bytes_of(33026, 1), "K = 33026 exceeds 33025")


def test_the_op_is_registered_as_torch_expects() -> None:
    for shape_a, shape_b in SHAPES[:5]:
        args = (bytes_of(*shape_a), bytes_of(*shape_b), *PARAMS[0])
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(torch.ops.intaglio.matmul_quantized, args, test_utils=checks)
