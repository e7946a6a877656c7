"""Where a model's values become integers and real numbers again: stubs, and what they are converted to.

`QuantStub` and `DeQuantStub` mark the places by hand; in the float model they do nothing. May import ops,
rules, static, qtensor and errors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from intaglio.errors import ConversionError, InputError
from intaglio.nn.quantized import QuantizedModule, StateSpec, register_quantized
from intaglio.nn.static import StaticModule
from intaglio.ops.layout import dequantize_image, quantize_image
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams
from intaglio.qtensor import QTensor
from intaglio.rules import Example, OpRule, StaticForm, register_rule

__all__ = ["DeQuantStub", "DeQuantize", "QuantStub", "QuantWrapper", "Quantize"]

_IMAGE_DIMS = (4, 5)
"""Tensors of so many dimensions are images, whose channels the kernels want innermost."""


class QuantStub(nn.Module):
    """Marks where float values become a `QTensor`: observed by `prepare`, a `Quantize` after `convert`.

    Before that it gives back its input.
    """

    def __init__(self, qconfig: QConfig | None = None) -> None:
        super().__init__()
        if qconfig is not None:
            self.qconfig = qconfig

    def forward(self, x: Tensor) -> Tensor:
        """Give back `x`."""
        return x


class DeQuantStub(nn.Module):
    """Marks where a `QTensor` becomes float values again: a `DeQuantize` after `convert`."""

    def __init__(self, qconfig: QConfig | None = None) -> None:
        super().__init__()
        if qconfig is not None:
            self.qconfig = qconfig

    def forward(self, x: Tensor) -> Tensor:
        """Give back `x`."""
        return x


class QuantWrapper(nn.Module):
    """A module between a `QuantStub` and a `DeQuantStub`, for models that cannot be edited."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        qconfig = getattr(module, "qconfig", None)
        self.quant = QuantStub(qconfig)
        self.dequant = DeQuantStub(qconfig)
        self.module = module
        self.train(module.training)

    def forward(self, x: Tensor) -> Any:
        """`dequant(module(quant(x)))`."""
        return self.dequant(self.module(self.quant(x)))


@register_quantized
class Quantize(StaticModule):
    """Float tensor of any shape to `QTensor`, with the parameters that were observed.

    Images, of 4 or 5 dimensions, come out with their channels innermost in memory. NaN becomes the smallest
    integer. Raises `InputError` for what is no float tensor on the CPU.
    """

    kind = "quantize"

    def forward(self, x: Tensor) -> QTensor:
        """Quantize; see the class."""
        if isinstance(x, Proxy):
            proxy: QTensor = self.as_fx_node(x)
            return proxy
        if isinstance(x, QTensor):
            raise InputError(f"{self.where()} takes a float tensor, but its input is quantized already")
        self.check_input(x)
        scale, zero_point = self.output.scalars
        data = quantize_image(x.float(), scale, zero_point, *self.limits, plain=x.dim() not in _IMAGE_DIMS)
        return self.give(data)

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return self.output_config()

    def float_bytes(self) -> int:
        """0: a stub has no weights."""
        return 0

    def extra_repr(self) -> str:
        """What `print` shows."""
        return self.describe_output()


@register_quantized
class DeQuantize(QuantizedModule):
    """`QTensor` to float32 tensor of the same shape, contiguous; float tensors pass, tuples part by part."""

    kind = "dequantize"

    def forward(self, x: Any) -> Any:
        """Dequantize."""
        if isinstance(x, Proxy):
            return self.as_fx_node(x)
        if isinstance(x, Tensor):
            return x
        if type(x) in (tuple, list):  # what chunk and split give
            return type(x)(self.forward(part) for part in x)
        if isinstance(x, tuple) and hasattr(x, "_fields"):  # what max gives along an axis
            return type(x)(*(self.forward(part) for part in x))
        if not isinstance(x, QTensor):
            raise InputError(f"{self.where()} takes a QTensor, but its input is a {type(x).__name__}")
        if x.qparams.axis is not None or x.data.dtype is not torch.uint8:
            return x.dequantize()
        return dequantize_image(x.data, *x.qparams.scalars)

    def config(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DeQuantize:
        """A module."""
        return cls(**config)

    def state_spec(self) -> StateSpec:
        """Nothing."""
        return {}

    def plain_state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Take nothing."""

    def float_bytes(self) -> int:
        """0: a stub has no weights."""
        return 0


def _lower_quant(module: nn.Module, qconfig: QConfig, path: str, output: QParams | None) -> nn.Module:
    if output is None:
        raise ConversionError(f"'{path}': its input was not observed")
    quantized = Quantize(path)
    quantized.set_output(output)
    return quantized


def _example() -> Example:
    return QuantStub(), (torch.randn(2, 3, 5, 7),)


QUANT_STUB = register_rule(
    OpRule(
        name="QuantStub",
        float_types=(QuantStub,),
        static=StaticForm(_lower_quant, examples=(_example,)),
    )
)

DEQUANT_STUB = register_rule(
    OpRule(
        name="DeQuantStub",
        float_types=(DeQuantStub,),
        static=StaticForm(lambda module, qconfig, path, output: DeQuantize(path), output="float"),
    )
)
