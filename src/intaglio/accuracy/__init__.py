"""What makes a quantized model more accurate without labels: each tool takes a float model and gives one.

    running          calibration data, and running a model on it
    equalizing       equalize: channels of one layer's output brought to ranges that suit each other
    reconstruction   the statistics of a layer's inputs, and rounding that keeps its output
    rounding         round_weights: weights on the integer grid, rounded together
    simulating       a model with its values rounded as quantization will round them
    bias_correction  correct_bias: what rounding shifts in the mean of each channel, shifted back

The order is `fuse_modules`, `equalize`, `round_weights`, `correct_bias`, then `prepare` and `convert`. May
import fusion, nn and below.
"""

from intaglio.accuracy.bias_correction import correct_bias
from intaglio.accuracy.equalizing import equalize
from intaglio.accuracy.rounding import round_weights

__all__ = ["correct_bias", "equalize", "round_weights"]
