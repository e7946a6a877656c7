"""`StaticModule`: what a module is that takes and gives `QTensor`s, its output's parameters being fixed.

The parameters of an input come with it: what follows from them is derived once and kept for as long as the
same parameters come. May import quantized, ops.library, qtensor, qparams and errors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.errors import InputError
from intaglio.nn.quantized import QuantizedModule, StateSpec
from intaglio.ops.library import is_eager
from intaglio.qparams import UINT8, QParams, quantize
from intaglio.qtensor import QTensor

__all__ = ["StaticModule", "clamped_limits"]


def clamped_limits(output: QParams, low: float | None, high: float | None) -> tuple[int, int]:
    """The integers between which an output lies that is clamped to `low..high`, as far as it can say so."""
    lower, upper = output.limits()
    if low is not None:
        lower = int(quantize(torch.tensor(float(low)), output))
    if high is not None:
        upper = max(lower, int(quantize(torch.tensor(float(high)), output)))
    return lower, upper


class StaticModule(QuantizedModule):
    """Base of the modules that take and give `QTensor`s.

    `limits` are the smallest and the largest integer of the output's type: 0 and 255, or 1 and 255 where it
    is symmetric.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, *args: Any, limits: tuple[int, int] = (0, 255), **more: Any) -> None:
        super().__init__(*args, **more)
        self.limits = (limits[0], limits[1])
        self.register_buffer("scale", None, persistent=False)
        self.register_buffer("zero_point", None, persistent=False)
        # What goes with every result, for the scale and the path that it was made for.
        self._made: tuple[Tensor, str, QParams, str] | None = None

    @property
    def output(self) -> QParams:
        """The parameters of what this module gives."""
        return self._label()[2]

    def _label(self) -> tuple[Tensor, str, QParams, str]:
        scale, made = self._buffers["scale"], self._made
        if made is None or made[0] is not scale or made[1] is not self.path:
            assert scale is not None
            # A tracer puts its own tensors in the place of ours; the numbers are those that we know.
            is_known = made is not None and (made[0] is scale or not is_eager())
            qparams = made[2] if made is not None and is_known else self._read_output(scale)
            made = (scale, self.path, qparams, self.where())
            if is_eager():
                self._made = made
        return made

    def _read_output(self, scale: Tensor) -> QParams:
        qparams = QParams(scale, self.zero_point, UINT8, None, *self.limits)
        if not scale.is_meta:
            _ = qparams.scalars  # worked out now: later a tracer may be looking
        return qparams

    def buffers_taken(self) -> None:
        """Read the output's parameters anew."""
        self._made = None
        if self._buffers["scale"] is not None:
            self._label()

    def set_output(self, output: QParams) -> None:
        """Give results with these parameters from now on."""
        self.limits = output.limits()
        self.load_output_state(
            {
                "scale": output.scale.detach().to(torch.float32).reshape(()),
                "zero_point": output.zero_point.detach().to(torch.int32).reshape(()),
            }
        )

    def give(self, data: Tensor) -> QTensor:
        """A result with the output's parameters."""
        made = self._made
        if made is None or made[0] is not self._buffers["scale"] or made[1] is not self.path:
            made = self._label()
        return QTensor(data, made[2], made[3])

    def check_quantized(self, x: Any, name: str = "input") -> None:
        """Raise `InputError`, naming the layer and the remedy, unless `x` is a uint8 `QTensor` per tensor."""
        if self.training:
            raise InputError(
                f"{self.where()} is quantized for inference but in training mode: call model.eval()"
            )
        if not isinstance(x, QTensor):
            found = f"a float tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                f"{self.where()} takes a QTensor, but its {name} is {found}: let it pass a QuantStub first, "
                "or keep the layer in float (its qconfig = None) and prepare again"
            )
        if x.qparams.axis is not None or x.data.dtype is not torch.uint8:
            raise InputError(
                f"{self.where()} takes a QTensor of uint8 with one scale, but its {name} has "
                f"{x.data.dtype} with scales along axis {x.qparams.axis}"
            )
        if x.data.device.type not in ("cpu", "meta"):
            raise InputError(
                f"{self.where()}: {name} is on {x.data.device}, but int8 kernels run on the CPU: pass x.cpu()"
            )

    # ---- The state of a module that is nothing but its output --------------------------------------------

    def state_spec(self) -> StateSpec:
        """`scale` and `zero_point`."""
        return self.output_spec()

    def plain_state(self) -> dict[str, Tensor]:
        """`scale` and `zero_point`."""
        return self.output_state()

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Take `scale` and `zero_point`."""
        self.load_output_state(state)

    # ---- Its parts, for modules with more ----------------------------------------------------------------

    def output_config(self) -> dict[str, Any]:
        """The part of `config` that belongs to the output."""
        return {"limits": list(self.limits)}

    def output_spec(self) -> StateSpec:
        """The part of `state_spec` that belongs to the output."""
        return {"scale": ((), torch.float32), "zero_point": ((), torch.int32)}

    def output_state(self) -> dict[str, Tensor]:
        """The part of `plain_state` that belongs to the output."""
        return {"scale": self.scale, "zero_point": self.zero_point}

    def load_output_state(self, state: dict[str, Tensor]) -> None:
        """Take that part of a plain state."""
        self.scale, self.zero_point = state["scale"], state["zero_point"]
        self.buffers_taken()

    def describe_output(self) -> str:
        """What `print` shows of the output's parameters."""
        if self._buffers["scale"] is None:
            return "empty"
        scale, zero_point = self.output.scalars
        return f"scale={scale:.6g}, zero_point={zero_point}"
