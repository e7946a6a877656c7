"""Observers that keep a histogram of all values seen, and choose their range from it.

The histogram's buckets are the upper 16 bits of a float32: sign, exponent and seven bits of the mantissa.
They need no range, so nothing is allocated by the data's range, no outlier coarsens the rest, and the
histograms of two batches are merged by adding counts. May import observing, min_max, searching and errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intaglio.errors import ConfigError
from intaglio.observer.min_max import NOT_FINITE
from intaglio.observer.observing import MERGED, UniformQuantizationObserverBase
from intaglio.observer.searching import (
    Distribution,
    least_divergence_range,
    least_squares_range,
    percentile_range,
    refined_range,
)
from intaglio.qparams import UINT8, QuantizedType

__all__ = ["EntropyObserver", "HistogramObserver", "MSEObserver", "PercentileObserver"]

MOST_VALUES = 1 << 16
"""Of larger tensors every k-th run of values is counted, each as k; their extremes are exact all the same."""

RUN = 16
"""Values that are read together, for they come from memory together."""

BUCKETS = 1 << 16


class HistogramObserver(UniformQuantizationObserverBase):
    """The range that represents the values seen with the least squared error, found in their histogram.

    Values beyond the range are cut to it; what that costs is weighed against the finer step of a narrower
    range. Both ends are searched, each over all magnitudes; an outlier changes neither the resolution nor
    the memory. Arguments as in `UniformQuantizationObserverBase`; `bins` is the length of the `histogram`
    that can be read, and `upsample_rate` the legacy's, without effect.

    Merging is exact: `counts` is `(65536,)` int64, one count for each upper half of a float32. Of a tensor of
    more than 2^16 values every k-th run of 16 is counted, as k, in an order that visits every channel and
    pixel alike.

    >>> observer = HistogramObserver()
    >>> _ = observer(torch.cat([torch.linspace(0.0, 1.0, 499_999), torch.tensor([1.5])]))
    >>> bool(observer.range()[1] < 1.1)
    True
    """

    counts: Tensor

    def __init__(
        self,
        bins: int = 2048,
        dtype: torch.dtype | str | QuantizedType = UINT8,
        qscheme: torch.qscheme | str | None = None,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: Mapping[str, Any] | None = None,
        eps: float = 0.0,
        is_dynamic: bool = False,
        upsample_rate: int = 16,
    ) -> None:
        super().__init__(dtype, qscheme, reduce_range, quant_min, quant_max, factory_kwargs, eps, is_dynamic)
        if bins < 1:
            raise ConfigError(f"{type(self).__name__}: bins must be positive, not {bins}")
        self.bins, self.upsample_rate = bins, upsample_rate
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Count the values of `x`; gives back `x`."""
        if x.numel() == 0:
            return x
        values = in_memory_order(x.detach().float())
        low, high = torch.aminmax(values)
        if not math.isfinite(float(high) - float(low)):
            self.warn(NOT_FINITE)
            values = values[torch.isfinite(values)]
            if values.numel() == 0:
                return x
            low, high = torch.aminmax(values)
        self.min_val.copy_(torch.minimum(self.min_val, low))
        self.max_val.copy_(torch.maximum(self.max_val, high))
        if not self.counts.numel():
            # By numpy, whose zeros take no memory before they are counted up: most buckets never are.
            self.counts = torch.from_numpy(np.zeros(BUCKETS, dtype=np.int64))
        stride = thinning(values.numel())
        codes = codes_of(thinned(values, stride))
        # In place: the buckets are many, and a second table of them would cost more than the counting.
        self.counts.index_add_(0, codes, torch.tensor([stride]).expand(len(codes)))
        if stride > 1:
            counts = self.counts.numpy()
            for extreme in (low, high):
                counts[np.float32(float(extreme)).view(np.uint32) >> 16] += 1
        return x

    def distribution(self) -> Distribution:
        """The values seen, one for each bucket, and how often each was; the outermost are the extremes."""
        counts = self.counts.numpy()
        occupied = counts.nonzero()[0]
        # In ascending order of value: the most negative has the largest code.
        split = int(np.searchsorted(occupied, BUCKETS // 2))
        occupied = np.concatenate([occupied[split:][::-1], occupied[:split]])
        values = bucket_centers()[occupied]
        values[0], values[-1] = float(self.min_val), float(self.max_val)
        return Distribution(values, counts[occupied].astype(np.float64))

    def choose_range(self, seen: Distribution) -> tuple[float, float]:
        """The range to represent, of what was seen; other observers choose otherwise."""
        return least_squares_range(seen, self.quant_max - self.quant_min, self.symmetric)

    def range(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest value to represent; `ConfigError` if nothing was seen."""
        low, high = super().range()
        if self.counts.numel() and float(high) > float(low):
            found = self.choose_range(self.distribution())
            # Ends that were not moved stay exact to the bit.
            low = torch.maximum(low, low.new_tensor(found[0]))
            high = torch.minimum(high, high.new_tensor(found[1]))
        return low, high

    @property
    def histogram(self) -> Tensor:
        """`(bins,)` float32: how many values lie in each of `bins` equal parts of `min_val..max_val`."""
        if not self.counts.numel():
            return torch.zeros(self.bins)
        found = self.distribution().histogram(float(self.min_val), float(self.max_val), self.bins)
        return torch.from_numpy(found).float()

    def reset_min_max_vals(self) -> None:
        """Forget what was seen."""
        super().reset_min_max_vals()
        self.counts = self.counts.new_zeros(0)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        occupied = self.counts.nonzero().flatten()
        destination[prefix + "buckets"] = occupied.to(torch.int32)
        destination[prefix + "counts"] = self.counts[occupied]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        buckets, counts = state_dict.pop(prefix + "buckets", None), state_dict.pop(prefix + "counts", None)
        legacy = state_dict.pop(prefix + "histogram", None)
        super()._load_from_state_dict(state_dict, prefix, *args)
        vars(self).pop(MERGED, None)
        if buckets is not None and counts is not None:
            self.counts = torch.zeros(BUCKETS if len(buckets) else 0, dtype=torch.int64)
            self.counts[buckets.long()] = counts.long()
        elif legacy is not None and bool(self.min_val <= self.max_val):
            low, high = self.min_val.double(), self.max_val.double()
            centers = low + (torch.arange(len(legacy)) + 0.5) * (high - low) / len(legacy)
            self.counts = torch.zeros(BUCKETS, dtype=torch.int64)
            self.counts.index_add_(0, codes_of(centers.float()), legacy.round().long())
        elif prefix + "min_val" in state_dict:
            self.counts = torch.zeros(0, dtype=torch.int64)


class PercentileObserver(HistogramObserver):
    """The range from which only `100 - percentile` percent of the values stand out, at either end.

    Further arguments as in `HistogramObserver`. Raises `ConfigError` for a percentile not in 50..100.

    >>> observer = PercentileObserver(99.0)
    >>> _ = observer(torch.linspace(0.0, 1.0, 10_000))
    >>> round(float(observer.range()[1]), 2)
    0.99
    """

    def __init__(self, percentile: float = 99.99, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 50.0 < percentile <= 100.0:
            raise ConfigError(f"PercentileObserver: percentile must lie in 50..100, not {percentile}")
        self.percentile = percentile

    def choose_range(self, seen: Distribution) -> tuple[float, float]:
        """The values at the two percentiles."""
        return percentile_range(seen, self.percentile / 100.0)


class EntropyObserver(HistogramObserver):
    """The range in which quantized values keep the most information: least Kullback-Leibler divergence.

    As in Migacz, "8-bit Inference with TensorRT" (GTC 2017), for two-sided ranges as well. Arguments as in
    `HistogramObserver`; `bins` is the resolution of the search.
    """

    def choose_range(self, seen: Distribution) -> tuple[float, float]:
        """The part of the range whose quantized histogram diverges least from the true one."""
        return least_divergence_range(seen, self.bins, self.quant_max - self.quant_min + 1)


class MSEObserver(HistogramObserver):
    """The range of least squared error with every value rounded to the very integer it would get.

    `HistogramObserver` takes rounding errors for evenly spread, which those of few distinct values are
    not; this one begins where that one ends and tries the ranges around it. Arguments as there.
    """

    def choose_range(self, seen: Distribution) -> tuple[float, float]:
        """The best of the ranges around the first guess."""
        steps = self.quant_max - self.quant_min
        guess = least_squares_range(seen, steps, self.symmetric)
        return refined_range(seen, guess, steps, self.symmetric)


@cache
def bucket_centers() -> NDArray[np.float64]:
    """The middle of each bucket, `(65536,)` float64; 0 for the two around zero and for those of no number."""
    first = np.arange(BUCKETS, dtype=np.uint32) << np.uint32(16)
    last = first | np.uint32(0xFFFF)
    number = first & np.uint32(0x7F800000) != 0x7F800000
    away_from_zero = first & np.uint32(0x7FFF0000) != 0
    centers = np.zeros(BUCKETS)
    for codes in (first, last):
        centers[number] += codes[number].view(np.float32).astype(np.float64) / 2
    centers[~away_from_zero] = 0.0
    return centers


def thinning(count: int) -> int:
    """One of how many runs of `count` values is counted: prime to their number, to visit all places."""
    stride = -(-count // MOST_VALUES)
    while stride > 1 and math.gcd(stride, count // RUN) != 1:
        stride += 1
    return stride


def thinned(values: Tensor, stride: int) -> Tensor:
    """Every `stride`-th run of `(N,)` values."""
    if stride == 1:
        return values
    runs = values[: len(values) // RUN * RUN].view(-1, RUN)
    return runs[::stride].reshape(-1)


def in_memory_order(x: Tensor) -> Tensor:
    """The values of `x` as `(N,)`, without a copy if they lie densely in any order of axes."""
    if not x.is_contiguous():
        x = x.permute(sorted(range(x.dim()), key=x.stride, reverse=True))
    return x.reshape(-1)


def codes_of(values: Tensor) -> Tensor:
    """The bucket of each of `(N,)` float32 values, `(N,)` int64."""
    return (values.contiguous().view(torch.int32) >> 16).bitwise_and_(0xFFFF).long()
