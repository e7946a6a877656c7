"""The quantized modules, one file an op family: quantized form and rule together.

Importing this package registers every rule. May import ops, rules, qconfig, observer and what they may.
"""

from intaglio.nn.attention import DynamicMultiheadAttention
from intaglio.nn.conv import DynamicConv
from intaglio.nn.conv_transpose import DynamicConvTranspose
from intaglio.nn.embedding import QuantizedEmbedding, QuantizedEmbeddingBag
from intaglio.nn.linear import DynamicLinear
from intaglio.nn.linear_half import HalfLinear
from intaglio.nn.quantized import QuantizedModule
from intaglio.nn.rnn import DynamicGRU, DynamicLSTM, DynamicRNN
from intaglio.nn.rnn_cells import DynamicGRUCell, DynamicLSTMCell, DynamicRNNCell

__all__ = [
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
    "HalfLinear",
    "QuantizedEmbedding",
    "QuantizedEmbeddingBag",
    "QuantizedModule",
]
