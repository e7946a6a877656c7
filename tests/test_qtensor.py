"""`QTensor` moves its integers where a function only moves values, and refuses everything else aloud."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from intaglio import InputError, QParams, QTensor
from intaglio.qparams import INT8, UINT8


def sample(*shape: int) -> QTensor:
    return QTensor.quantize(torch.randn(shape), QParams(torch.tensor(0.05), torch.tensor(120), UINT8))


def per_channel(*shape: int) -> QTensor:
    scale = torch.arange(1, shape[0] + 1) * 0.1
    qparams = QParams(scale, torch.zeros(shape[0], dtype=torch.int32), INT8, 0)
    return QTensor.quantize(torch.randn(shape), qparams)


Move = Callable[[Any], Any]
MOVES: dict[str, Move] = {
    "view": lambda q: q.view(6, 4),
    "reshape": lambda q: torch.reshape(q, (-1,)),
    "flatten": lambda q: torch.flatten(q, 1),
    "unflatten": lambda q: q.unflatten(2, (2, 2)),
    "permute": lambda q: q.permute(2, 0, 1),
    "transpose": lambda q: torch.transpose(q, 0, 2),
    "swapaxes": lambda q: q.swapaxes(0, 1),
    "movedim": lambda q: torch.movedim(q, 0, -1),
    "squeeze": lambda q: q.unsqueeze(0).squeeze(0),
    "unsqueeze": lambda q: q.unsqueeze(-1),
    "expand": lambda q: q.unsqueeze(0).expand(3, -1, -1, -1),
    "repeat": lambda q: q.repeat(2, 1, 1),
    "tile": lambda q: torch.tile(q, (2,)),
    "narrow": lambda q: q.narrow(1, 1, 2),
    "select": lambda q: q.select(0, 1),
    "flip": lambda q: torch.flip(q, (0,)),
    "clone": lambda q: q.clone(),
    "contiguous": lambda q: q.transpose(0, 1).contiguous(),
    "detach": lambda q: q.detach(),
    "t": lambda q: q[0].t(),
    "mT": lambda q: q.mT,
    "index": lambda q: q[:, 1:, ::2],
    "mask": lambda q: q[torch.tensor([True, False])],
    "none": lambda q: q[None, ..., 0],
}


@pytest.mark.parametrize("name", MOVES)
def test_a_move_keeps_the_parameters_and_moves_what_the_integers_stand_for(name: str) -> None:
    q = sample(2, 3, 4)
    moved = MOVES[name](q)
    assert isinstance(moved, QTensor)
    assert moved.qparams is q.qparams
    assert torch.equal(moved.dequantize(), MOVES[name](q.dequantize()))


@pytest.mark.parametrize("split", [lambda q: q.chunk(2, 1), lambda q: torch.split(q, [1, 3], dim=1)])
def test_parts_are_qtensors(split: Callable[[Any], Any]) -> None:
    q = sample(2, 4)
    parts, expected = split(q), split(q.dequantize())
    assert all(isinstance(part, QTensor) for part in parts)
    for part, plain in zip(parts, expected, strict=True):
        assert torch.equal(part.dequantize(), plain)


REFUSED: dict[str, Callable[[Any], Any]] = {
    "gelu": torch.nn.functional.gelu,
    "add": lambda q: torch.add(q, 1),
    "cat": lambda q: torch.cat([q, torch.ones(2, 4)]),
    "linear": lambda q: torch.nn.functional.linear(q, torch.randn(2, 4)),
    "log_softmax": lambda q: q.log_softmax(-1),
    "matmul": lambda q: torch.matmul(torch.randn(3, 2), q),
    "float": lambda q: q.float(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_functions_say_what_to_do(name: str) -> None:
    # pytorch/pytorch#34583: "Could not run 'aten::add.out' with arguments from the 'QuantizedCPU' backend".
    with pytest.raises(InputError, match=rf"^{name}\(\) has no quantized form .*\(2, 4\).*dequantize\(\)"):
        REFUSED[name](sample(2, 4))


OPERATORS: dict[str, Callable[[Any], Any]] = {
    "+": lambda q: q + 1,
    "+ on the right": lambda q: 1 + q,
    "+ a tensor": lambda q: torch.ones(2, 4) + q,
    "*": lambda q: q * q,
    "-": lambda q: q - 1.0,
    "/": lambda q: q / 2,
    "@": lambda q: q @ torch.randn(4, 2),
    "negation": lambda q: -q,
    "abs": abs,
    "**": lambda q: q**2,
    "<": lambda q: q < 0,
    ">=": lambda q: q >= 0,
    "==": lambda q: q == 0,
    "!=": lambda q: q != 0,
    "bool": bool,
    "float": float,
    "int": int,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_say_what_to_do(name: str) -> None:
    with pytest.raises(InputError, match=r"has no quantized form .*dequantize\(\)"):
        OPERATORS[name](sample(2, 4))


def test_a_move_that_would_lose_the_axis_is_refused() -> None:
    q = per_channel(3, 4)
    assert torch.equal(q.clone().dequantize(), q.dequantize())
    for move in (lambda: q.permute(1, 0), lambda: q.flatten(), lambda: q[1:], lambda: q.chunk(3)):
        with pytest.raises(InputError, match="axis of a per-channel QTensor"):
            move()


def test_a_square_per_channel_tensor_is_not_transposed_in_silence() -> None:
    # The shape does not tell: rows and columns are of one number, but the scales belong to the rows.
    q = per_channel(3, 3)
    for move in (lambda: q.t(), lambda: q.transpose(0, 1), lambda: q.flip(0), lambda: q[[2, 1, 0]]):
        with pytest.raises(InputError, match="axis of a per-channel QTensor"):
            move()


def test_it_looks_like_the_float_tensor_it_stands_for() -> None:
    q = sample(2, 3)
    assert (q.shape, q.dim(), q.numel(), len(q)) == (torch.Size([2, 3]), 2, 6, 2)
    assert (q.size(), q.size(1)) == (torch.Size([2, 3]), 3)
    assert (q.dtype, q.device.type) == (torch.float32, "cpu")
    assert q.int_repr() is q.data
    assert q.data.dtype is torch.uint8
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = q.colour


def test_it_is_frozen_and_copies() -> None:
    q = sample(2, 3)
    with pytest.raises(AttributeError):
        q.data = torch.zeros(1)  # type: ignore[misc]
    for other in (copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        assert isinstance(other, QTensor)
        assert torch.equal(other.data, q.data)
        assert torch.equal(other.dequantize(), q.dequantize())
    mutated: Tensor = copy.deepcopy(q).data
    mutated.zero_()
    assert bool(q.data.any())
