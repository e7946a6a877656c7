"""Observers: what chooses a tensor's `QParams`. The import path and the names are the legacy's.

    observing      ObserverBase, UniformQuantizationObserverBase, factories
    min_max        smallest and largest values, moving averages, per channel
    histogram      histograms, and ranges found in them: L2, percentile, entropy, MSE
    searching      the searches themselves, plain functions
    weight_ranges  per-channel ranges of weights by least squared error
    passive        fixed parameters, placeholders, recorders
    presets        the `default_*` factories
    state          what observers have seen, saved and loaded

Observers pass over NaN and infinity in calibration data, and warn of them and of degenerate ranges once, by
the layer's name (`observer.name`). May import qparams and errors.
"""

from intaglio.observer.histogram import (
    EntropyObserver,
    HistogramObserver,
    MSEObserver,
    PercentileObserver,
)
from intaglio.observer.input_mean import InputMean
from intaglio.observer.min_max import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from intaglio.observer.observing import (
    AffineQuantizedObserverBase,
    ObserverBase,
    ObserverFactory,
    ObserverWarning,
    UniformQuantizationObserverBase,
)
from intaglio.observer.passive import (
    FixedQParamsObserver,
    NoopObserver,
    PlaceholderObserver,
    RecordingObserver,
    ReuseInputObserver,
)
from intaglio.observer.presets import (
    default_affine_fixed_qparams_observer,
    default_debug_observer,
    default_dynamic_quant_observer,
    default_fixed_qparams_range_0to1_observer,
    default_fixed_qparams_range_neg1to1_observer,
    default_float_qparams_observer,
    default_float_qparams_observer_4bit,
    default_histogram_observer,
    default_observer,
    default_per_channel_weight_observer,
    default_placeholder_observer,
    default_reuse_input_observer,
    default_symmetric_fixed_qparams_observer,
    default_weight_observer,
    per_channel_weight_observer_range_neg_127_to_127,
    weight_observer_range_neg_127_to_127,
)
from intaglio.observer.state import get_observer_state_dict, load_observer_state_dict
from intaglio.observer.weight_ranges import PerChannelMSEObserver

__all__ = [
    "AffineQuantizedObserverBase",
    "EntropyObserver",
    "FixedQParamsObserver",
    "HistogramObserver",
    "InputMean",
    "MSEObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "NoopObserver",
    "ObserverBase",
    "ObserverFactory",
    "ObserverWarning",
    "PerChannelMSEObserver",
    "PerChannelMinMaxObserver",
    "PercentileObserver",
    "PlaceholderObserver",
    "RecordingObserver",
    "ReuseInputObserver",
    "UniformQuantizationObserverBase",
    "default_affine_fixed_qparams_observer",
    "default_debug_observer",
    "default_dynamic_quant_observer",
    "default_fixed_qparams_range_0to1_observer",
    "default_fixed_qparams_range_neg1to1_observer",
    "default_float_qparams_observer",
    "default_float_qparams_observer_4bit",
    "default_histogram_observer",
    "default_observer",
    "default_per_channel_weight_observer",
    "default_placeholder_observer",
    "default_reuse_input_observer",
    "default_symmetric_fixed_qparams_observer",
    "default_weight_observer",
    "get_observer_state_dict",
    "load_observer_state_dict",
    "per_channel_weight_observer_range_neg_127_to_127",
    "weight_observer_range_neg_127_to_127",
]
