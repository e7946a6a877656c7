"""The quantized modules, one file an op family: quantized form and rule together.

Importing this package registers every rule. May import ops, rules, qconfig, observer and what they may.
"""

from intaglio.nn import qtensor_functions, qtensor_pooling  # noqa: F401  # which they register
from intaglio.nn.activation import QuantizedActivation, QuantizedPReLU
from intaglio.nn.attention import DynamicMultiheadAttention
from intaglio.nn.batch_norm import QuantizedBatchNorm
from intaglio.nn.conv import DynamicConv
from intaglio.nn.conv_static import QuantizedConv, QuantizedConvTranspose
from intaglio.nn.conv_transpose import DynamicConvTranspose
from intaglio.nn.embedding import QuantizedEmbedding, QuantizedEmbeddingBag
from intaglio.nn.float_functional import FloatFunctional, QFunctional
from intaglio.nn.fused import FusedModule
from intaglio.nn.fused_static import FUSED as _FUSED  # noqa: F401  # registers its rule
from intaglio.nn.linear import DynamicLinear
from intaglio.nn.linear_grouped import GroupedLinear
from intaglio.nn.linear_half import HalfLinear
from intaglio.nn.linear_static import QuantizedLinear
from intaglio.nn.normalization import QuantizedGroupNorm, QuantizedLayerNorm
from intaglio.nn.normed import NormedLayer
from intaglio.nn.normed_static import NORMED as _NORMED  # noqa: F401  # registers its rule
from intaglio.nn.quantized import QuantizedModule
from intaglio.nn.requantized import RequantizedLayer
from intaglio.nn.residual import ResidualLayer
from intaglio.nn.rnn import DynamicGRU, DynamicLSTM, DynamicRNN
from intaglio.nn.rnn_cells import DynamicGRUCell, DynamicLSTMCell, DynamicRNNCell
from intaglio.nn.stubs import DeQuantize, DeQuantStub, Quantize, QuantStub, QuantWrapper

__all__ = [
    "DeQuantStub",
    "DeQuantize",
    "DynamicConv",
    "DynamicConvTranspose",
    "DynamicGRU",
    "DynamicGRUCell",
    "DynamicLSTM",
    "DynamicLSTMCell",
    "DynamicLinear",
    "DynamicMultiheadAttention",
    "DynamicRNN",
    "DynamicRNNCell",
    "FloatFunctional",
    "FusedModule",
    "GroupedLinear",
    "HalfLinear",
    "NormedLayer",
    "QFunctional",
    "QuantStub",
    "QuantWrapper",
    "Quantize",
    "QuantizedActivation",
    "QuantizedBatchNorm",
    "QuantizedConv",
    "QuantizedConvTranspose",
    "QuantizedEmbedding",
    "QuantizedEmbeddingBag",
    "QuantizedGroupNorm",
    "QuantizedLayerNorm",
    "QuantizedLinear",
    "QuantizedModule",
    "QuantizedPReLU",
    "RequantizedLayer",
    "ResidualLayer",
]
