"""Python faces of the kernels: shapes and dtypes are checked here, arithmetic happens below.

One file a family, each with its direct call and its `torch.library` op; `reference` is the bit-exact
oracle that tests compare every kernel with. May import qtensor, qparams and errors.
"""

from intaglio.ops import (
    conv,
    conv_static,
    elementwise,
    embedding,
    fake_quantize,
    half,
    layout,
    linear,
    matmul_static,
    normalize,
    packing,
    pooling,
    recurrent,
    reference,
    reference_conv,
    reference_elementwise,
    reference_embedding,
    reference_fake_quantize,
    reference_normalize,
    reference_pooling,
    reference_rnn,
    resize,
    tables,
)

__all__ = [
    "conv",
    "conv_static",
    "elementwise",
    "embedding",
    "fake_quantize",
    "half",
    "layout",
    "linear",
    "matmul_static",
    "normalize",
    "packing",
    "pooling",
    "recurrent",
    "reference",
    "reference_conv",
    "reference_elementwise",
    "reference_embedding",
    "reference_fake_quantize",
    "reference_normalize",
    "reference_pooling",
    "reference_rnn",
    "resize",
    "tables",
]
