"""Layers that keep float state between `QTensor`s: recurrent layers and attention.

Their products are int8 with ranges of their own, row by row, and what lies between them (gates, cell states,
scores) is float: that is more accurate than one fixed range for each, and as fast. Only the layer's border is
static. May import static, quantized, qtensor and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from intaglio.errors import ConfigError, InputError
from intaglio.nn.quantized import QuantizedModule, StateSpec, quantized_class, register_quantized
from intaglio.nn.static import StaticModule
from intaglio.ops.layout import dequantize_image, quantize_image
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams
from intaglio.qtensor import QTensor
from intaglio.rules import Example, StaticForm

__all__ = ["RequantizedLayer", "requantized_form"]


@register_quantized
class RequantizedLayer(StaticModule):
    """A dynamic layer that takes `QTensor`s, or float states beside them, and gives its first output as one.

    What else it gives (states, attention weights) stays float, and may come back as it is. At least one input
    must be a `QTensor`.
    """

    kind = "requantized"

    def __init__(self, layer: QuantizedModule, **more: Any) -> None:
        super().__init__(**more)
        self.layer = layer

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Call the layer; see the class."""
        if any(isinstance(x, Proxy) for x in tree_leaves((inputs, named))):
            return self.as_fx_node(*inputs, **named)
        found = tree_leaves((inputs, named), is_leaf=_is_leaf)
        if not any(isinstance(x, QTensor) for x in found):
            self.check_quantized(inputs[0] if inputs else None)
        plain_inputs, plain_named = tree_map(_dequantized, (inputs, named), is_leaf=_is_leaf)
        result = self.layer(*plain_inputs, **plain_named)
        if isinstance(result, tuple):
            return (self._quantized(result[0]), *result[1:])
        return self._quantized(result)

    def _quantized(self, y: Any) -> QTensor:
        if not isinstance(y, Tensor):
            raise InputError(
                f"{self.where()} gives a {type(y).__name__}, which has no quantized form: keep the layer in "
                "float (its qconfig = None) between a DeQuantStub and a QuantStub"
            )
        scale, zero_point = self.output.scalars
        return self.give(quantize_image(y.float(), scale, zero_point, *self.limits, plain=True))

    def config(self) -> dict[str, Any]:
        """The layer's kind and config, and the output's limits."""
        return {"kind": self.inner.kind, "config": self.inner.config()} | self.output_config()

    @property
    def inner(self) -> QuantizedModule:
        """The layer."""
        return self.layer

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RequantizedLayer:
        """An empty module; `ConfigError` for a layer of an unknown kind, or another of this one."""
        made = quantized_class(config["kind"])
        if made is None or issubclass(made, StaticModule):
            raise ConfigError(f"no dynamic layer of kind {config['kind']!r}")
        return cls(made.from_config(config["config"]), limits=config["limits"])

    def state_spec(self) -> StateSpec:
        """The layer's under `layer.`, and the output's `scale` and `zero_point`."""
        return _prefixed(self.inner.state_spec()) | self.output_spec()

    def plain_state(self) -> dict[str, Tensor]:
        """Unpack."""
        return _prefixed(self.inner.plain_state()) | self.output_state()

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Pack the layer."""
        prefix = "layer."
        self.inner.load_plain_state({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        self.load_output_state(state)

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Take `scale` and `zero_point`."""
        self.load_output_state(state)

    def float_bytes(self) -> int:
        """Bytes of the float layer."""
        return self.inner.float_bytes()

    def extra_repr(self) -> str:
        """What `print` shows."""
        return self.describe_output()


def _is_leaf(x: Any) -> bool:
    return isinstance(x, (QTensor, PackedSequence))


def _dequantized(x: Any) -> Any:
    return dequantize_image(x.data, *x.qparams.scalars) if isinstance(x, QTensor) else x


def _prefixed(state: dict[str, Any]) -> dict[str, Any]:
    return {f"layer.{name}": value for name, value in state.items()}


def requantized_form(
    lower_dynamic: Callable[[nn.Module, QConfig, str], nn.Module],
    refuse: Callable[[nn.Module, QConfig], str | None],
    examples: tuple[Callable[[], Example], ...],
) -> StaticForm:
    """The static form of a rule whose dynamic one `lower_dynamic` makes."""

    def lower(module: nn.Module, qconfig: QConfig, path: str, output: QParams | None) -> nn.Module:
        assert output is not None
        layer = lower_dynamic(module, qconfig, path)
        assert isinstance(layer, QuantizedModule)
        quantized = RequantizedLayer(layer)
        quantized.set_path(path)
        quantized.set_output(output)
        return quantized

    return StaticForm(lower, refuse=refuse, examples=examples)
