"""Cases of pooling: windows about the borders, channels about every vector, and sums at their limits."""

import itertools

import torch
from torch import Tensor

from intaglio.ops import reference_pooling as reference
from intaglio.ops.layout import with_channels_innermost
from intaglio.ops.pooling import adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool

CHANNELS = (1, 3, 4, 8, 16, 24, 31, 32, 33, 63, 64, 65, 100, 128, 256, 300)
# kernel, stride, padding, dilation
WINDOWS = (
    ((3, 3), (2, 2), (1, 1), (1, 1)),
    ((2, 2), (2, 2), (0, 0), (1, 1)),
    ((1, 4), (1, 3), (0, 2), (1, 1)),
    ((5, 2), (3, 1), (2, 1), (1, 3)),
)


def image(*shape: int) -> Tensor:
    return with_channels_innermost(torch.randint(0, 256, shape, dtype=torch.uint8))


def case_max_pool_row(isa: str) -> None:
    for channels, windows in itertools.product(CHANNELS, WINDOWS):
        x = image(2, channels, 7, 6)
        y = max_pool(x, *windows)
        expected = reference.largest(x, reference.windows(x.shape[2:], y.shape[2:], *windows))
        assert torch.equal(y, expected), (isa, channels, windows)
    x = image(1, 5, 7, 6)
    for size in ((1, 1), (3, 4), (9, 2)):
        expected = reference.largest(x, reference.adaptive_windows((7, 6), size))
        assert torch.equal(adaptive_max_pool(x, size), expected), (isa, size)


def case_average_pool_row(isa: str) -> None:
    for channels, windows, count_padding in itertools.product(CHANNELS, WINDOWS[:3], (True, False)):
        x = image(2, channels, 7, 6)
        y = avg_pool(x, *windows[:3], False, count_padding, zero_point=100)
        axes = reference.windows(x.shape[2:], y.shape[2:], *windows, count_padding)
        assert torch.equal(y, reference.average(x, axes, 100)), (isa, channels, windows, count_padding)
    x = image(1, 5, 40, 35)  # more taps than 16 bits hold the sums of
    x[:, 0] = 255
    for size, divisor, limits in itertools.product(((1, 1), (3, 4)), (0, 1, 7), ((0, 255), (30, 200))):
        axes = reference.adaptive_windows((40, 35), size)
        expected = reference.average(x, axes, 30, *limits)
        found = adaptive_avg_pool(x, size, zero_point=30, lower=limits[0], upper=limits[1])
        assert torch.equal(found, expected), (isa, size, limits)
        kernel = (40, 35) if size == (1, 1) else (13, 8)
        y = avg_pool(x, kernel, kernel, (0, 0), False, True, divisor or None, zero_point=255)
        axes = reference.windows((40, 35), y.shape[2:], kernel, kernel, (0, 0), (1, 1))
        assert torch.equal(y, reference.average(x, axes, 255, divisor=divisor)), (isa, size, divisor)
