"""`FloatFunctional`: operators as a module, so that what they give can be observed; and what it becomes.

One `FloatFunctional` stands for one place in the code: its output has one range. Where several places share
one, their ranges are kept apart while data runs, so that `convert` can tell when they differ. May import ops,
rules, static, qtensor and errors.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from intaglio.errors import ConversionError, InputError
from intaglio.fake_quantize import FakeQuantizeBase
from intaglio.nn.quantized import StateSpec, register_quantized
from intaglio.nn.static import StaticModule
from intaglio.ops import elementwise
from intaglio.ops.library import is_direct
from intaglio.ops.matmul_static import matmul
from intaglio.ops.static_calls import PairCall
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams
from intaglio.qtensor import QTensor
from intaglio.rules import OpRule, StaticForm, register_rule

__all__ = ["FloatFunctional", "QFunctional"]

MOST_DIFFERENCE = 2.0
"""Ranges of two places that share a `FloatFunctional` may differ by this factor: one bit of precision."""


class FloatFunctional(nn.Module):
    """Operators whose results are observed by `prepare` and quantized after `convert`: `self.plus.add(x, y)`.

    Use one for each place in the code. `add_scalar` and `mul_scalar` are not observed: they change a
    quantized value's parameters and not its integers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.activation_post_process: nn.Module = nn.Identity()
        self.ranges: dict[str, tuple[float, float]] = {}

    def forward(self, operation: str, *inputs: Any, **named: Any) -> Tensor:
        """The operation of that name: how a graph calls the methods. Code calls them itself."""
        _check_operation(operation, "FloatFunctional")
        result: Tensor = getattr(self, operation)(*inputs, **named)
        return result

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """`torch.add(x, y)`."""
        return self._observe(torch.add(x, y))

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        """`torch.add(x, y)` with a number."""
        return torch.add(x, y)

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """`torch.mul(x, y)`."""
        return self._observe(torch.mul(x, y))

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        """`torch.mul(x, y)` with a number."""
        return torch.mul(x, y)

    def cat(self, x: Sequence[Tensor], dim: int = 0) -> Tensor:
        """`torch.cat(x, dim)`."""
        return self._observe(torch.cat(list(x), dim=dim))

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        """`relu(torch.add(x, y))`."""
        if isinstance(self.activation_post_process, FakeQuantizeBase):
            return self.activation_post_process.rounded(torch.add(x, y), (0.0, math.inf))
        return self._observe(torch.relu(torch.add(x, y)))

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """`torch.matmul(x, y)`."""
        return self._observe(torch.matmul(x, y))

    def _observe(self, result: Tensor) -> Tensor:
        if isinstance(self.activation_post_process, nn.Identity):
            return result
        if result.numel() > 0 and not isinstance(self.activation_post_process, FakeQuantizeBase):
            caller = sys._getframe(2)
            place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
            low, high = (float(end) for end in torch.aminmax(result.detach()))
            known_low, known_high = self.ranges.get(place, (low, high))
            self.ranges[place] = (min(low, known_low), max(high, known_high))
        observed: Tensor = self.activation_post_process(result)
        return observed

    def check_places(self, path: str) -> None:
        """Raise `ConversionError` if two places of the code share this module and differ in range."""
        widths = {place: high - low for place, (low, high) in self.ranges.items()}
        if len(widths) < 2 or max(widths.values()) <= MOST_DIFFERENCE * min(widths.values()):
            return
        seen = "; ".join(
            f"{place} gave {low:.4g} to {high:.4g}" for place, (low, high) in self.ranges.items()
        )
        raise ConversionError(
            f"'{path}': one FloatFunctional is used in {len(widths)} places whose ranges differ, so that one "
            f"scale cannot serve them ({seen}): give each place a FloatFunctional of its own"
        )


OPERATIONS = ("add", "add_relu", "add_scalar", "cat", "matmul", "mul", "mul_scalar")


def _check_operation(operation: Any, where: str) -> None:
    if not isinstance(operation, str) or operation not in OPERATIONS:
        named = f"no operation {operation!r}" if isinstance(operation, str) else "no forward for tensors"
        raise InputError(f"{where} has {named}: call {', '.join(OPERATIONS)} on it")


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _operation(method: _Method) -> _Method:
    """A method that is one node of a graph where one is being traced."""

    @wraps(method)
    def call(self: QFunctional, x: Any, *others: Any, **named: Any) -> Any:
        if type(x) is QTensor and others and type(others[0]) is QTensor:
            return method(self, x, *others, **named)
        first = x[0] if isinstance(x, (list, tuple)) and x else x
        if isinstance(first, Proxy) or (others and isinstance(others[0], Proxy)):
            return self.as_fx_node(method.__name__, x, *others, **named)
        return method(self, x, *others, **named)

    return cast(_Method, call)


@register_quantized
class QFunctional(StaticModule):
    """What `FloatFunctional` becomes: the same methods on `QTensor`s."""

    kind = "functional"

    def __init__(self, path: str = "", *, seen: bool = True, limits: Sequence[int] = (0, 255)) -> None:
        super().__init__(path, limits=(limits[0], limits[1]))
        self.seen = seen
        # For the operation, its lower limit and the operands' parameters: the call that was worked out.
        self._planned: tuple[Callable[..., Tensor], int | None, QParams, QParams, PairCall] | None = None

    def forward(self, operation: str, *inputs: Any, **named: Any) -> QTensor:
        """The operation of that name: how a graph calls the methods."""
        _check_operation(operation, self.where())
        result: QTensor = getattr(self, operation)(*inputs, **named)
        return result

    @_operation
    def add(self, x: QTensor, y: QTensor) -> QTensor:
        """The sum, with broadcasting."""
        return self._combine(elementwise.add, x, y)

    @_operation
    def add_relu(self, x: QTensor, y: QTensor) -> QTensor:
        """The sum, negative values cut off."""
        if self._made is None:
            self._check(x, y)
        return self._combine(elementwise.add, x, y, max(self.limits[0], self.output.scalars[1]))

    @_operation
    def mul(self, x: QTensor, y: QTensor) -> QTensor:
        """The product, element by element, with broadcasting."""
        return self._combine(elementwise.mul, x, y)

    @_operation
    def matmul(self, x: QTensor, y: QTensor) -> QTensor:
        """The product of matrices, `(..., M, K)` by `(..., K, N)`."""
        return self._combine(matmul, x, y)

    def _combine(
        self, function: Callable[..., Tensor], x: QTensor, y: QTensor, lower: int | None = None
    ) -> QTensor:
        planned = self._planned
        if (
            planned is not None
            and type(x) is QTensor
            and type(y) is QTensor
            and planned[0] is function
            and planned[1] == lower
            and planned[2] is x.qparams
            and planned[3] is y.qparams
            and planned[4].fits(x.data, y.data)
            and not self.training
            and is_direct(x.data, y.data)
        ):
            return self.give(planned[4](x.data, y.data))
        self._check(x, y)
        low, high = self.limits
        scalars = (*x.qparams.scalars, *y.qparams.scalars, *self.output.scalars)
        params = (*scalars, low if lower is None else lower, high)
        if is_direct(x.data, y.data):
            call = elementwise.plan_pair(function, x.data, y.data, params)
            self._planned = None if call is None else (function, lower, x.qparams, y.qparams, call)
        return self.give(function(x.data, y.data, *params))

    @_operation
    def cat(self, x: Sequence[QTensor], dim: int = 0) -> QTensor:
        """The parts one after the other, each with this module's parameters."""
        self._check(*x)
        scales, zero_points = zip(*(part.qparams.scalars for part in x), strict=True)
        parts = [part.data for part in x]
        return self.give(
            elementwise.concatenate(parts, scales, zero_points, dim, *self.output.scalars, *self.limits)
        )

    @_operation
    def add_scalar(self, x: QTensor, y: float) -> QTensor:
        """The sum with a number: the zero point moves, and what then lies beyond the type is cut off."""
        self.check_quantized(x)
        return elementwise.add_scalar(x, y)

    @_operation
    def mul_scalar(self, x: QTensor, y: float) -> QTensor:
        """The product with a number: the scale changes, the integers do not, but for a negative number."""
        self.check_quantized(x)
        return elementwise.mul_scalar(x, y)

    def _check(self, *inputs: Any) -> None:
        for number, x in enumerate(inputs):
            if type(x) is not QTensor or self.training or x.qparams.axis is not None:
                self.check_quantized(x, f"operand {number + 1}")
        if self._buffers["scale"] is None:
            raise InputError(
                f"{self.where()} saw no data before convert, so that its output has no scale: run the "
                "prepared model on data that passes here"
            )

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return self.output_config() | {"seen": self.seen}

    def state_spec(self) -> StateSpec:
        """`scale` and `zero_point`, unless only `add_scalar` and `mul_scalar` were used."""
        return self.output_spec() if self.seen else {}

    def plain_state(self) -> dict[str, Tensor]:
        """`scale` and `zero_point`."""
        return self.output_state() if self.seen else {}

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Take `scale` and `zero_point`."""
        if self.seen:
            self.load_output_state(state)

    def buffers_taken(self) -> None:
        """Read the output's parameters anew, and forget what followed from the old ones."""
        super().buffers_taken()
        self._planned = None

    def float_bytes(self) -> int:
        """0: it has no weights."""
        return 0

    def extra_repr(self) -> str:
        """What `print` shows."""
        return self.describe_output()


def _lower(module: nn.Module, qconfig: QConfig, path: str, output: QParams | None) -> nn.Module:
    assert isinstance(module, FloatFunctional)
    module.check_places(path)
    quantized = QFunctional(path, seen=output is not None)
    if output is not None:
        quantized.set_output(output)
    return quantized


FLOAT_FUNCTIONAL = register_rule(
    OpRule(
        name="FloatFunctional",
        float_types=(FloatFunctional,),
        static=StaticForm(_lower, may_be_unseen=True),
    )
)
