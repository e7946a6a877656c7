"""Interpolation of quantized images: nearest is torch's to the bit, linear to half a step."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio import InputError, _core
from intaglio.ops import reference_normalize as reference
from intaglio.ops.layout import has_channels_innermost, with_channels_innermost
from intaglio.ops.resize import resize, sources

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def how(axes: int) -> list[dict[str, Any]]:
    """Sizes and factors, up and down."""
    sizes = [{"size": size} for size in itertools.product((1, 4, 11), repeat=axes)]
    factors = [{"factors": (factor,) * axes} for factor in (0.4, 1.0, 1.7, 2.0, 3.0)]
    return sizes + factors


def torch_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"size" if name == "size" else "scale_factor": value for name, value in arguments.items()}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_every_mode_is_that_of_torch(axes: int) -> None:
    x = bytes_of(2, 5, *(7, 6, 4)[:axes])
    for arguments in how(axes):
        for form, mode in itertools.product((x, with_channels_innermost(x)), ("nearest", "nearest-exact")):
            found = resize(form, mode=mode, **arguments)
            assert has_channels_innermost(found)
            assert torch.equal(
                found.float(), F.interpolate(x.float(), mode=mode, **torch_arguments(arguments))
            )
        for align in (False, True):
            expected = F.interpolate(
                x.double(), mode=LINEAR[axes], align_corners=align, **torch_arguments(arguments)
            )
            found = resize(x, mode="linear", align_corners=align, **arguments)
            assert found.shape == expected.shape
            assert float((found.double() - expected).abs().max()) <= 0.5001


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_bits(isa: str, threads: int) -> None:
    _core.force_isa(isa)
    torch.set_num_threads(threads)
    x = with_channels_innermost(bytes_of(2, 24, 30, 31))
    places = [sources(n, 2 * n, None, "linear", False) for n in (30, 31)]
    assert torch.equal(resize(x, (60, 62), mode="linear"), reference.resize(x, places, True))
    assert torch.equal(resize(x, (60, 62)), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_what_cannot_be_is_refused() -> None:
    x = bytes_of(1, 2, 4, 4)
    with pytest.raises(InputError, match="modes are nearest, nearest-exact, linear"):
        resize(x, (8, 8), mode="bicubic")
    with pytest.raises(InputError, match="with a size or a factor for each axis"):
        resize(x, (8,))
    with pytest.raises(InputError, match="with a size or a factor for each axis"):
        resize(x)
    with pytest.raises(InputError, match=r"cannot be resized to \[0, 0\]"):
        resize(x, factors=(0.1, 0.1))
    assert resize(x[:0], (8, 8)).shape == (0, 2, 8, 8)


def test_the_op_is_registered_as_torch_expects() -> None:
    x = bytes_of(2, 3, 4, 5)
    checks = ("test_schema", "test_faketensor")
    for arguments in (([8, 9], [], "nearest", False), ([], [2.0, 1.5], "linear", True)):
        torch.library.opcheck(torch.ops.intaglio.resize, (x, *arguments, 0, 255), test_utils=checks)
