"""How LSTM, GRU and RNN train for quantization: the arithmetic of rnn.py's kernels in float, step by step.

Weights are rounded per row of each gate, inputs and hidden states by the range of each row of the batch, at
every step, as the quantized layer does; gates and cell states stay float. May import fake_quantize, trained,
rnn and rules.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from intaglio.fake_quantize import keep_gradient, round_dynamically
from intaglio.nn.rnn_weights import READS_INPUT, choose_weights
from intaglio.nn.trained import TrainedLayer, fake_quantizer_name
from intaglio.rules import TrainedForm

__all__ = ["CELL", "LAYERS"]

States = tuple[Tensor, ...]


def _weights(module: nn.Module) -> tuple[str, ...]:
    """The weights that are int8: all, but for that of a narrow input, which stays float16."""
    names = [name for name in module._parameters if name.startswith("weight_")]
    if isinstance(module, TrainedLayer):  # decided when training began
        return tuple(name for name in names if fake_quantizer_name(name) in module._modules)
    is_mixed = choose_weights("int8", module) == "mixed"
    return tuple(name for name in names if not (is_mixed and name in READS_INPUT))


class _Cell:
    """One layer and direction: its weights as they are rounded now, and a step."""

    def __init__(self, module: TrainedLayer, weights: dict[str, Tensor], mode: str, suffix: str) -> None:
        self.mode, self.rounds = mode, module.rounds
        self.is_half = "weight_ih" + suffix not in weights
        self.w_ih = self._weight(module, weights, "weight_ih" + suffix)
        self.w_hh = weights["weight_hh" + suffix]
        self.w_hr = weights.get("weight_hr" + suffix)
        self.b_ih, self.b_hh = (getattr(module, name + suffix, None) for name in ("bias_ih", "bias_hh"))

    def _weight(self, module: TrainedLayer, weights: dict[str, Tensor], name: str) -> Tensor:
        if name in weights:
            return weights[name]
        weight = module.weight_named(name)
        return keep_gradient(weight, weight.detach().half().to(weight.dtype)) if self.rounds else weight

    def read(self, x: Tensor) -> Tensor:
        """What the input gives to the gates, of all steps at once."""
        if self.rounds and not self.is_half:
            x = round_dynamically(x)
        return F.linear(x, self.w_ih, self.b_ih)

    def step(self, pre: Tensor, states: States) -> States:
        """The new states of one step, from what its input gives."""
        h = states[0]
        hidden = F.linear(round_dynamically(h) if self.rounds else h, self.w_hh, self.b_hh)
        if self.mode == "LSTM":
            i, f, g, o = (pre + hidden).chunk(4, -1)
            c = torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            if self.w_hr is not None:
                h = F.linear(round_dynamically(h) if self.rounds else h, self.w_hr)
            return h, c
        if self.mode == "GRU":
            (r_x, z_x, n_x), (r_h, z_h, n_h) = pre.chunk(3, -1), hidden.chunk(3, -1)
            r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
            n = torch.tanh(n_x + r * n_h)
            return (n + z * (h - n),)
        return (torch.tanh(pre + hidden) if self.mode == "RNN_TANH" else torch.relu(pre + hidden),)


def _run(
    cell: _Cell, x: Tensor, sizes: list[int], states: States, *, backwards: bool
) -> tuple[Tensor, States]:
    """One layer and direction over `(rows, features)`, of which step t has the next `sizes[t]`."""
    steps = torch.split(cell.read(x), sizes)
    outputs: list[Tensor] = [x] * len(sizes)
    for t in reversed(range(len(sizes))) if backwards else range(len(sizes)):
        count = sizes[t]
        new = cell.step(steps[t], tuple(state[:count] for state in states))
        outputs[t] = new[0]
        states = tuple(
            made if count == len(state) else torch.cat([made, state[count:]])
            for made, state in zip(new, states, strict=True)
        )
    return torch.cat(outputs), states


def _train_layers(module: nn.Module, weights: dict[str, Tensor], input: Any, hx: Any = None) -> Any:
    assert isinstance(module, TrainedLayer)
    assert isinstance(module, nn.RNNBase)
    packed = input if isinstance(input, PackedSequence) else None
    x = input.data if packed is not None else input
    is_batched = packed is not None or x.dim() == 3
    if packed is None:
        x = x if is_batched else x[:, None]
        x = x.transpose(0, 1) if module.batch_first and is_batched else x
    count, batch = (0, int(packed.batch_sizes[0])) if packed is not None else (x.shape[0], x.shape[1])
    sizes = packed.batch_sizes.tolist() if packed is not None else [batch] * count
    rows = x if packed is not None else x.flatten(0, 1)
    states = _first_states(module, rows, batch, hx, is_batched)
    if packed is not None and packed.sorted_indices is not None:
        states = tuple(state.index_select(1, packed.sorted_indices) for state in states)
    directions = 2 if module.bidirectional else 1
    last: list[States] = []
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            at = layer * directions + direction
            cell = _Cell(module, weights, module.mode, f"_l{layer}" + ("_reverse" if direction else ""))
            y, ended = _run(cell, rows, sizes, tuple(s[at] for s in states), backwards=direction == 1)
            outputs.append(y)
            last.append(ended)
        rows = torch.cat(outputs, -1) if directions == 2 else outputs[0]
        if layer + 1 < module.num_layers:
            rows = F.dropout(rows, module.dropout, module.training)
    ended = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
    if packed is not None:
        if packed.unsorted_indices is not None:
            ended = tuple(state.index_select(1, packed.unsorted_indices) for state in ended)
        result: Any = PackedSequence(rows, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
    else:
        result = rows.view(count, batch, -1)
        if not is_batched:
            result, ended = result[:, 0], tuple(state[:, 0] for state in ended)
        elif module.batch_first:
            result = result.transpose(0, 1)
    return result, ended if len(ended) == 2 else ended[0]


def _first_states(module: nn.RNNBase, rows: Tensor, batch: int, hx: Any, is_batched: bool) -> States:
    if hx is not None:
        states = tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
        return states if is_batched else tuple(state[:, None] for state in states)
    count = module.num_layers * (2 if module.bidirectional else 1)
    widths = [module.proj_size or module.hidden_size, module.hidden_size][: 2 if module.mode == "LSTM" else 1]
    return tuple(rows.new_zeros(count, batch, width) for width in widths)


def _train_cell(module: nn.Module, weights: dict[str, Tensor], input: Tensor, hx: Any = None) -> Any:
    assert isinstance(module, TrainedLayer)
    assert isinstance(module, nn.RNNCellBase)
    kinds = {nn.LSTMCell: "LSTM", nn.GRUCell: "GRU"}
    mode = next((name for kind, name in kinds.items() if isinstance(module, kind)), "")
    mode = mode or f"RNN_{module.nonlinearity.upper()}"  # type: ignore[operator, union-attr]
    is_batched = input.dim() == 2
    x = input if is_batched else input[None]
    if hx is None:
        states: States = tuple(x.new_zeros(len(x), module.hidden_size) for _ in range(1 + (mode == "LSTM")))
    else:
        states = tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
        states = states if is_batched else tuple(state[None] for state in states)
    cell = _Cell(module, weights, mode, "")
    found = cell.step(cell.read(x), states)
    found = found if is_batched else tuple(state[0] for state in found)
    return found if len(found) == 2 else found[0]


LAYERS = TrainedForm(_train_layers, weights=_weights)
CELL = TrainedForm(_train_cell, weights=_weights)
