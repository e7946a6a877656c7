"""Activations between `QTensor`s: any function of one variable is a table of 256 bytes.

The table holds, for each integer of the input, the integer of the output; it is made from the float function
when an input with new parameters comes, and kept. ReLU, ReLU6 and Hardtanh need no table: they work on a
`QTensor` as they are, and keep its parameters. May import ops, rules, static, qtensor and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional

from intaglio.errors import FileFormatError
from intaglio.nn.qtensor_functions import FROM_MINUS_ONE_TO_ONE, FROM_ZERO_TO_ONE
from intaglio.nn.quantized import StateSpec, register_quantized
from intaglio.nn.static import StaticModule
from intaglio.ops.tables import lookup, make_table
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams
from intaglio.qtensor import QTensor
from intaglio.rules import Example, OpRule, StaticForm, register_rule

__all__ = ["QuantizedActivation", "QuantizedPReLU", "function_named", "make_table"]


def _rrelu(x: Tensor, lower: float, upper: float) -> Tensor:
    return functional.leaky_relu(x, (lower + upper) / 2)


FUNCTIONS: dict[type[nn.Module], tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    nn.CELU: (functional.celu, ("alpha",)),
    nn.ELU: (functional.elu, ("alpha",)),
    nn.GELU: (functional.gelu, ("approximate",)),
    nn.Hardshrink: (functional.hardshrink, ("lambd",)),
    nn.Hardsigmoid: (functional.hardsigmoid, ()),
    nn.Hardswish: (functional.hardswish, ()),
    nn.LeakyReLU: (functional.leaky_relu, ("negative_slope",)),
    nn.LogSigmoid: (functional.logsigmoid, ()),
    nn.Mish: (functional.mish, ()),
    nn.RReLU: (_rrelu, ("lower", "upper")),
    nn.SELU: (functional.selu, ()),
    nn.SiLU: (functional.silu, ()),
    nn.Sigmoid: (functional.sigmoid, ()),
    nn.Softplus: (functional.softplus, ("beta", "threshold")),
    nn.Softshrink: (functional.softshrink, ("lambd",)),
    nn.Softsign: (functional.softsign, ()),
    nn.Tanh: (functional.tanh, ()),
    nn.Tanhshrink: (functional.tanhshrink, ()),
    nn.Threshold: (functional.threshold, ("threshold", "value")),
}
"""What each float module computes, and the attributes that go into it."""

_BY_NAME = {kind.__name__: found for kind, found in FUNCTIONS.items()}


def function_named(name: str) -> Callable[..., Tensor]:
    """What the activation of that name computes."""
    return _BY_NAME[name][0]


class TableModule(StaticModule):
    """A function of one variable between `QTensor`s."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._table: tuple[QParams, Tensor] | None = None

    def function(self, x: Tensor) -> Tensor:
        """The float function."""
        raise NotImplementedError

    def forward(self, x: QTensor) -> QTensor:
        """Look every value up."""
        if type(x) is not QTensor or self.training:
            if isinstance(x, Proxy):
                proxy: QTensor = self.as_fx_node(x)
                return proxy
            self.check_quantized(x)
        table = self._table
        if table is None or table[0] is not x.qparams:
            self.check_quantized(x)
            self._table = table = (x.qparams, make_table(self.function, x.qparams, self.output))
        return self.give(lookup(x.data, table[1]))

    def buffers_taken(self) -> None:
        """Forget the table for other parameters."""
        super().buffers_taken()
        self._table = None


@register_quantized
class QuantizedActivation(TableModule):
    """An activation without weights, by name and arguments: those of the float module."""

    kind = "activation"

    def __init__(self, name: str, arguments: dict[str, Any], **more: Any) -> None:
        super().__init__(**more)
        if name not in _BY_NAME or set(arguments) != set(_BY_NAME[name][1]):
            raise FileFormatError(f"no activation {name!r} with arguments {sorted(arguments)}")
        self.name, self.arguments = name, arguments

    @classmethod
    def from_float(
        cls, module: nn.Module, qconfig: QConfig, path: str, output: QParams | None
    ) -> QuantizedActivation:
        """The quantized form of one of `FUNCTIONS`."""
        assert output is not None
        name = next(kind.__name__ for kind in FUNCTIONS if isinstance(module, kind))
        arguments = {argument: getattr(module, argument) for argument in _BY_NAME[name][1]}
        quantized = cls(name, arguments, path=path)
        quantized.set_output(output)
        return quantized

    def function(self, x: Tensor) -> Tensor:
        """The float function."""
        return _BY_NAME[self.name][0](x, **self.arguments)

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"name": self.name, "arguments": dict(self.arguments)} | self.output_config()

    def float_bytes(self) -> int:
        """0: it has no weights."""
        return 0

    def extra_repr(self) -> str:
        """What `print` shows."""
        arguments = [f"{name}={value}" for name, value in self.arguments.items()]
        return ", ".join([self.name, *arguments, self.describe_output()])


@register_quantized
class QuantizedPReLU(StaticModule):
    """PReLU between `QTensor`s, with one float slope or one a channel: `(num_parameters,) float32`."""

    kind = "prelu"
    weight: Tensor

    def __init__(self, num_parameters: int, **more: Any) -> None:
        super().__init__(**more)
        self.num_parameters = num_parameters
        self.register_buffer("weight", None, persistent=False)
        self._tables: tuple[QParams, Tensor] | None = None

    @classmethod
    def from_float(
        cls, module: nn.Module, qconfig: QConfig, path: str, output: QParams | None
    ) -> QuantizedPReLU:
        """The quantized form of an `nn.PReLU`."""
        assert isinstance(module, nn.PReLU)
        assert output is not None
        quantized = cls(module.num_parameters, path=path)
        quantized.set_output(output)
        quantized.weight = module.weight.detach().to(torch.float32).clone()
        return quantized

    def forward(self, x: QTensor) -> QTensor:
        """Look every value up, in its channel's table."""
        if isinstance(x, Proxy):
            proxy: QTensor = self.as_fx_node(x)
            return proxy
        self.check_quantized(x)
        tables = self._tables
        if tables is None or tables[0] is not x.qparams:
            rows = [self._table(slope, x.qparams) for slope in self.weight]
            self._tables = tables = (x.qparams, torch.stack(rows))
        if self.num_parameters == 1:
            return self.give(lookup(x.data, tables[1][0]))
        parts = [lookup(x.data[:, c : c + 1], table) for c, table in enumerate(tables[1])]
        return self.give(torch.cat(parts, 1).contiguous(memory_format=_format_of(x.data)))

    def _table(self, slope: Tensor, x: QParams) -> Tensor:
        return make_table(lambda v: functional.prelu(v, slope.reshape(1)), x, self.output)

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Take the slopes, `scale` and `zero_point`."""
        self.weight = state["weight"]
        self.load_output_state(state)

    def buffers_taken(self) -> None:
        """Forget the tables for other slopes and parameters."""
        super().buffers_taken()
        self._tables = None

    def state_spec(self) -> StateSpec:
        """`weight`, `scale` and `zero_point`."""
        return {"weight": ((self.num_parameters,), torch.float32)} | self.output_spec()

    def plain_state(self) -> dict[str, Tensor]:
        """`weight`, `scale` and `zero_point`."""
        return {"weight": self.weight} | self.output_state()

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"num_parameters": self.num_parameters} | self.output_config()

    def float_bytes(self) -> int:
        """Bytes of the slopes."""
        return 4 * self.num_parameters

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"num_parameters={self.num_parameters}, {self.describe_output()}"


def _format_of(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format


FIXED: dict[type[nn.Module], QParams] = {
    nn.Sigmoid: FROM_ZERO_TO_ONE,
    nn.Hardsigmoid: FROM_ZERO_TO_ONE,
    nn.Tanh: FROM_MINUS_ONE_TO_ONE,
    nn.Softsign: FROM_MINUS_ONE_TO_ONE,
}
"""Functions whose output has one range whatever comes, and its parameters."""


def _example_of(kind: Callable[[], nn.Module]) -> Callable[[], Example]:
    return lambda: (kind(), (3 * torch.randn(2, 5, 6, 7),))


for _kind in FUNCTIONS:
    register_rule(
        OpRule(
            name=_kind.__name__,
            float_types=(_kind,),
            static=StaticForm(
                QuantizedActivation.from_float,
                output=FIXED.get(_kind, "observed"),
                examples=(_example_of(partial(_kind, 0.5, -1.0) if _kind is nn.Threshold else _kind),),
            ),
        )
    )

PRELU = register_rule(
    OpRule(
        name="PReLU",
        float_types=(nn.PReLU,),
        static=StaticForm(
            QuantizedPReLU.from_float,
            examples=(_example_of(nn.PReLU), lambda: (nn.PReLU(5), (torch.randn(2, 5, 6, 7),))),
        ),
    )
)
