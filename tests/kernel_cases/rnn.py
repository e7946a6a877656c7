"""Cases of the recurrent family: time steps of LSTM, GRU and RNN against the reference."""

import torch
from torch import Tensor

from intaglio.ops.recurrent import CellShape, pack_cell, recurrent_dynamic, unpack_cell
from intaglio.ops.reference_rnn import recurrent_layers

from .gemm import same

# Hidden units and rows about every vector, panel and tile.
UNITS = (1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64)
BATCHES = (1, 2, 3, 4, 6, 7, 13)


def random_cell(shape: CellShape, *, bias: bool = True) -> dict[str, Tensor]:
    """Plain tensors whose gates spread over a few units."""
    plain: dict[str, Tensor] = {}
    for name, size in shape.weights().items():
        if shape.weight == "float16":
            plain[name] = (torch.randn(size) / size[1] ** 0.5).half()
            continue
        plain[name] = torch.randint(-127, 128, size, dtype=torch.int8)
        plain[f"{name}_scale"] = torch.rand(size[0]) * 0.03 / size[1] ** 0.5
    if bias:
        plain |= {name: torch.randn(shape.rows) * 0.5 for name in ("bias_ih", "bias_hh")}
    return plain


def hard_states(rows: int, width: int) -> Tensor:
    """Hidden states, some of them not finite or far from any that a cell would make."""
    h = torch.rand(rows, width) * 2 - 1
    for row, value in zip(range(rows), (0.0, torch.nan, 1e6, torch.inf, 1e-40), strict=False):
        h[-1 - row, row % width] = value
    return h


def check_steps(isa: str, mode: str, weight: str = "int8") -> None:
    for i, hidden in enumerate(UNITS):
        projection = 5 if mode == "LSTM" and i % 3 == 1 else 0
        shape = CellShape(mode, 11, hidden, projection, weight)
        check_batches(isa, shape, random_cell(shape, bias=i % 4 != 0), BATCHES if hidden == 33 else (1, 5))


def check_batches(isa: str, shape: CellShape, plain: dict[str, Tensor], batches: tuple[int, ...]) -> None:
    packed = pack_cell(shape, plain)
    for name, tensor in unpack_cell(packed).items():
        assert same(tensor, plain.get(name, torch.zeros(shape.rows))), (isa, shape, name)
    for batch in batches:
        x, h = torch.randn(2 * batch, shape.input), hard_states(batch, shape.output)[None]
        x[0, 3] = 1e5
        c = hard_states(batch, shape.hidden)[None] * 3 if shape.mode == "LSTM" else None
        expected = recurrent_layers(shape.mode, [plain], x, h, c, batch_sizes=[batch] * 2)
        found = recurrent_dynamic(x.view(2, batch, -1), None, h, c, [packed], 1)
        assert same(found[0].flatten(0, 1), expected[0]), (isa, shape, batch)
        assert same(found[1], expected[1]), (isa, shape, batch)
        assert c is None or (expected[2] is not None and same(found[2], expected[2])), (isa, shape, batch)


def case_lstm_step(isa: str) -> None:
    check_steps(isa, "LSTM")


def case_gru_step(isa: str) -> None:
    check_steps(isa, "GRU")


def case_rnn_step(isa: str) -> None:
    check_steps(isa, "RNN_TANH")
    check_steps(isa, "RNN_RELU")


def case_lstm_gates(isa: str) -> None:
    check_steps(isa, "LSTM", "float16")


def case_gru_gates(isa: str) -> None:
    check_steps(isa, "GRU", "float16")


def case_rnn_gates(isa: str) -> None:
    check_steps(isa, "RNN_TANH", "float16")
    check_steps(isa, "RNN_RELU", "float16")
