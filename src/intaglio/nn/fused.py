"""Float layers that belong together: `FusedModule`, and which layers and activations can be fused.

A fused module computes what its parts compute and trains as they do; quantization takes it for one op, with
no integers between the parts. May import nothing from the package.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS",
    "BATCH_NORMS",
    "LAYERS",
    "FusedModule",
    "activation_kind",
    "batch_norm_fits",
    "kind_of",
    "layer_kind",
]

Kind = type[nn.Module]

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
        """`activation(layer(x))`; an observer that is attached is no part of it."""
        y: Tensor = self.activation(self.layer(x))
        return y

    @property
    def layer(self) -> nn.Module:
        """The layer that multiplies, or the batch norm."""
        return self[0]

    @property
    def activation(self) -> nn.Module:
        """What follows it."""
        return self[1]


def kind_of(module: nn.Module, kinds: tuple[Kind, ...]) -> Kind | None:
    """Which of `kinds` computes what `module` computes: its class, or a base whose `forward` it keeps."""
    if "forward" in vars(module):
        return None
    return next((kind for kind in kinds if _keeps_forward(type(module), kind)), None)


def layer_kind(module: nn.Module) -> Kind | None:
    """Which of `LAYERS` the module is."""
    return kind_of(module, tuple(LAYERS))


def activation_kind(module: nn.Module) -> Kind | None:
    """Which of `ACTIVATIONS` the module is."""
    return kind_of(module, ACTIVATIONS)


def batch_norm_fits(layer: Kind, batch_norm: Kind) -> bool:
    """Whether `batch_norm` can be folded into `layer`, of these classes."""
    wanted = next((norm for kind, norm in LAYERS.items() if _keeps_forward(layer, kind)), None)
    return wanted is not None and any(_keeps_forward(batch_norm, kind) for kind in (wanted, nn.SyncBatchNorm))


def _keeps_forward(kind: Kind, base: Kind) -> bool:
    return issubclass(kind, base) and kind.forward is base.forward
