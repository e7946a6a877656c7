"""The oracle of a Program's float operations: functions, normalization and quantization of rows.

What docs/numerics.md says under "Float operations of a Program", operation by operation; see reference.py.
May import reference and reference_rnn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from intaglio.ops.reference import fma32, quantize_rows
from intaglio.ops.reference_rnn import MINUS_LOG2E, bounded_exp2, exp2, sigmoid, tanh

__all__ = ["FUNCTIONS", "NORMS", "Finished", "Tail", "apply_function", "finish_rows", "normalize", "sum_rows"]

CHAINS = 16
"""A sum has sixteen chains, value i on chain i mod 16."""

GELU_COEFFICIENTS = (
    3.30927898e-05,
    7.69219466e-04,
    8.08071570e-03,
    5.34121028e-02,
    -4.58770975e-01,
    1.15120170e00,
    -9.99993061e-01,
)
"""Of the exponent of Phi(-a) as a polynomial in -a, highest power first."""


def constant(value: float) -> Tensor:
    """A float32 scalar."""
    return torch.tensor(value, dtype=torch.float32)


def at_least(x: Tensor, bound: float) -> Tensor:
    """`max(bound, x)`; NaN stays NaN."""
    return torch.where(x < bound, constant(bound), x)


def at_most(x: Tensor, bound: float) -> Tensor:
    """`min(bound, x)`; NaN stays NaN."""
    return torch.where(x > bound, constant(bound), x)


def gelu(x: Tensor) -> Tensor:
    """`max(x, 0) - |x| Phi(-|x|)`."""
    a = at_least(-x.abs(), -12.0)
    p = constant(GELU_COEFFICIENTS[0]).expand_as(a)
    for c in GELU_COEFFICIENTS[1:]:
        p = fma32(p, a, constant(c))
    return fma32(a, exp2(p), at_least(x, 0.0))


def gate(x: Tensor, z: Tensor) -> Tensor:
    """`x sigmoid(z)` with a single division."""
    return x / (1.0 + bounded_exp2(z, MINUS_LOG2E))


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU's approximation by tanh, as a sigmoid of twice the argument."""
    factor = fma32(x * x, constant(float.fromhex("0x1.2444f2p-4")), constant(float.fromhex("0x1.988454p+0")))
    return gate(x, x * factor)


def hardsigmoid(x: Tensor) -> Tensor:
    """`min(6, max(0, x + 3)) / 6`."""
    return at_most(at_least(x + 3.0, 0.0), 6.0) * constant(float.fromhex("0x1.555556p-3"))


FUNCTIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "none": lambda x, lower, upper: x,
    "relu": lambda x, lower, upper: at_least(x, 0.0),
    "clamp": lambda x, lower, upper: at_most(at_least(x, lower), upper),
    "gelu": lambda x, lower, upper: gelu(x),
    "gelu_tanh": lambda x, lower, upper: gelu_tanh(x),
    "quick_gelu": lambda x, lower, upper: gate(x, x * constant(1.702)),
    "silu": lambda x, lower, upper: gate(x, x),
    "sigmoid": lambda x, lower, upper: sigmoid(x),
    "tanh": lambda x, lower, upper: tanh(x),
    "hardswish": lambda x, lower, upper: x * hardsigmoid(x),
    "hardsigmoid": lambda x, lower, upper: hardsigmoid(x),
    "leaky_relu": lambda x, lower, upper: fma32(constant(lower), at_most(x, 0.0), at_least(x, 0.0)),
}
"""By name, in the order of `Function` in csrc/kernels/float_kernels.h."""

NORMS = ("none", "layer", "rms")
"""In the order of `Norm` there."""


def apply_function(x: Tensor, function: str, lower: float = 0.0, upper: float = 0.0) -> Tensor:
    """A function of each value."""
    return FUNCTIONS[function](x, lower, upper)


def sum_rows(x: Tensor, start: Tensor | None = None, *, squares: bool = False) -> Tensor:
    """Sums of the last axis of `(M, N)`, or of its squares: sixteen chains, joined by a tree."""
    rows, cols = x.shape
    padded = torch.nn.functional.pad(x, (0, -cols % CHAINS)).reshape(rows, -1, CHAINS)
    chains = torch.zeros(rows, CHAINS)
    for part in padded.unbind(1):
        chains = fma32(part, part, chains) if squares else chains + part
    while chains.shape[1] > 1:
        half = chains.shape[1] // 2
        chains = chains[:, :half] + chains[:, half:]
    return chains[:, 0]


def inverse_root(mean_square: Tensor, epsilon: float) -> Tensor:
    """`1 / sqrt(mean_square + epsilon)` in float64, rounded once."""
    return (1.0 / torch.sqrt(mean_square.double() + constant(epsilon).double())).float()


def normalize(x: Tensor, norm: str, weight: Tensor | None, bias: Tensor | None, epsilon: float) -> Tensor:
    """Layer normalization or RMS normalization of the rows of `(M, N)`."""
    count = constant(float(x.shape[1]))
    if norm == "layer":
        x = x - (sum_rows(x) / count)[:, None]
    inverse = inverse_root(sum_rows(x, squares=True) / count, epsilon)
    weight = torch.ones(x.shape[1]) if weight is None else weight
    bias = torch.zeros(x.shape[1]) if bias is None else bias
    return fma32(x * inverse[:, None], weight, bias)


@dataclass(frozen=True)
class Tail:
    """What follows a product."""

    function: str = "none"
    lower: float = 0.0
    upper: float = 0.0
    residual: Tensor | None = None
    norm: str = "none"
    weight: Tensor | None = None
    bias: Tensor | None = None
    epsilon: float = 0.0


@dataclass(frozen=True)
class Finished:
    """Where a chain of rows ends: the sum, the normalized rows, and those quantized."""

    sum: Tensor
    y: Tensor
    q: Tensor
    scale: Tensor
    zero_point: Tensor


def finish_rows(x: Tensor, tail: Tail) -> Finished:
    """Function, residual, normalization, quantization of the rows of `(M, N)`."""
    v = apply_function(x, tail.function, tail.lower, tail.upper)
    if tail.residual is not None:
        v = v + tail.residual
    y = v if tail.norm == "none" else normalize(v, tail.norm, tail.weight, tail.bias, tail.epsilon)
    return Finished(v, y, *quantize_rows(y))
