"""Recurrent layers over sequences: packing of cells, and one op for LSTM, GRU and RNN.

A cell is one layer in one direction. Its plain tensors have torch's names less the layer's suffix
(`weight_ih` int8 and its `weight_ih_scale` float32, or `weight_ih` float16, ...); packed, they are one
uint8 tensor for the instruction set in use (csrc/program/packed_cell.h). May import library, packing, _core
and errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import ConfigError, InputError
from intaglio.ops.library import define_op
from intaglio.ops.packing import MAX_K

__all__ = [
    "MODES",
    "WEIGHTS",
    "CellShape",
    "pack_cell",
    "recurrent_dynamic",
    "run_cell",
    "run_recurrent",
    "unpack_cell",
]

MODES = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
"""torch's names of the kinds of cell, in the order of the kernels' CellKind."""

WEIGHTS = ("int8", "float16", "mixed")
"""Types of a cell's weights, in the order of the kernels' CellWeight; mixed has `weight_ih` in float16."""

_empty = torch.empty
_threads = torch.get_num_threads


@dataclass(frozen=True)
class CellShape:
    """What fixes a cell's tensors; `projection` is 0 or an LSTM's `proj_size`."""

    mode: str
    input: int
    hidden: int
    projection: int = 0
    weight: str = "int8"

    def __post_init__(self) -> None:
        if self.mode not in MODES or self.weight not in WEIGHTS:
            raise ConfigError(
                f"a recurrent cell is one of {', '.join(MODES)} with {', '.join(WEIGHTS)} weights, "
                f"not {self.mode!r} with {self.weight!r}"
            )
        if self.input < 1 or self.hidden < 1 or self.projection < 0:
            raise ConfigError(f"a recurrent cell cannot have the sizes {self.input}, {self.hidden}")

    @property
    def rows(self) -> int:
        """Rows of `weight_ih` and `weight_hh`: gates times hidden units."""
        return {"LSTM": 4, "GRU": 3}.get(self.mode, 1) * self.hidden

    @property
    def output(self) -> int:
        """Width of the hidden state."""
        return self.projection or self.hidden

    def weights(self) -> dict[str, tuple[int, int]]:
        """Shape of each weight, by name."""
        shapes = {"weight_ih": (self.rows, self.input), "weight_hh": (self.rows, self.output)}
        return shapes | ({"weight_hr": (self.projection, self.hidden)} if self.projection else {})

    def is_half(self, name: str) -> bool:
        """Whether the weight `name` is float16, and not int8."""
        return self.weight == "float16" or (self.weight == "mixed" and name == "weight_ih")

    def tensors(self, has_bias: bool = True) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of each plain tensor, by name."""
        found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        for name, size in self.weights().items():
            if self.is_half(name):
                found[name] = (size, torch.float16)
                continue
            found[name] = (size, torch.int8)
            found[f"{name}_scale"] = ((size[0],), torch.float32)
        if has_bias:
            found["bias_ih"] = found["bias_hh"] = ((self.rows,), torch.float32)
        return found

    def arguments(self) -> tuple[int, int, int, int, int]:
        """The shape as _core takes it."""
        kind, weight = MODES.index(self.mode), WEIGHTS.index(self.weight)
        return kind, weight, self.input, self.hidden, self.projection


def _addresses(shape: CellShape, tensors: dict[str, Tensor]) -> list[int]:
    names = [f"{name}{end}" for name in ("weight_ih", "weight_hh", "weight_hr") for end in ("", "_scale")]
    found = [tensors.get(name) for name in (*names, "bias_ih", "bias_hh")]
    return [0 if t is None else t.data_ptr() for t in found]


def pack_cell(shape: CellShape, plain: dict[str, Tensor]) -> Tensor:
    """Pack a cell's plain tensors, both biases or none, for the kernels in use; 1-d uint8.

    Raises `ConfigError` for tensors that do not fit `shape` and where int32 sums could overflow.
    """
    for name, size in shape.weights().items():
        if not shape.is_half(name) and size[1] > MAX_K:
            raise ConfigError(f"{name} has {size[1]} columns, beyond {MAX_K} int32 sums could overflow")
    expected = shape.tensors("bias_ih" in plain or "bias_hh" in plain)
    for name, (needed, dtype) in expected.items():
        tensor = plain.get(name)
        if tensor is None or tuple(tensor.shape) != needed or tensor.dtype != dtype:
            found = "none" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
            raise ConfigError(f"pack_cell needs {name} {needed} {dtype}, not {found}")
    kept = {name: plain[name].contiguous() for name in expected}
    packed = torch.empty(_core.packed_cell_bytes(*shape.arguments()), dtype=torch.uint8)
    _core.pack_cell(*shape.arguments(), _addresses(shape, kept), packed.data_ptr())
    return packed


def unpack_cell(packed: Tensor) -> dict[str, Tensor]:
    """The plain tensors of a packed cell; biases are zeros if it had none."""
    shape = packed_shape(packed)
    plain = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in shape.tensors().items()}
    _core.unpack_cell(packed.data_ptr(), _addresses(shape, plain))
    return plain


def packed_shape(packed: Tensor) -> CellShape:
    """The shape of a packed cell."""
    kind, weight, input, hidden, projection, _ = _core.packed_cell_shape(packed.data_ptr())
    return CellShape(MODES[kind], input, hidden, projection, WEIGHTS[weight])


def _for_this_cpu(packed: Tensor) -> Tensor:
    """A cell packed for another instruction set (an exported program that moved) is packed again."""
    if _core.packed_cell_shape(packed.data_ptr())[5] == _core.active_isa():
        return packed
    return pack_cell(packed_shape(packed), unpack_cell(packed))


def run_recurrent(
    x: Tensor,
    batch_sizes: Tensor | None,
    h: Tensor,
    c: Tensor | None,
    cells: Sequence[Tensor],
    directions: int,
) -> Tensor:
    """As `recurrent_dynamic`, all float32; `h` and `c` are contiguous and become `h_n` and `c_n`.

    The caller has checked dtypes, devices and shapes. Raises `ValueError` for batch sizes that do not fit
    and for cells that were packed for another instruction set.
    """
    if not x.is_contiguous():
        x = x.contiguous()
    shape = x.shape
    y = _empty(*shape[:-1], directions * h.shape[2], dtype=torch.float32)
    sizes = None if batch_sizes is None else batch_sizes.to(torch.int64).contiguous()
    steps, batch = shape[0], h.shape[1]
    _core.run_recurrent(
        x.data_ptr(),
        steps * batch if sizes is None else steps,
        steps if sizes is None else sizes.shape[0],
        batch,
        0 if sizes is None else sizes.data_ptr(),
        [cell.data_ptr() for cell in cells],
        directions,
        y.data_ptr(),
        h.data_ptr(),
        0 if c is None else c.data_ptr(),
        _threads(),
    )
    return y


def run_cell(x: Tensor, h: Tensor, c: Tensor | None, cell: Tensor) -> None:
    """One time step of one packed cell; `h` and `c`, contiguous, are updated.

    `x` is `(batch, input)` or `(input,)`, all are float32, and the caller has checked everything.
    """
    if not x.is_contiguous():
        x = x.contiguous()
    batch = x.shape[0] if x.dim() == 2 else 1
    state, cell_state = h.data_ptr(), 0 if c is None else c.data_ptr()
    # The output is the new state: both go to the same place.
    _core.run_recurrent(
        x.data_ptr(), batch, 1, batch, 0, [cell.data_ptr()], 1, state, state, cell_state, _threads()
    )


def recurrent_dynamic(
    x: Tensor,
    batch_sizes: Tensor | None,
    h: Tensor,
    c: Tensor | None,
    cells: Sequence[Tensor],
    directions: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """CPU kernel of `intaglio::recurrent_dynamic`: layers of packed cells over sequences.

    `x` is `(steps, batch, input)`, or `(rows, input)` with the `batch_sizes` of a `PackedSequence`, of any
    float dtype; `h` is `(layers * directions, batch, output)`, `c` likewise with hidden units, for an LSTM.
    Returns the outputs `(..., directions * output)`, `h_n` and `c_n` (empty without `c`) in the dtype of
    `x`. Raises `InputError` for other shapes.
    """
    _check_shapes(x, batch_sizes, h, c, cells)
    h_n = h.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    c_n = None if c is None else c.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    packed = [_for_this_cpu(cell) for cell in cells]
    y = run_recurrent(x.to(torch.float32), batch_sizes, h_n, c_n, packed, directions)
    return y.to(x.dtype), h_n.to(x.dtype), x.new_empty(0) if c_n is None else c_n.to(x.dtype)


def _check_shapes(
    x: Tensor, batch_sizes: Tensor | None, h: Tensor, c: Tensor | None, cells: Sequence[Tensor]
) -> None:
    shape = packed_shape(cells[0])
    batch = x.shape[1] if batch_sizes is None and x.dim() == 3 else h.shape[1]
    fits = (
        x.dim() == (3 if batch_sizes is None else 2)
        and x.shape[-1] == shape.input
        and tuple(h.shape) == (len(cells), batch, shape.output)
        and (c is not None) == (shape.mode == "LSTM")
        and (c is None or tuple(c.shape) == (len(cells), batch, shape.hidden))
    )
    if not fits:
        states = [tuple(state.shape) for state in (h, c) if state is not None]
        raise InputError(
            f"intaglio::recurrent_dynamic: input {tuple(x.shape)} and states {states} do not fit "
            f"{len(cells)} cells of {shape}"
        )


def _fake_recurrent_dynamic(
    x: Tensor,
    batch_sizes: Tensor | None,
    h: Tensor,
    c: Tensor | None,
    cells: Sequence[Tensor],
    directions: int,
) -> tuple[Tensor, Tensor, Tensor]:
    y = x.new_empty([*x.shape[:-1], directions * h.shape[2]])
    return y, x.new_empty(h.shape), x.new_empty([0] if c is None else c.shape)


define_op(
    "recurrent_dynamic(Tensor x, Tensor? batch_sizes, Tensor h, Tensor? c, Tensor[] cells, int directions)"
    " -> (Tensor, Tensor, Tensor)",
    recurrent_dynamic,
    _fake_recurrent_dynamic,
)
