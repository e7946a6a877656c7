"""Float layers that belong together: `FusedModule`, and which layers and activations can be fused.

A fused module computes what its parts compute and trains as they do; quantization takes it for one op, with
no integers between the parts. May import fake_quantize and normed.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from intaglio.fake_quantize import FakeQuantizeBase
from intaglio.nn.normed import NormedLayer

__all__ = [
    "ACTIVATIONS",
    "BATCH_NORMS",
    "LAYERS",
    "Clamp",
    "FusedModule",
    "activate",
    "activation_kind",
    "batch_norm_fits",
    "clamp_of",
    "kind_of",
    "layer_kind",
]

Kind = type[nn.Module]

Clamp = tuple[float | None, float | None]
"""The real numbers between which an activation keeps a layer's output; None where it is open."""

LAYERS: dict[Kind, Kind] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.ConvTranspose1d: nn.BatchNorm1d,
    nn.ConvTranspose2d: nn.BatchNorm2d,
    nn.ConvTranspose3d: nn.BatchNorm3d,
    nn.Linear: nn.BatchNorm1d,
}
"""The layers that multiply, and the batch norm that may follow each (or `nn.SyncBatchNorm`)."""

BATCH_NORMS: tuple[Kind, ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

ACTIVATIONS: tuple[Kind, ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.Hardswish,
    nn.SiLU,
    nn.GELU,
    nn.Sigmoid,
    nn.Tanh,
    nn.ELU,
    nn.PReLU,
    nn.Hardsigmoid,
    nn.Softplus,
    nn.Mish,
    nn.Hardtanh,
    nn.CELU,
    nn.SELU,
    nn.LogSigmoid,
    nn.Softsign,
    nn.Tanhshrink,
    nn.Softshrink,
    nn.Hardshrink,
    nn.Threshold,
)
"""Activations of one value each, that is, without a sum over others."""


class FusedModule(nn.Sequential):
    """A layer, `[0]`, and the activation that follows it, `[1]`.

    The layer is a convolution, transposed or not, a Linear or a batch norm; a batch norm between the two is
    folded into the layer.

    >>> fused = FusedModule(nn.Linear(4, 3), nn.ReLU())
    >>> type(fused.layer).__name__, type(fused.activation).__name__
    ('Linear', 'ReLU')
    """

    def forward(self, x: Tensor) -> Tensor:
        """`activation(layer(x))`, rounded if a fake quantizer is attached; an observer only looks on."""
        return activate(self, self.layer(x), self.activation)

    @property
    def layer(self) -> nn.Module:
        """The layer that multiplies, with its batch norm while it trains, or a batch norm alone."""
        return self[0]

    @property
    def activation(self) -> nn.Module:
        """What follows it."""
        return self[1]


def clamp_of(activation: nn.Module) -> Clamp | None:
    """The numbers between which an activation keeps its input, if that is all it does."""
    if isinstance(activation, nn.Hardtanh):  # ReLU6 too
        return float(activation.min_val), float(activation.max_val)
    return (0.0, None) if isinstance(activation, nn.ReLU) else None


def activate(owner: nn.Module, y: Tensor, activation: nn.Module | None) -> Tensor:
    """`activation(y)`, rounded as the fake quantizer of `owner` does, if it has one.

    An activation that only clamps is made by the fake quantizer, in the same pass, unless hooks watch it.
    """
    rounder = owner._modules.get("activation_post_process")
    if isinstance(rounder, FakeQuantizeBase):
        clamp = (None, None) if activation is None else clamp_of(activation)
        if clamp is not None and not (activation is not None and activation._forward_hooks):
            low, high = clamp
            return rounder.rounded(y, (-math.inf if low is None else low, math.inf if high is None else high))
        rounded: Tensor = rounder(y if activation is None else activation(y))
        return rounded
    activated: Tensor = y if activation is None else activation(y)
    return activated


def kind_of(module: nn.Module, kinds: tuple[Kind, ...]) -> Kind | None:
    """Which of `kinds` computes what `module` computes: its class, or a base whose `forward` it keeps."""
    if "forward" in vars(module):
        return None
    return next((kind for kind in kinds if _keeps_forward(type(module), kind)), None)


def layer_kind(module: nn.Module) -> Kind | None:
    """Which of `LAYERS` the module is, with a batch norm of its own or without."""
    return kind_of(module.layer if isinstance(module, NormedLayer) else module, tuple(LAYERS))


def activation_kind(module: nn.Module) -> Kind | None:
    """Which of `ACTIVATIONS` the module is."""
    return kind_of(module, ACTIVATIONS)


def batch_norm_fits(layer: Kind, batch_norm: Kind) -> bool:
    """Whether `batch_norm` can be folded into `layer`, of these classes."""
    wanted = next((norm for kind, norm in LAYERS.items() if _keeps_forward(layer, kind)), None)
    return wanted is not None and any(_keeps_forward(batch_norm, kind) for kind in (wanted, nn.SyncBatchNorm))


def _keeps_forward(kind: Kind, base: Kind) -> bool:
    return issubclass(kind, base) and kind.forward is base.forward
