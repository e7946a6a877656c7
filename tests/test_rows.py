"""The driver of a Program's rows: equal to its parts, whatever the blocks and threads; close to float64."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from intaglio import _core
from intaglio.ops import reference, reference_rows
from intaglio.ops.linear import quantize_activations, run_linear_dynamic
from intaglio.ops.packing import pack_weight
from intaglio.ops.reference_rows import FUNCTIONS, Finished, Tail

from .kernel_cases.gemm import hard_rows, random_weight, same
from .kernel_cases.rows import addresses, check, empty_outputs, run_rows, tail_arguments
from .kernel_cases.tensors import embed

ISAS = _core.available_isas()
TAIL = {"function": "gelu", "norm": "layer", "epsilon": 1e-5}


def run_quantized(rows: tuple[Tensor, Tensor, Tensor], tail: Tail, n: int, **more: object) -> Finished:
    """Call the driver with rows that are quantized already."""
    q, scale, zero_point = rows
    out = empty_outputs(q.shape[0], n)
    places = addresses(sum=out.sum, y=out.y, out_q=out.q, out_scale=out.scale, out_zero_point=out.zero_point)
    arguments = addresses(q=q, scale=scale, zero_point=zero_point) | tail_arguments(tail) | places | more
    _core.run_rows(q.shape[0], q.shape[1], **arguments)
    return out


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("m", [1, 17, 150])
def test_product_and_tail_equal_the_reference_with_any_threads(isa: str, m: int) -> None:
    _core.force_isa(isa)
    n, k = 140, 96
    weight, scale, bias = random_weight(n, k)
    packed = pack_weight(weight, scale, bias)
    x = torch.cat([hard_rows(k), torch.randn(m, k)])[-m:]
    tail = Tail(residual=torch.randn(m, n), weight=torch.randn(n), bias=torch.randn(n), **TAIL)
    expected = reference_rows.finish_rows(reference.linear_dynamic(x, weight, scale, bias), tail)
    for threads in (1, 2, 3):
        more = {"packed": packed.data_ptr(), "threads": threads}
        check(run_rows(x, tail, n, **more), expected, "sum y q", (threads, "float rows"))
        check(run_quantized(quantize_activations(x), tail, n, **more), expected, "sum y q", threads)
        plain = run_rows(x, Tail(), n, "y", **more)
        assert same(plain.y[:, :n].contiguous(), run_linear_dynamic(x, packed, n)), threads


def test_blocks_and_splits_of_rows_do_not_change_bits() -> None:
    n, k, m = 1536, 64, 333
    packed = pack_weight(*random_weight(n, k))
    x, tail = torch.randn(m, k), Tail("gelu")
    whole = run_rows(x, tail, n, "y q", packed=packed.data_ptr())
    for begin, end in ((0, 1), (1, 60), (60, 333)):
        part = run_rows(x[begin:end], tail, n, "y q", packed=packed.data_ptr(), threads=2)
        for name in ("y", "q", "scale", "zero_point"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[begin:end]), (name, begin)


@pytest.mark.parametrize("threads", [1, 2])
def test_one_range_for_the_whole_tensor(threads: int) -> None:
    weight, scale, bias = random_weight(70, 33)
    packed = pack_weight(weight, scale, bias)
    x = torch.randn(40, 33)
    for poison in (None, torch.nan):
        if poison is not None:
            x[3, 4] = poison
        found = run_rows(x, Tail("relu"), 70, "y", packed=packed.data_ptr(), granularity=0, threads=threads)
        expected = reference.linear_dynamic(x, weight, scale, bias, per_row=False)
        assert same(found.y[:, :70].contiguous(), reference.clamp_activation(expected, 0.0, torch.inf))


def test_results_may_take_the_place_of_what_they_are_made_of() -> None:
    x, residual = torch.randn(9, 50), torch.randn(9, 50)
    tail = Tail(residual=residual, norm="layer", epsilon=1e-5)
    expected = reference_rows.finish_rows(x, tail)
    for place in (x, residual):
        y, other = place.clone(), residual if place is x else x
        rows, added = (y, other) if place is x else (other, y)
        arguments = tail_arguments(tail) | addresses(x=rows, residual=added, y=y)
        _core.run_rows(9, 50, **arguments)
        assert same(y, expected.y)


FLOAT64 = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.01),
}


@pytest.mark.parametrize("function", FLOAT64)
def test_functions_are_close_to_float64(function: str) -> None:
    x = torch.linspace(-14, 14, 1 << 14).reshape(8, -1)
    y = run_rows(x, Tail(function, float(torch.tensor(0.01))), x.shape[1], "y").y[:, :-1]
    error = (y - FLOAT64[function](x.double())).abs()
    assert error.max() < 5e-7 if function == "gelu" else (error / (1 + x.abs())).max() < 4e-7


def test_normalization_is_close_to_float64() -> None:
    x, weight, bias = torch.randn(50, 384) * 3 + 5, torch.randn(384), torch.randn(384)
    for norm, expected in (
        ("layer", F.layer_norm(x.double(), (384,), weight.double(), bias.double(), 1e-12)),
        ("rms", F.rms_norm(x.double(), (384,), weight.double(), 1e-12) + bias),
    ):
        y = run_rows(x, Tail(norm=norm, weight=weight, bias=bias, epsilon=1e-12), 384, "y").y[:, :-1]
        assert (y - expected).abs().max() < 5e-6, norm


def test_every_function_has_a_float64_counterpart_here() -> None:
    assert set(FLOAT64) | {"none", "clamp"} == set(FUNCTIONS)


def test_embeddings_are_the_same_with_any_threads_and_check_their_indices() -> None:
    tables = [torch.randn(30, 384), torch.randn(130, 384)]
    indices = [torch.randint(0, 30, (260,)), torch.arange(130)]
    tail = Tail(norm="layer", epsilon=1e-12)
    one = embed(tables, indices, tail, "y q")
    for threads in (2, 3):
        more = embed(tables, indices, tail, "y q", threads)
        assert torch.equal(more.y, one.y)
        assert torch.equal(more.q, one.q)
    for bad in (-1, 30):
        indices[0][7] = bad
        with pytest.raises(IndexError, match=f"index {bad} is not in 0..29"):
            embed(tables, indices, tail, "y")


def test_float_tensors_are_the_same_with_any_threads() -> None:
    x = torch.randn(300, 200)
    for threads, name in itertools.product((2, 3), ("softmax", "mean", "unit", "add")):
        y = torch.empty(2, *x.shape)
        at = (x.data_ptr(), 200)
        for out, count in ((y[0], 1), (y[1], threads)):
            if name == "softmax":
                _core.softmax_floats(*at, 300, 200, out.data_ptr(), 200, count)
            elif name == "unit":
                _core.unit_rows(*at, 300, 200, 1e-12, out.data_ptr(), 200, count)
            elif name == "add":
                operands = ((x.data_ptr(), 200, False), (x.data_ptr(), 0, False))
                _core.combine_floats(0, *operands, 300, 200, out.data_ptr(), 200, count)
            else:
                out[:] = 0
                _core.mean_rows(*at, 100, 200, out.data_ptr(), 3, 20000, count)
        assert torch.equal(y[0], y[1]), (threads, name)


def test_rows_that_cannot_be_run_are_refused() -> None:
    packed = pack_weight(*random_weight(8, 8))
    with pytest.raises(ValueError, match="rows must be float32, or quantized and multiplied"):
        _core.run_rows(1, 8, packed=packed.data_ptr())
    with pytest.raises(ValueError, match="another number of input features"):
        run_rows(torch.randn(1, 9), Tail(), 8, packed=packed.data_ptr())
