"""Cases of the layouts: quantization and dequantization, in one run and between planes and pixels."""

import torch

from intaglio.ops import reference_elementwise as reference
from intaglio.ops.layout import dequantize_image, has_channels_innermost, quantize_image

from .gemm import hard_rows, same

# Counts of pixels and of channels about every vector and every block of sixteen.
PIXELS = (1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 47, 48, 64, 65, 100)
CHANNELS = (1, 2, 3, 4, 5, 15, 16, 17, 33, 48)
RANGES = ((0.03, 0, 0, 255), (0.03, 128, 1, 255), (1e-30, 255, 0, 255), (3.7, 100, 100, 140))


def case_quantize_plain(isa: str) -> None:
    for cols in (1, 3, 4, 8, 16, 31, 32, 33, 63, 64, 65, 129, 300):
        x = hard_rows(cols)
        for scale, zero_point, lower, upper in RANGES:
            expected = reference.quantize_image(x, scale, zero_point, lower, upper)
            assert same(quantize_image(x, scale, zero_point, lower, upper), expected), (isa, cols, scale)
            for row, line in zip(x, expected, strict=True):
                assert same(quantize_image(row, scale, zero_point, lower, upper), line), (isa, cols, scale)


def case_quantize_planes(isa: str) -> None:
    for channels in CHANNELS:
        for pixels in PIXELS:
            x = torch.randn(2, channels, 1, pixels) * 3
            x[0, 0, 0, 0], x[1, -1, 0, -1], x[1, 0, 0, pixels // 2] = torch.nan, torch.inf, -torch.inf
            for scale, zero_point, lower, upper in RANGES:
                q = quantize_image(x, scale, zero_point, lower, upper)
                expected = reference.quantize_image(x, scale, zero_point, lower, upper)
                assert has_channels_innermost(q)
                assert same(q, expected), (isa, channels, pixels, scale)


def case_dequantize_plain(isa: str) -> None:
    for count in (1, 5, 8, 15, 16, 17, 100):
        q = torch.randint(0, 256, (count,), dtype=torch.uint8)
        for scale, zero_point, _, _ in RANGES:
            expected = reference.dequantize_image(q, scale, zero_point)
            assert same(dequantize_image(q, scale, zero_point), expected), (isa, count, scale)


def case_dequantize_planes(isa: str) -> None:
    for channels in CHANNELS:
        for pixels in PIXELS:
            q = torch.randint(0, 256, (2, pixels, 1, channels), dtype=torch.uint8).permute(0, 3, 2, 1)
            for scale, zero_point, _, _ in RANGES:
                x = dequantize_image(q, scale, zero_point)
                expected = reference.dequantize_image(q, scale, zero_point)
                assert x.is_contiguous()
                assert same(x, expected), (isa, channels, pixels, scale)
