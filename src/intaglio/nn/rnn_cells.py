"""LSTMCell, GRUCell and RNNCell: the dynamic quantized forms of single cells, and their rules.

A cell is one layer over one time step, run by the same kernels as rnn.py's layers. May import ops, rules,
quantized, rnn and errors.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from intaglio.errors import ConfigError, InputError
from intaglio.nn.quantized import QuantizedModule, StateSpec, register_quantized
from intaglio.nn.requantized import requantized_form
from intaglio.nn.rnn import (
    States,
    describe_weights,
    float_cell_bytes,
    may_call_directly,
    quantize_cell,
    refuse_cells,
)
from intaglio.nn.rnn_trained import CELL
from intaglio.nn.rnn_weights import choose_weights
from intaglio.ops.recurrent import CellShape, pack_cell, run_cell, unpack_cell
from intaglio.qconfig import QConfig
from intaglio.rules import Example, OpRule, register_rule

__all__ = ["DynamicGRUCell", "DynamicLSTMCell", "DynamicRNNCell", "RecurrentCell"]

_Cell = TypeVar("_Cell", bound="RecurrentCell")


class RecurrentCell(QuantizedModule):
    """What `DynamicLSTMCell`, `DynamicGRUCell` and `DynamicRNNCell` share: called as torch's cells.

    Takes `(batch, input_size)` or `(input_size,)` of any float dtype on the CPU and states of width
    `hidden_size`, zeros if none are given; the new states have the input's dtype. A row that holds NaN, or
    infinity where it is quantized, comes out as NaN; other rows are not touched by it. Raises `InputError`
    for other inputs and in training mode.
    """

    modes: ClassVar[tuple[str, ...]]
    cell: Tensor

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        weight_dtype: str = "int8",
        path: str = "",
    ) -> None:
        super().__init__(path)
        if mode not in self.modes:
            raise ConfigError(f"{type(self).__name__} is of mode {' or '.join(self.modes)}, not {mode!r}")
        self.mode, self.input_size, self.hidden_size, self.bias = mode, input_size, hidden_size, bias
        self.weight_dtype = weight_dtype
        self.register_buffer("cell", None, persistent=False)

    @classmethod
    def from_float(cls: type[_Cell], module: nn.RNNCellBase, qconfig: QConfig, path: str = "") -> _Cell:
        """Quantize a torch cell of the same kind."""
        mode = f"RNN_{module.nonlinearity.upper()}" if isinstance(module, nn.RNNCell) else cls.modes[0]
        weight_dtype = choose_weights(qconfig.weight().dtype.name, module)
        quantized = cls(
            mode,
            module.input_size,
            module.hidden_size,
            bias=module.bias,
            weight_dtype=weight_dtype,
            path=path,
        )
        shape = quantized._shape()
        quantized.cell = pack_cell(shape, quantize_cell(module, shape, "", qconfig, path))
        return quantized

    def _shape(self) -> CellShape:
        return CellShape(self.mode, self.input_size, self.hidden_size, weight=self.weight_dtype)

    def _run(self, x: Tensor, states: States | None) -> States:
        self.check_input(x, self.input_size)
        if x.dim() not in (1, 2):
            raise InputError(
                f"{self.where()}: input has {x.dim()} dimensions, but (batch, {self.input_size}) or "
                f"({self.input_size},) is needed"
            )
        is_batched = x.dim() == 2
        count = 2 if self.mode == "LSTM" else 1
        expected = (x.shape[0], self.hidden_size) if is_batched else (self.hidden_size,)
        for i, state in enumerate(states or ()):
            name = f"hx[{i}]" if count == 2 else "hx"
            self.check_input(state, self.hidden_size, name)
            if tuple(state.shape) != expected:
                raise InputError(
                    f"{self.where()}: {name} has shape {tuple(state.shape)}, but {expected} is needed"
                )
        if states is None:
            states = tuple(x.new_zeros(expected) for _ in range(count))
        if may_call_directly(x, *states):
            found = tuple(state.clone(memory_format=torch.contiguous_format) for state in states)
            run_cell(x, found[0], found[1] if count == 2 else None, self.cell)
            return found
        leading = (1,) if is_batched else (1, 1)
        wide = [t.reshape(*leading, *t.shape) for t in (x, *states)]
        c = wide[2] if count == 2 else None
        _, h_n, c_n = torch.ops.intaglio.recurrent_dynamic(wide[0], None, wide[1], c, [self.cell], 1)
        return tuple(t.reshape(expected) for t in (h_n, c_n)[:count])

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "mode": self.mode,
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "bias": self.bias,
            "weight_dtype": self.weight_dtype,
        }

    def state_spec(self) -> StateSpec:
        """torch's names; each int8 weight is followed by `<its name>_scale`."""
        return self._shape().tensors(self.bias)

    def plain_state(self) -> dict[str, Tensor]:
        """Unpack."""
        plain = unpack_cell(self.cell)
        return {name: plain[name] for name in self.state_spec()}

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Pack for the instruction set in use."""
        self.cell = pack_cell(self._shape(), {name: state[name] for name in self.state_spec()})

    def float_bytes(self) -> int:
        """Bytes of the float parameters."""
        return float_cell_bytes(self._shape(), self.bias)

    def extra_repr(self) -> str:
        """What `print` shows."""
        shown = [str(self.input_size), str(self.hidden_size)]
        shown += [] if self.bias else ["bias=False"]
        shown += ["nonlinearity=relu"] if self.mode == "RNN_RELU" else []
        return ", ".join([*shown, describe_weights(self.weight_dtype)])


@register_quantized
class DynamicLSTMCell(RecurrentCell):
    """`nn.LSTMCell` with int8 or float16 weights; see `RecurrentCell` for what it takes."""

    kind = "dynamic_lstm_cell"
    modes = ("LSTM",)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> States:
        """The new states `(h, c)`."""
        if isinstance(input, Proxy):
            return self.as_fx_node(input, hx)
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise InputError(f"{self.where()}: hx must be the pair (h, c), not {type(hx).__name__}")
        return self._run(input, hx)


class _OneState(RecurrentCell):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The new state `h`."""
        if isinstance(input, Proxy):
            return self.as_fx_node(input, hx)
        return self._run(input, None if hx is None else (hx,))[0]


@register_quantized
class DynamicGRUCell(_OneState):
    """`nn.GRUCell` with int8 or float16 weights; see `RecurrentCell` for what it takes."""

    kind = "dynamic_gru_cell"
    modes = ("GRU",)


@register_quantized
class DynamicRNNCell(_OneState):
    """`nn.RNNCell`, tanh or relu, with int8 or float16 weights; see `RecurrentCell` for what it takes."""

    kind = "dynamic_rnn_cell"
    modes = ("RNN_TANH", "RNN_RELU")


def _lstm_example() -> Example:
    return nn.LSTMCell(24, 19), (torch.randn(5, 24), (torch.randn(5, 19) * 0.3, torch.randn(5, 19)))


def _gru_example() -> Example:
    return nn.GRUCell(16, 33, bias=False), (torch.randn(3, 16),)


def _rnn_example() -> Example:
    return nn.RNNCell(16, 32, nonlinearity="relu"), (torch.randn(16), torch.randn(32) * 0.3)


def _rule(name: str, kind: type[nn.RNNCellBase], form: type[RecurrentCell], example: Any) -> OpRule:
    def lower(module: nn.Module, qconfig: QConfig, path: str) -> nn.Module:
        assert isinstance(module, nn.RNNCellBase)
        return form.from_float(module, qconfig, path)

    return register_rule(
        OpRule(
            name=name,
            float_types=(kind,),
            static=requantized_form(lower, refuse_cells, (example,)),
            trained=CELL,
            lower_dynamic=lower,
            weight_dtypes=frozenset({"int8", "float16"}),
            default_for=frozenset({"int8", "float16"}),
            refuse=refuse_cells,
            examples=(example,),
        )
    )


LSTM_CELL = _rule("LSTMCell", nn.LSTMCell, DynamicLSTMCell, _lstm_example)
GRU_CELL = _rule("GRUCell", nn.GRUCell, DynamicGRUCell, _gru_example)
RNN_CELL = _rule("RNNCell", nn.RNNCell, DynamicRNNCell, _rnn_example)
