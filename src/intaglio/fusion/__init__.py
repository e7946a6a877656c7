"""Fusion: layers that belong together become one, with batch norms folded into the layers before them.

    folding    batch norms into weights, in float64
    methods    what can be fused, by the types of its parts
    dataflow   which module's output goes where: traced, or watched in a run
    grouping   the groups of a model, found by its dataflow
    replacing  `fuse_modules`, `fuse_modules_qat`

May import eager (for weights that hooks derive), nn and below.
"""

from intaglio.fusion.folding import fold_batch_norm
from intaglio.fusion.grouping import FusionWarning, find_fusable_groups
from intaglio.fusion.methods import (
    fuse_conv_bn,
    fuse_conv_bn_relu,
    fuse_convtranspose_bn,
    fuse_known_modules,
    fuse_linear_bn,
    get_fuser_method,
)
from intaglio.fusion.replacing import fuse_modules, fuse_modules_qat, fused_groups

__all__ = [
    "FusionWarning",
    "find_fusable_groups",
    "fold_batch_norm",
    "fuse_conv_bn",
    "fuse_conv_bn_relu",
    "fuse_convtranspose_bn",
    "fuse_known_modules",
    "fuse_linear_bn",
    "fuse_modules",
    "fuse_modules_qat",
    "fused_groups",
    "get_fuser_method",
]
