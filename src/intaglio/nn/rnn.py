"""LSTM, GRU and RNN: the dynamic quantized forms of whole layers, and their rules.

Weights are int8 per row of each gate; inputs and hidden states are quantized to uint8 as they come, each
row of the batch by itself. Or they are float16, and nothing else is quantized. Or, where a narrow input is
read, only the input's weight is float16 (`choose_weights`). Gates and cell states are float32. The cells
are in rnn_cells.py. May import ops, rules, quantized, linear and errors.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence

from intaglio.errors import ConfigError, InputError
from intaglio.nn.linear_half import round_to_half
from intaglio.nn.quantized import QuantizedModule, StateSpec, register_quantized
from intaglio.nn.requantized import requantized_form
from intaglio.nn.rnn_trained import LAYERS
from intaglio.nn.rnn_weights import choose_weights
from intaglio.nn.weights import quantize_weight
from intaglio.ops.library import is_eager
from intaglio.ops.packing import MAX_K
from intaglio.ops.recurrent import CellShape, pack_cell, run_recurrent, unpack_cell
from intaglio.qconfig import QConfig
from intaglio.qparams import INT8
from intaglio.rules import Example, OpRule, register_rule

__all__ = ["DynamicGRU", "DynamicLSTM", "DynamicRNN", "RecurrentLayers", "quantize_cell", "refuse_cells"]

States = tuple[Tensor, ...]
_Layers = TypeVar("_Layers", bound="RecurrentLayers")


def quantize_cell(
    module: nn.Module, shape: CellShape, suffix: str, qconfig: QConfig, path: str
) -> dict[str, Tensor]:
    """The plain tensors of one cell of a float module whose parameters end in `suffix`."""
    plain: dict[str, Tensor] = {}
    for name in shape.weights():
        weight = getattr(module, name + suffix)
        if shape.is_half(name):
            plain[name] = round_to_half(weight, path)
        else:
            plain[name], plain[f"{name}_scale"] = quantize_weight(weight, qconfig, path)
    if module.bias:
        for name in ("bias_ih", "bias_hh"):
            plain[name] = getattr(module, name + suffix).detach().to(torch.float32)
    return plain


def float_cell_bytes(shape: CellShape, has_bias: bool) -> int:
    """Bytes of a cell's float parameters."""
    weights = sum(rows * columns for rows, columns in shape.weights().values())
    return 4 * (weights + (2 * shape.rows if has_bias else 0))


def describe_weights(weight: str) -> str:
    """What `print` shows of a recurrent module's arithmetic."""
    if weight == "float16":
        return "weight=float16, computed in float32"
    if weight == "mixed":
        return "weight=int8 per channel, activations=uint8 per row; the input's weight float16"
    return "weight=int8 per channel, activations=uint8 per row"


def run_cells(
    x: Tensor, batch_sizes: Tensor | None, h: Tensor, c: Tensor | None, cells: list[Tensor], directions: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Outputs, `h_n` and `c_n`: the kernels straight away where they can be called, else the op."""
    if may_call_directly(x, h, c):
        h_n = h.clone(memory_format=torch.contiguous_format)
        c_n = None if c is None else c.clone(memory_format=torch.contiguous_format)
        return run_recurrent(x, batch_sizes, h_n, c_n, cells, directions), h_n, c_n
    y, h_n, c_n = torch.ops.intaglio.recurrent_dynamic(x, batch_sizes, h, c, cells, directions)
    return y, h_n, None if c is None else c_n


def may_call_directly(*tensors: Tensor | None) -> bool:
    """Whether all are float32 on the CPU, none wants a gradient, and nothing watches torch's ops."""
    return is_eager() and all(
        t is None or (t.dtype is torch.float32 and t.is_cpu and not t.requires_grad) for t in tensors
    )


class RecurrentLayers(QuantizedModule):
    """What `DynamicLSTM`, `DynamicGRU` and `DynamicRNN` share: called and answering as torch's modules.

    Takes `(steps, batch, input_size)`, `(batch, steps, input_size)` with `batch_first`,
    `(steps, input_size)` or a `PackedSequence`, of any float dtype on the CPU; the results have its dtype.
    A row of the batch that meets NaN, or infinity where its input is quantized, is NaN from that step on; no
    other row is touched by it. `dropout` is kept but has no effect: quantized modules are for inference.
    Raises `InputError` for other inputs, for states of other sizes, and in training mode.
    """

    modes: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        weight_dtype: str = "int8",
        path: str = "",
    ) -> None:
        super().__init__(path)
        if mode not in self.modes:
            raise ConfigError(f"{type(self).__name__} is of mode {' or '.join(self.modes)}, not {mode!r}")
        self.mode, self.input_size, self.hidden_size = mode, input_size, hidden_size
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.bidirectional, self.proj_size = dropout, bidirectional, proj_size
        self.weight_dtype = weight_dtype
        self._names = ["cell" + suffix for suffix, _ in self._cells()]
        for name in self._names:
            self.register_buffer(name, None, persistent=False)

    @classmethod
    def from_float(cls: type[_Layers], module: nn.RNNBase, qconfig: QConfig, path: str = "") -> _Layers:
        """Quantize a torch module of the same kind."""
        quantized = cls(
            module.mode,
            module.input_size,
            module.hidden_size,
            module.num_layers,
            bias=module.bias,
            batch_first=module.batch_first,
            dropout=module.dropout,
            bidirectional=module.bidirectional,
            proj_size=module.proj_size,
            weight_dtype=choose_weights(qconfig.weight().dtype.name, module),
            path=path,
        )
        for suffix, shape in quantized._cells():
            plain = quantize_cell(module, shape, suffix, qconfig, path)
            setattr(quantized, "cell" + suffix, pack_cell(shape, plain))
        return quantized

    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _cells(self) -> list[tuple[str, CellShape]]:
        """Suffix of torch's parameter names and shape of each cell, in torch's order."""
        ends = ("", "_reverse")[: self._directions()]
        output = self.proj_size or self.hidden_size
        widths = [self.input_size] + [output * len(ends)] * (self.num_layers - 1)
        later = "int8" if self.weight_dtype == "mixed" else self.weight_dtype
        weights = [self.weight_dtype] + [later] * (self.num_layers - 1)
        return [
            (f"_l{layer}{end}", CellShape(self.mode, width, self.hidden_size, self.proj_size, weight))
            for layer, (width, weight) in enumerate(zip(widths, weights, strict=True))
            for end in ends
        ]

    def _run(
        self, x: Tensor | PackedSequence, states: States | None
    ) -> tuple[Tensor | PackedSequence, States]:
        if isinstance(x, PackedSequence):
            return self._run_packed(x, states)
        self.check_input(x, self.input_size)
        if x.dim() not in (2, 3):
            raise InputError(
                f"{self.where()}: input has {x.dim()} dimensions, but (steps, batch, {self.input_size}), its "
                f"batch_first form, or (steps, {self.input_size}) is needed"
            )
        is_batched = x.dim() == 3
        by_step = x.transpose(0, 1) if self.batch_first and is_batched else x if is_batched else x[:, None]
        if by_step.shape[0] == 0:
            raise InputError(f"{self.where()}: input has shape {tuple(x.shape)}: there is no time step")
        states = self._states(by_step, by_step.shape[1], states, is_batched)
        y, states = self._through_cells(by_step, None, states)
        if not is_batched:
            return y[:, 0], tuple(state[:, 0] for state in states)
        return y.transpose(0, 1) if self.batch_first else y, states

    def _run_packed(self, x: PackedSequence, states: States | None) -> tuple[PackedSequence, States]:
        self.check_input(x.data, self.input_size, "the packed input's data")
        states = self._states(x.data, int(x.batch_sizes[0]), states, True)
        if x.sorted_indices is not None:
            states = tuple(state.index_select(1, x.sorted_indices) for state in states)
        y, states = self._through_cells(x.data, x.batch_sizes, states)
        if x.unsorted_indices is not None:
            states = tuple(state.index_select(1, x.unsorted_indices) for state in states)
        return PackedSequence(y, x.batch_sizes, x.sorted_indices, x.unsorted_indices), states

    def _packed_cells(self) -> list[Tensor]:
        buffers = self._buffers
        return [cell for name in self._names if (cell := buffers[name]) is not None]

    def _through_cells(self, x: Tensor, batch_sizes: Tensor | None, states: States) -> tuple[Tensor, States]:
        c = states[1] if len(states) == 2 else None
        try:
            y, h_n, c_n = run_cells(x, batch_sizes, states[0], c, self._packed_cells(), self._directions())
        except ValueError as error:
            raise InputError(f"{self.where()}: {error}") from None
        return y, (h_n,) if c_n is None else (h_n, c_n)

    def _states(self, x: Tensor, batch: int, states: States | None, is_batched: bool) -> States:
        """The given states, checked and with a batch dimension, or zeros."""
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: 2 if self.mode == "LSTM" else 1]
        count = self.num_layers * self._directions()
        if states is None:
            return tuple(x.new_zeros(count, batch, width) for width in widths)
        for i, (state, width) in enumerate(zip(states, widths, strict=True)):
            name = f"hx[{i}]" if len(widths) == 2 else "hx"
            self.check_input(state, width, name)
            expected = (count, batch, width) if is_batched else (count, width)
            if tuple(state.shape) != expected:
                raise InputError(
                    f"{self.where()}: {name} has shape {tuple(state.shape)}, but {expected} is needed: "
                    f"layers * directions{', batch' if is_batched else ''}, width"
                )
        return states if is_batched else tuple(state[:, None] for state in states)

    def flatten_parameters(self) -> None:
        """Do nothing: torch's modules have this method, and models call it."""

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "mode": self.mode,
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "bias": self.bias,
            "batch_first": self.batch_first,
            "dropout": self.dropout,
            "bidirectional": self.bidirectional,
            "proj_size": self.proj_size,
            "weight_dtype": self.weight_dtype,
        }

    def state_spec(self) -> StateSpec:
        """torch's names; each int8 weight is followed by `<its name>_scale`."""
        return {
            _named(name, suffix): entry
            for suffix, shape in self._cells()
            for name, entry in shape.tensors(self.bias).items()
        }

    def plain_state(self) -> dict[str, Tensor]:
        """Unpack."""
        spec, state = self.state_spec(), {}
        for (suffix, _), cell in zip(self._cells(), self._packed_cells(), strict=True):
            state.update({_named(name, suffix): tensor for name, tensor in unpack_cell(cell).items()})
        return {name: state[name] for name in spec}

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Pack for the instruction set in use."""
        for suffix, shape in self._cells():
            plain = {name: state[_named(name, suffix)] for name in shape.tensors(self.bias)}
            setattr(self, "cell" + suffix, pack_cell(shape, plain))

    def float_bytes(self) -> int:
        """Bytes of the float parameters."""
        return sum(float_cell_bytes(shape, self.bias) for _, shape in self._cells())

    def extra_repr(self) -> str:
        """What `print` shows."""
        options = {
            "proj_size": (self.proj_size, 0),
            "num_layers": (self.num_layers, 1),
            "bias": (self.bias, True),
            "batch_first": (self.batch_first, False),
            "dropout": (self.dropout, 0.0),
            "bidirectional": (self.bidirectional, False),
        }
        shown = [f"{name}={value}" for name, (value, default) in options.items() if value != default]
        sizes = [str(self.input_size), str(self.hidden_size)]
        return ", ".join([*sizes, *shown, describe_weights(self.weight_dtype)])


def _named(name: str, suffix: str) -> str:
    """`weight_ih_scale` of layer 0 is `weight_ih_l0_scale`."""
    stem = name.removesuffix("_scale")
    return stem + suffix + name[len(stem) :]


@register_quantized
class DynamicLSTM(RecurrentLayers):
    """`nn.LSTM` with int8 or float16 weights; see `RecurrentLayers` for what it takes."""

    kind = "dynamic_lstm"
    modes = ("LSTM",)

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor | PackedSequence, States]:
        """The outputs, and `(h_n, c_n)`."""
        if isinstance(input, Proxy):
            return self.as_fx_node(input, hx)
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise InputError(f"{self.where()}: hx must be the pair (h_0, c_0), not {type(hx).__name__}")
        return self._run(input, hx)


class _OneState(RecurrentLayers):
    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """The outputs, and `h_n`."""
        if isinstance(input, Proxy):
            return self.as_fx_node(input, hx)
        y, (h_n,) = self._run(input, None if hx is None else (hx,))
        return y, h_n


@register_quantized
class DynamicGRU(_OneState):
    """`nn.GRU` with int8 or float16 weights; see `RecurrentLayers` for what it takes."""

    kind = "dynamic_gru"
    modes = ("GRU",)


@register_quantized
class DynamicRNN(_OneState):
    """`nn.RNN`, tanh or relu, with int8 or float16 weights; see `RecurrentLayers` for what it takes."""

    kind = "dynamic_rnn"
    modes = ("RNN_TANH", "RNN_RELU")


def refuse_cells(module: nn.Module, qconfig: QConfig) -> str | None:
    """Why a recurrent module must stay float, or None."""
    is_int8 = qconfig.weight().dtype is INT8
    for name, parameter in module.named_parameters():
        if is_int8 and parameter.dim() == 2 and parameter.shape[1] > MAX_K:
            return f"{name} has {parameter.shape[1]} columns, beyond {MAX_K} int32 sums could overflow"
        if parameter.numel() == 0:
            return f"{name} is empty"
    return None


def _lstm_example() -> Example:
    return nn.LSTM(37, 20, 2, bidirectional=True), (torch.randn(6, 3, 37),)


def _projected_example() -> Example:
    states = (torch.randn(2, 4, 7) * 0.3, torch.randn(2, 4, 19))
    return nn.LSTM(24, 19, 2, bias=False, batch_first=True, proj_size=7), (torch.randn(4, 5, 24), states)


def _gru_example() -> Example:
    return nn.GRU(16, 33, 2, batch_first=True, dropout=0.5), (torch.randn(3, 5, 16),)


def _tanh_example() -> Example:
    return nn.RNN(16, 32, bidirectional=True), (torch.randn(5, 3, 16), torch.randn(2, 3, 32) * 0.3)


def _relu_example() -> Example:
    return nn.RNN(16, 24, nonlinearity="relu", bias=False), (torch.randn(5, 16),)


def _rule(name: str, kind: type[nn.RNNBase], form: type[RecurrentLayers], *examples: Any) -> OpRule:
    def lower(module: nn.Module, qconfig: QConfig, path: str) -> nn.Module:
        assert isinstance(module, nn.RNNBase)
        return form.from_float(module, qconfig, path)

    return register_rule(
        OpRule(
            name=name,
            float_types=(kind,),
            static=requantized_form(lower, refuse_cells, examples),
            trained=LAYERS,
            lower_dynamic=lower,
            weight_dtypes=frozenset({"int8", "float16"}),
            default_for=frozenset({"int8", "float16"}),
            refuse=refuse_cells,
            examples=examples,
        )
    )


LSTM = _rule("LSTM", nn.LSTM, DynamicLSTM, _lstm_example, _projected_example)
GRU = _rule("GRU", nn.GRU, DynamicGRU, _gru_example)
RNN = _rule("RNN", nn.RNN, DynamicRNN, _tanh_example, _relu_example)
