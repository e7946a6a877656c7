"""Normalization and softmax of quantized tensors against float, in every layout, on every thread count."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio import ConfigError, InputError, _core
from intaglio.ops import reference_normalize as reference
from intaglio.ops.layout import has_channels_innermost, with_channels_innermost
from intaglio.ops.normalize import MAX_VALUES, choose_affine, group_norm, layer_norm, softmax, softmax_table

SCALE_IN, ZERO_IN, SCALE, ZERO = 0.02, 131, 0.04, 120
EPSILON = 1e-5 / SCALE_IN**2


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def real(x: Tensor) -> Tensor:
    return (x.float() - ZERO_IN) * SCALE_IN


def near(q: Tensor, expected: Tensor) -> bool:
    """Whether integers are what float arithmetic rounds to, within its own error."""
    steps = (expected / SCALE + ZERO).clamp(0, 255)
    return q.shape == expected.shape and bool(((q.float() - steps).abs() <= 0.501).all())


@pytest.mark.parametrize("shape", [(5,), (6, 5), (2, 6, 5), (2, 3, 6, 5), (0, 5)], ids=str)
def test_layer_norm_is_that_of_torch(shape: tuple[int, ...]) -> None:
    x = bytes_of(*shape)
    for axes in range(1, len(shape) + 1):
        normalized = shape[len(shape) - axes :]
        count = torch.Size(normalized).numel()
        if count == 0:
            continue
        weight, bias = torch.randn(normalized), torch.randn(normalized)
        for w, b in ((weight, bias), (weight, None), (None, None)):
            affine = choose_affine(w, b, count, SCALE)
            for form in (x, with_channels_innermost(x) if x.dim() > 1 else x):
                found = layer_norm(form, axes, *affine, EPSILON, ZERO)
                assert near(found, F.layer_norm(real(x), normalized, w, b))


@pytest.mark.parametrize("size", [(), (7,), (5, 6), (2, 3, 4)], ids=str)
def test_group_and_instance_norm_are_those_of_torch(size: tuple[int, ...]) -> None:
    x = bytes_of(3, 12, *size)
    weight, bias = torch.randn(12), torch.randn(12)
    affine = choose_affine(weight, bias, 12, SCALE)
    for groups in (1, 3, 12):
        if groups == 12 and not size:
            continue  # one value has no spread: torch refuses
        for form in (x, with_channels_innermost(x)):
            found = group_norm(form, groups, *affine, EPSILON, ZERO)
            assert has_channels_innermost(found)
            assert near(found, F.group_norm(real(x), groups, weight, bias))
    if size:
        found = group_norm(x, 12, *choose_affine(None, None, 12, SCALE), EPSILON, ZERO)
        assert near(found, F.instance_norm(real(x)))


def test_softmax_is_that_of_torch() -> None:
    for scale_in in (0.001, 0.02, 0.2):
        x = bytes_of(3, 4, 50)
        expected = torch.softmax((x.float() - ZERO_IN) * scale_in, -1)
        q = softmax(x, scale_in)
        assert float((q.float() / 256 - expected.clamp(max=255 / 256)).abs().max()) <= 0.501 / 256
    one = torch.zeros(2, 1, dtype=torch.uint8)
    assert torch.equal(softmax(one, 0.1), torch.full((2, 1), 255, dtype=torch.uint8))


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_bits(isa: str, threads: int) -> None:
    _core.force_isa(isa)
    torch.set_num_threads(threads)
    x = bytes_of(130, 400)
    affine = choose_affine(torch.randn(400), torch.randn(400), 400, SCALE)
    expected = reference.layer_norm(x, 1, *affine, EPSILON, ZERO)
    assert torch.equal(layer_norm(x, 1, *affine, EPSILON, ZERO), expected)
    assert torch.equal(softmax(x, 0.02), reference.softmax(x, softmax_table(0.02), 1 / 256))
    image = with_channels_innermost(bytes_of(2, 48, 37, 30))
    affine = choose_affine(torch.randn(48), torch.randn(48), 48, SCALE)
    for groups in (1, 6, 48):
        expected = reference.group_norm(image, groups, *affine, EPSILON, ZERO)
        assert torch.equal(group_norm(image, groups, *affine, EPSILON, ZERO), expected)


def test_a_slice_without_spread_is_its_bias() -> None:
    x = torch.full((1, 8), 200, dtype=torch.uint8)
    affine = choose_affine(torch.randn(8), torch.full((8,), 10 * SCALE), 8, SCALE)
    assert torch.equal(layer_norm(x, 1, *affine, 0.0, ZERO), torch.full((1, 8), ZERO + 10, dtype=torch.uint8))


def test_what_does_not_fit_is_refused() -> None:
    affine = choose_affine(None, None, 5, SCALE)
    with pytest.raises(InputError, match=r"1 axes and 5 values cannot take a tensor of shape \(2, 6\)"):
        layer_norm(bytes_of(2, 6), 1, *affine, EPSILON, ZERO)
    with pytest.raises(InputError, match="2 groups and 5 channels"):
        group_norm(bytes_of(2, 5, 3), 2, *affine, EPSILON, ZERO)
    with pytest.raises(InputError, match=r"not one of torch\.float32"):
        softmax(torch.ones(3), 0.1)
    with pytest.raises(ConfigError, match=r"weight must have 5 values, not the shape \(4,\)"):
        choose_affine(torch.ones(4), None, 5, SCALE)
    with pytest.raises(InputError, match="see choose_affine"):
        layer_norm(bytes_of(2, 5), 1, affine[0], affine[1].double(), EPSILON, ZERO)
    huge = torch.zeros(1, 1, MAX_VALUES + 1, dtype=torch.uint8)
    with pytest.raises(InputError, match="too many to normalize together"):
        group_norm(huge, 1, *choose_affine(None, None, 1, SCALE), EPSILON, ZERO)


def test_ops_are_registered_as_torch_expects() -> None:
    ops = torch.ops.intaglio
    x = with_channels_innermost(bytes_of(2, 6, 3, 5))
    tail = (EPSILON, ZERO, 0, 255)
    for op, args in (
        (ops.layer_norm, (x, 1, *choose_affine(None, None, 5, SCALE), *tail)),
        (ops.group_norm, (x, 2, *choose_affine(None, None, 6, SCALE), *tail)),
        (ops.softmax_quantized, (x, 0.02, 1 / 256, 0, 0, 255)),
    ):
        torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor"))
