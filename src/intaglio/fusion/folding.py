"""Batch norms folded into the layer before them: exact arithmetic in float64, rounded once.

May import nn and errors.
"""

from __future__ import annotations

from torch import nn

from intaglio.errors import ConversionError
from intaglio.nn.folding import fold_layer
from intaglio.nn.fused import LAYERS, batch_norm_fits, layer_kind

__all__ = ["check_foldable", "fold_batch_norm"]


def check_foldable(layer: nn.Module, batch_norm: nn.Module, *, is_qat: bool = False) -> None:
    """Raise `ConversionError` if `batch_norm` cannot be folded into `layer`, saying why and what to do.

    For training (`is_qat`) it is folded later, so that train mode is no hindrance now.
    """
    name, norm = type(layer).__name__, type(batch_norm).__name__
    if not batch_norm_fits(type(layer), type(batch_norm)):
        wanted = LAYERS.get(layer_kind(layer) or type(layer))
        hint = f": it takes a {wanted.__name__}" if wanted else ""
        raise ConversionError(f"a {norm} cannot be folded into a {name}{hint}")
    if not is_qat and (batch_norm.training or layer.training):
        raise ConversionError(
            f"the {norm} is in train mode, in which it normalizes by each batch: call model.eval() first, or "
            "use fuse_modules_qat to go on training"
        )
    if batch_norm.running_mean is None or batch_norm.running_var is None:
        raise ConversionError(
            f"the {norm} keeps no running statistics (track_running_stats=False), so that it normalizes by "
            "each batch and cannot be folded: leave it out of the group"
        )
    channels = getattr(layer, "out_channels", getattr(layer, "out_features", None))
    if batch_norm.num_features != channels:
        raise ConversionError(
            f"the {norm} has {batch_norm.num_features} features, but the {name} before it has {channels} "
            "outputs"
        )


def fold_batch_norm(layer: nn.Module, batch_norm: nn.Module) -> nn.Module:
    """A layer that computes `batch_norm(layer(x))`, both in eval mode; both are left as they are.

    `w' = w * f` and `b' = (b - mean) * f + beta` with `f = gamma / sqrt(var + eps)`, in float64. Where gamma
    is 0 so is `f`, whatever the variance is (pytorch/pytorch#85744). Hooks and reparametrizations of the
    layer do not go along. Raises `ConversionError` as `check_foldable`, or if the result is not finite.

    >>> folded = fold_batch_norm(nn.Conv2d(3, 4, 1, bias=False).eval(), nn.BatchNorm2d(4).eval())
    >>> folded.bias.shape
    torch.Size([4])
    """
    check_foldable(layer, batch_norm)
    return fold_layer(layer, batch_norm)
