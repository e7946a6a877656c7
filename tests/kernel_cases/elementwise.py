"""Cases of elementwise arithmetic: tables, sums and products, of the same shape and with a row repeated."""

import itertools

import torch
from torch import Tensor

from intaglio import _core
from intaglio.ops import reference_elementwise as reference
from intaglio.ops.elementwise import add, concatenate, lookup, mul

# Counts about every vector of any instruction set, in bytes and in floats.
COUNTS = (1, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129, 300)
# scale_a, zero_point_a, scale_b, zero_point_b, scale, zero_point, lower, upper
PARAMS = (
    (0.02, 120, 0.05, 3, 0.06, 99, 0, 255),
    (1.0, 0, 1.0, 255, 1.0, 128, 1, 255),
    (1e-3, 128, 3.0, 128, 0.5, 10, 10, 200),
    (1e20, 7, 1e18, 200, 1e-8, 128, 0, 255),
    (0.1, 20, 0.1, 20, 0.2, 0, 0, 255),
)


def bytes_of(*shape: int) -> Tensor:
    """Random integers, their extremes among them."""
    x = torch.randint(0, 256, shape, dtype=torch.uint8)
    x.view(-1)[0], x.view(-1)[-1] = 0, 255
    return x


def case_look_up_bytes(isa: str) -> None:
    table = torch.randperm(256).to(torch.uint8)
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(lookup(every, table), table)
    for count, permutes in itertools.product(COUNTS, (False, _core.cpu_permutes_bytes())):
        x, y = bytes_of(count), torch.zeros(count + 64, dtype=torch.uint8)
        _core.look_up_bytes(x.data_ptr(), count, table.data_ptr(), y.data_ptr(), permutes, 1)
        assert torch.equal(y[:count], table[x.long()]), (isa, count, permutes)
        assert not y[count:].any(), (isa, count, permutes)
    for widths in itertools.product((1, 5, 16, 24, 64, 70), repeat=2):
        parts = [bytes_of(9, width) for width in widths]
        found = concatenate(parts, [0.1, 0.2], [3, 4], 1, 0.1, 3)
        expected = [parts[0], reference.requantize(parts[1], 0.2, 4, 0.1, 3)]
        assert torch.equal(found, torch.cat(expected, 1)), (isa, widths)


def check_pairs(isa: str, found: object, expected: object) -> None:
    for params, count in itertools.product(PARAMS, COUNTS):
        for shape_a, shape_b in (((count,), (count,)), ((7, count), (count,)), ((count,), (5, count))):
            a, b = bytes_of(*shape_a), bytes_of(*shape_b)
            case = (isa, params, shape_a, shape_b)
            assert torch.equal(found(a, b, *params), expected(a, b, *params)), case  # type: ignore[operator]
    every = torch.arange(256, dtype=torch.uint8)
    for params in PARAMS:
        a, b = every.repeat(256), every.repeat_interleave(256)
        assert torch.equal(found(a, b, *params), expected(a, b, *params)), (isa, params)  # type: ignore[operator]


def case_add_pairs(isa: str) -> None:
    check_pairs(isa, add, reference.add)


def case_mul_pairs(isa: str) -> None:
    check_pairs(isa, mul, reference.mul)
