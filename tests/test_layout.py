"""Quantized images: layouts in memory, threads, dtypes, and the ops that compile and export see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from intaglio import InputError, QParams, _core
from intaglio.ops import reference_elementwise as reference
from intaglio.ops.layout import (
    dequantize_image,
    has_channels_innermost,
    quantize_image,
    with_channels_innermost,
)
from intaglio.qparams import UINT8, quantize

SHAPES = [(7,), (2, 5), (2, 3, 9), (2, 3, 6, 5), (1, 16, 7, 7), (2, 4, 3, 5, 6), (0, 3, 4, 4), (2, 3, 0, 4)]


def layouts(x: Tensor) -> list[Tensor]:
    """`x` in planes, with channels innermost, and as a view with gaps."""
    found = [x, with_channels_innermost(x)]
    if x.dim() > 1:
        wide = torch.empty(*x.shape[:-1], x.shape[-1] * 2, dtype=x.dtype)
        found.append(wide[..., ::2].copy_(x))
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_layout_goes_in_and_channels_come_out_innermost(shape: tuple[int, ...]) -> None:
    for x in layouts(torch.randn(shape)):
        q = quantize_image(x, 0.02, 120)
        assert torch.equal(q, reference.quantize_image(x, 0.02, 120))
        assert has_channels_innermost(q)
        assert torch.equal(q, quantize(x, QParams(torch.tensor(0.02), torch.tensor(120), UINT8)))
        plain = quantize_image(x, 0.02, 120, plain=True)
        assert torch.equal(plain, q)
        assert plain.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_floats_come_back_in_the_layout_asked_for(shape: tuple[int, ...]) -> None:
    for q in layouts(torch.randint(0, 256, shape, dtype=torch.uint8)):
        expected = reference.dequantize_image(q, 0.5, 3)
        assert torch.equal(dequantize_image(q, 0.5, 3), expected)
        assert dequantize_image(q, 0.5, 3).is_contiguous()
        innermost = dequantize_image(q, 0.5, 3, channels_last=True)
        assert torch.equal(innermost, expected)
        assert has_channels_innermost(innermost)


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_bits(isa: str, threads: int) -> None:
    _core.force_isa(isa)
    torch.set_num_threads(threads)
    for shape in ((1, 3, 131, 127), (3, 20, 33, 31), (70_001,)):
        x = torch.randn(shape)
        q = quantize_image(x, 0.02, 120, 1, 254)
        assert torch.equal(q, reference.quantize_image(x, 0.02, 120, 1, 254))
        assert torch.equal(dequantize_image(q, 0.02, 120), reference.dequantize_image(q, 0.02, 120))


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(InputError, match=r"takes a float32 tensor, not one of torch\.float16"):
        quantize_image(torch.ones(2, 3).half(), 0.1, 0)
    with pytest.raises(InputError, match=r"takes a uint8 tensor, not one of torch\.int8"):
        dequantize_image(torch.ones(2, 3, dtype=torch.int8), 0.1, 0)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 6, 5), (1, 4, 3, 5, 6)], ids=str)
def test_ops_are_registered_as_torch_expects(shape: tuple[int, ...], plain: bool) -> None:
    x = torch.randn(shape)
    q = torch.ops.intaglio.quantize_image(x, 0.02, 120, 0, 255, plain)
    assert torch.equal(q, quantize_image(x, 0.02, 120))
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.intaglio.quantize_image, (x, 0.02, 120, 0, 255, plain), test_utils=checks)
    torch.library.opcheck(torch.ops.intaglio.dequantize_image, (q, 0.02, 120, plain), test_utils=checks)
