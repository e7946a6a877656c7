"""The oracle of the recurrent family: gates, time steps and whole layers in plain torch.

What docs/numerics.md says under "Gates" and "Recurrent layers", operation by operation; see reference.py,
from which the integers come. A cell's plain tensors are a dict with torch's names less the layer's
suffix: `weight_ih`, `weight_ih_scale`, `weight_hh`, ... May import reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intaglio.ops.reference import epilogue, fma32, linear_half, matmul_exact, quantize_rows

__all__ = ["bounded_exp2", "exp2", "recurrent_layers", "recurrent_step", "sigmoid", "tanh"]

MINUS_LOG2E = -float.fromhex("0x1.715476p+0")
MINUS_TWO_LOG2E = 2 * MINUS_LOG2E
LARGEST_EXPONENT = 30.0
# 2**f on [-1/2, 1/2], highest power first: tools/fit_exp2.py.
EXP2_COEFFICIENTS = tuple(
    float.fromhex(c)
    for c in (
        "0x1.23a604p-10",
        "0x1.3cbea8p-7",
        "0x1.c74322p-5",
        "0x1.ebfa4ep-3",
        "0x1.62e39ep-1",
        "0x1p+0",
    )
)


def bounded_exp2(x: Tensor, factor: float) -> Tensor:
    """`2 ** clamp(x * factor, -30, 30)` for float32, within 5e-7 of it in relative terms; NaN stays NaN."""
    return exp2(torch.clamp(x * torch.tensor(factor), -LARGEST_EXPONENT, LARGEST_EXPONENT))


def exp2(t: Tensor) -> Tensor:
    """`2 ** t` for float32 `t` in -127..126, exactly 0 at -127; NaN stays NaN."""
    n = torch.round(t)
    f = t - n
    p = torch.full_like(f, EXP2_COEFFICIENTS[0])
    for c in EXP2_COEFFICIENTS[1:]:
        p = fma32(p, f, torch.tensor(c))
    return (p.view(torch.int32) + (n.nan_to_num().to(torch.int32) << 23)).view(torch.float32)


def sigmoid(x: Tensor) -> Tensor:
    """`1 / (1 + E(x))`."""
    return 1.0 / (1.0 + bounded_exp2(x, MINUS_LOG2E))


def tanh(x: Tensor) -> Tensor:
    """`(1 - E(2x)) / (1 + E(2x))`."""
    e = bounded_exp2(x, MINUS_TWO_LOG2E)
    return (1.0 - e) / (1.0 + e)


def lstm_units(gates: Sequence[Tensor], c: Tensor) -> tuple[Tensor, Tensor]:
    """New `h` and `c` from the pre-activations `i, f, g, o`: two divisions in all."""
    i, f, o = (1.0 + bounded_exp2(gates[k], MINUS_LOG2E) for k in (0, 1, 3))
    e = bounded_exp2(gates[2], MINUS_TWO_LOG2E)
    ig = i * (1.0 + e)
    c = fma32(c, ig, (1.0 - e) * f) / (ig * f)
    e = bounded_exp2(c, MINUS_TWO_LOG2E)
    return (1.0 - e) / ((1.0 + e) * o), c


def gru_units(gates: Sequence[Tensor], n_x: Tensor, h: Tensor) -> Tensor:
    """New `h` from the pre-activations `r, z`, the hidden part of `n`, its input part and the old `h`."""
    r = sigmoid(gates[0])
    z = bounded_exp2(gates[1], MINUS_LOG2E)
    e = bounded_exp2(fma32(r, gates[2], n_x), MINUS_TWO_LOG2E)
    n = 1.0 + e
    return fma32(h, n, (1.0 - e) * z) / (n * (1.0 + z))


def product(x: Tensor, cell: dict[str, Tensor], name: str, base: Tensor) -> Tensor:
    """`(M, K)` float32 by the cell's `(N, K)` weight `name`, on top of `base`.

    An int8 weight meets `x` quantized per row: `fma(acc, scales, base)`; a float16 weight meets `x` itself.
    """
    weight = cell[name]
    if weight.dtype == torch.float16:
        return linear_half(x, weight, base)
    q, row_scale, zero_point = quantize_rows(x)
    acc = matmul_exact(q.to(torch.int32) - zero_point[:, None], weight)
    return epilogue(acc, row_scale, cell[f"{name}_scale"], base)


def recurrent_step(
    mode: str, cell: dict[str, Tensor], x: Tensor, h: Tensor, c: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """One time step of `(M, input)` rows with states `(M, output)` and, of an LSTM, `(M, hidden)`."""
    rows = cell["weight_ih"].shape[0]
    b_ih, b_hh = cell.get("bias_ih", torch.zeros(rows)), cell.get("bias_hh", torch.zeros(rows))
    gates_of = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}[mode]
    if mode == "GRU":
        hidden = rows // 3
        bias = torch.cat([b_ih[: 2 * hidden] + b_hh[: 2 * hidden], b_ih[2 * hidden :]])
    else:
        bias = b_ih + b_hh
    pre = product(x, cell, "weight_ih", bias[None])
    base = pre.clone()
    if mode == "GRU":
        base[:, 2 * hidden :] = b_hh[2 * hidden :]
    gates = product(h, cell, "weight_hh", base).chunk(gates_of, 1)
    if mode == "GRU":
        return gru_units(gates, pre[:, 2 * hidden :], h), None
    if mode == "RNN_TANH":
        return tanh(gates[0]), None
    if mode == "RNN_RELU":
        return torch.clamp(gates[0], min=0.0), None
    assert c is not None
    h, c = lstm_units(gates, c)
    if "weight_hr" in cell:
        h = product(h, cell, "weight_hr", torch.zeros(1, 1))
    return h, c


def recurrent_layers(
    mode: str,
    cells: Sequence[dict[str, Tensor]],
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    *,
    batch_sizes: Sequence[int],
    directions: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All layers over packed sequences: `(rows, input)` to `(rows, directions * output)`, `h_n`, `c_n`.

    `h` and `c` are `(layers * directions, batch, ...)`; step t has the first `batch_sizes[t]` rows.
    """
    h, c = h.clone(), None if c is None else c.clone()
    first = [sum(batch_sizes[:t]) for t in range(len(batch_sizes))]
    for layer in range(len(cells) // directions):
        outputs = []
        for direction in range(directions):
            i = layer * directions + direction
            steps = range(len(batch_sizes))
            y = torch.empty(x.shape[0], h.shape[2])
            for t in reversed(steps) if direction else steps:
                m, at = batch_sizes[t], first[t]
                new_c = None if c is None else c[i, :m]
                new_h, new_c = recurrent_step(mode, cells[i], x[at : at + m], h[i, :m], new_c)
                h[i, :m] = y[at : at + m] = new_h
                if c is not None and new_c is not None:
                    c[i, :m] = new_c
            outputs.append(y)
        x = torch.cat(outputs, 1)
    return x, h, c
