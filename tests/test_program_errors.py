"""What cannot be is refused by name, and does no harm: the next right call gives the right answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio import ConversionError, InputError
from tests.program_models import Recurrent, Residual, dynamic, image, image_model, same_bits
from tests.test_program import Steps, WithStates, Words


def linear() -> tuple[nn.Module, intaglio.Program]:
    model = dynamic(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    return model, intaglio.compile(model)


# ---- Compiling ---------------------------------------------------------------------------------------------


def test_what_cannot_be_compiled() -> None:
    with pytest.raises(ConversionError, match="no module of the model is quantized"):
        intaglio.compile(nn.Sequential(nn.Linear(2, 2)).eval())
    with pytest.raises(ConversionError, match=r"training mode: call model.eval"):
        intaglio.compile(dynamic(nn.Sequential(nn.Linear(2, 2))).train())
    with pytest.raises(ConversionError, match=r"takes an nn.Module, not function"):
        intaglio.compile(lambda x: x)  # type: ignore[arg-type]


class Deciding(Steps):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else self.b(x)  # type: ignore[no-any-return]


class Counting(Steps):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)[: int(x.abs().max().item())]  # type: ignore[no-any-return]


def test_decisions_by_data() -> None:
    model, x = dynamic(Deciding(None)), torch.randn(3, 8)
    with pytest.raises(ConversionError, match="Deciding cannot be compiled as it is"):
        intaglio.compile(model)
    with pytest.raises(ConversionError, match="a decision that depends on data"):
        intaglio.compile(model, x)


def test_numbers_by_data_that_python_uses() -> None:
    model, x = dynamic(Counting(None)), torch.randn(3, 8)
    with pytest.raises(ConversionError, match="Counting cannot be compiled as it is"):
        intaglio.compile(model)
    program = intaglio.compile(model, x)
    with pytest.raises(InputError, match=r"item gave .* when it was planned"):
        program(x)


def test_dropout_that_drops() -> None:
    model = dynamic(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)))
    model[1].train()  # type: ignore[index]
    with pytest.raises(ConversionError, match=r"'1' .*training mode"):
        intaglio.compile(model)


# ---- Shapes ------------------------------------------------------------------------------------------------


def refused(program: intaglio.Program, match: str, *args: Any, **kwargs: Any) -> None:
    plans = program.memory.plans
    with pytest.raises(InputError, match=match):
        program(*args, **kwargs)
    assert program.memory.plans == plans


def test_wrong_shapes_of_rows() -> None:
    model, program = linear()
    for shape in ((3, 7), (), (8, 0)):
        refused(program, r"'0' .*its last dimension must be 8", torch.randn(shape))
    x = torch.randn(3, 8)
    assert same_bits(program(x), model(x))


def test_wrong_shapes_of_images() -> None:
    model = image_model(Residual)
    program = intaglio.compile(model)
    refused(program, r"'stem' .*\(batch, 3, \*size\)", torch.randn(2, 4, 9, 9))
    refused(program, r"'stem'", torch.randn(9, 9))
    refused(program, r"'stem'", torch.randn(1, 3, 0, 9))
    assert same_bits(program(image()), model(image()))


def test_wrong_shapes_of_sequences_and_states() -> None:
    program = intaglio.compile(dynamic(Recurrent()))
    refused(program, "'lstm'", torch.randn(2, 3, 7))
    refused(program, "'lstm'", torch.randn(2, 3, 4, 6))
    program = intaglio.compile(dynamic(WithStates(nn.GRU(5, 6))))
    refused(program, "'layer'", torch.randn(0, 3, 5))
    x = torch.randn(4, 3, 5)
    refused(program, "'layer'.*a state has shape", x, torch.randn(1, 2, 6))
    refused(program, "'layer'.*a state has shape", x, torch.randn(2, 3, 6))


SUMS: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "sum": (lambda m, x: m.a(x) + m.b(x)[:, 1:6], "broadcast"),
    "view": (lambda m, x: m.a(x).view(5, 5), "cannot have the shape"),
    "permute": (lambda m, x: m.a(x).permute(0, 0), "no order of the axes"),
    "select": (lambda m, x: m.a(x)[:, 8], "index 8 is out of range"),
    "axis": (lambda m, x: m.a(x).transpose(0, 2), "no axis 2"),
    "narrow": (lambda m, x: m.a(x).narrow(1, 6, 3), "no range of 3 from 6"),
    "split": (lambda m, x: m.a(x).split([3, 4], 1), "cannot be split"),
    "expand": (lambda m, x: m.a(x).expand(2, 5, 8), "cannot be expanded"),
}


@pytest.mark.parametrize("name", SUMS)
def test_steps_that_cannot_be(name: str) -> None:
    steps, match = SUMS[name]
    refused(intaglio.compile(dynamic(Steps(steps))), match, torch.randn(4, 8))


# ---- Types -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_other_types(dtype: torch.dtype) -> None:
    model, program = linear()
    refused(
        program, rf"Sequential: an input has dtype {dtype}.*pass x.float\(\)", torch.zeros(2, 8, dtype=dtype)
    )
    x = torch.randn(2, 8)
    assert same_bits(program(x), model(x))


def test_integers_where_floats_belong() -> None:
    _, program = linear()
    with pytest.raises(InputError, match=r"'0' .*int64.*float"):
        program(torch.zeros(2, 8, dtype=torch.int64))
    images = intaglio.compile(image_model(Residual))
    refused(images, "'quant' .*takes a float32 tensor, not uint8", torch.zeros(1, 3, 9, 9, dtype=torch.uint8))


def test_other_devices_and_layouts() -> None:
    _, program = linear()
    refused(program, "Sequential: an input is on meta", torch.zeros(2, 8, device="meta"))
    refused(program, "layout torch.sparse_coo", torch.zeros(2, 8).to_sparse())
    refused(program, r"pass x.resolve_neg\(\)", torch.zeros(2, 8, dtype=torch.complex64).conj().imag)


def test_what_is_no_tensor() -> None:
    _, program = linear()
    refused(program, "an input is of ndarray", np.zeros((2, 8), np.float32))
    refused(program, "an input is of object", object())


def test_types_of_results_that_have_no_place() -> None:
    x = torch.randn(4, 8)
    complex_steps = intaglio.compile(dynamic(Steps(lambda m, x: (m.a(x), torch.fft.fft(x)))))
    refused(complex_steps, "no complex64 tensors", x)
    half_steps = intaglio.compile(dynamic(Steps(lambda m, x: m.a(x).to(torch.bfloat16))))
    refused(half_steps, "bfloat16 tensor", x)


# ---- Arguments ---------------------------------------------------------------------------------------------


def test_arguments_that_are_missing_or_unknown() -> None:
    program = intaglio.compile(dynamic(WithStates(nn.GRU(5, 6))))
    x = torch.randn(4, 3, 5)
    refused(program, "WithStates needs a value for 'x'")
    refused(program, r"WithStates takes \(x, states\), not 3", x, None, None)
    refused(program, r"WithStates takes \(x, states\), not 1 and \['state'\]", x, state=None)
    refused(program, r"WithStates takes \(x, states\)", x, x=x)


# ---- Values ------------------------------------------------------------------------------------------------


def test_indices_out_of_range() -> None:
    model = dynamic(Words(), qconfig_spec={nn.Embedding: intaglio.float_qparams_weight_only_qconfig})
    program = intaglio.compile(model)
    right = torch.tensor([[1, 10], [0, 3]])
    for wrong in (11, -1, 2**40):
        bad = right.clone()
        bad[1, 0] = wrong
        with pytest.raises((IndexError, InputError), match="words"):
            program(bad)
        assert same_bits(program(right), model(right))
    assert program.memory.arenas == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38, 1e-42])
def test_values_that_are_no_numbers_give_what_the_model_gives(value: float) -> None:
    cnn, rows = image_model(Residual), linear()[0]
    sums = dynamic(Steps(lambda m, x: m.a(x) + m.b(m.a(x))))
    for model, x in ((cnn, image()), (rows, torch.randn(4, 8)), (sums, torch.randn(4, 8))):
        x.view(-1)[3] = value
        assert same_bits(intaglio.compile(model)(x), model(x))


def test_results_whose_shape_depends_on_values() -> None:
    program = intaglio.compile(dynamic(Steps(lambda m, x: (m.a(x), torch.nonzero(x)))))
    with pytest.raises(InputError, match=r"nonzero gave .*\(32, 2\), but .* when it was planned"):
        program(torch.randn(4, 8))
    assert program.memory.arenas == 1


def test_numbers_that_depend_on_values() -> None:
    program = intaglio.compile(dynamic(Steps(lambda m, x: m.a(x) * x.max().item())))
    with pytest.raises(InputError, match=r"item gave .*when it was planned"):
        program(torch.randn(4, 8))


# ---- Memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2**46, 2**58])
def test_more_memory_than_there_is(rows: int) -> None:
    model, program = linear()
    with pytest.raises((InputError, MemoryError, RuntimeError, OverflowError, TypeError), match=r"."):
        program(torch.randn(1, 8).expand(rows, 8))
    x = torch.randn(3, 8)
    assert same_bits(program(x), model(x))


def test_more_memory_than_there_is_for_images() -> None:
    model = image_model(Residual)
    program = intaglio.compile(model)
    with pytest.raises((InputError, MemoryError, RuntimeError, OverflowError, TypeError), match=r"."):
        program(torch.randn(1, 3, 16, 16).expand(2**36, 3, 16, 16))
    assert same_bits(program(image()), model(image()))


@pytest.mark.parametrize("steps", [lambda m, x: m.a(x)[:1], lambda m, x: torch.erf(m.a(x))[:1]])
def test_more_memory_than_there_is_between(steps: Callable[[Any, Tensor], Any]) -> None:
    model = dynamic(Steps(steps))
    program = intaglio.compile(model)
    with pytest.raises((InputError, MemoryError, RuntimeError), match=r"."):
        program(torch.randn(1, 8).expand(2**46, 8))
    assert same_bits(program(torch.ones(2, 8)), model(torch.ones(2, 8)))


def test_what_torch_refuses_is_named() -> None:
    program = intaglio.compile(dynamic(Steps(lambda m, x: torch.bmm(m.a(x), m.a(x)))))
    refused(program, "torch.bmm: .*3D tensor", torch.randn(4, 8))


def test_packed_sequences() -> None:
    program = intaglio.compile(dynamic(WithStates(nn.GRU(5, 6))))
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 5), torch.randn(2, 5)])
    with pytest.raises(InputError, match=r"'layer' .*dynamic_gru"):
        program(packed)
    x = torch.randn(4, 3, 5)
    assert program(x)[0].shape == (4, 3, 6)


def _write_over_a_view(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y[:, 0].add_(5.0)
    return y  # type: ignore[no-any-return]


def test_views_written_in_place() -> None:
    refused(
        intaglio.compile(dynamic(Steps(_write_over_a_view))),
        "written in place over a view",
        torch.randn(4, 8),
    )
