"""Cases of normalization, softmax and interpolation: tails, sums beyond 32 bits, equal values."""

import itertools

import torch
from torch import Tensor

from intaglio.ops import reference_normalize as reference
from intaglio.ops.layout import with_channels_innermost
from intaglio.ops.normalize import choose_affine, group_norm, layer_norm, softmax, softmax_table
from intaglio.ops.resize import resize, sources

WIDTHS = (1, 3, 7, 8, 16, 17, 31, 33, 63, 64, 65, 100, 129, 384)
CHANNELS = (1, 3, 8, 16, 24, 33, 63, 64, 65, 130)


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def case_normalize_rows(isa: str) -> None:
    for cols, epsilon in itertools.product(WIDTHS, (0.0, 1e-5 / 0.02**2)):
        x = bytes_of(7, cols)
        x[0], x[1], x[2] = 0, 255, 100  # no spread
        affine = choose_affine(torch.randn(cols), torch.randn(cols), cols, 0.03)
        for limits in ((0, 255), (1, 200)):
            expected = reference.layer_norm(x, 1, *affine, epsilon, 120, *limits)
            assert torch.equal(layer_norm(x, 1, *affine, epsilon, 120, *limits), expected), (
                isa,
                cols,
                limits,
            )
    x = torch.full((2, 600_000), 255, dtype=torch.uint8)  # sums that 32 bits do not hold
    x[1, ::2] = 0
    affine = choose_affine(None, None, 600_000, 0.03)
    assert torch.equal(layer_norm(x, 1, *affine, 1.0, 120), reference.layer_norm(x, 1, *affine, 1.0, 120)), (
        isa
    )


def case_normalize_columns(isa: str) -> None:
    for channels in CHANNELS:
        x = with_channels_innermost(bytes_of(2, channels, 5, 7))
        affine = choose_affine(torch.randn(channels), torch.randn(channels), channels, 0.03)
        for groups in {1, channels, 2 if channels % 2 == 0 else channels}:
            expected = reference.group_norm(x, groups, *affine, 0.1, 120)
            assert torch.equal(group_norm(x, groups, *affine, 0.1, 120), expected), (isa, channels, groups)
    x = with_channels_innermost(torch.full((1, 3, 300, 200), 255, dtype=torch.uint8))
    x[:, 1, ::2] = 0
    affine = choose_affine(None, None, 3, 0.03)
    assert torch.equal(group_norm(x, 3, *affine, 1.0, 9), reference.group_norm(x, 3, *affine, 1.0, 9)), isa


case_column_moments = case_normalize_columns


def case_softmax_rows(isa: str) -> None:
    for cols, scale in itertools.product(WIDTHS, (1e-4, 0.02, 0.3, 10.0)):
        x = bytes_of(5, cols)
        x[0], x[1] = 0, 255
        for output in ((1 / 256, 0, 0, 255), (0.01, 3, 3, 90)):
            expected = reference.softmax(x, softmax_table(scale), *output)
            assert torch.equal(softmax(x, scale, *output), expected), (isa, cols, scale, output)


def case_blend_row(isa: str) -> None:
    for channels, out in itertools.product(CHANNELS, ((10, 14), (3, 4), (7, 5))):
        x = with_channels_innermost(bytes_of(2, channels, 5, 7))
        for align in (False, True):
            places = [sources(n, m, None, "linear", align) for n, m in zip((5, 7), out, strict=True)]
            expected = reference.resize(x, places, True, 3, 250)
            found = resize(x, out, None, "linear", align, 3, 250)
            assert torch.equal(found, expected), (isa, channels, out, align)
    x = with_channels_innermost(bytes_of(1, 20, 3, 4, 5))
    places = [sources(n, 6, None, "linear", False) for n in (3, 4, 5)]
    assert torch.equal(resize(x, (6, 6, 6), None, "linear"), reference.resize(x, places, True)), isa
