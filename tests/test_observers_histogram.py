"""Histograms: exact counts without a range, and the ranges found in them."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization.observer as legacy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from intaglio.observer import (
    EntropyObserver,
    HistogramObserver,
    MinMaxObserver,
    MSEObserver,
    ObserverBase,
    PercentileObserver,
)
from intaglio.observer.histogram import MOST_VALUES, bucket_centers, in_memory_order, thinning
from intaglio.qparams import QParams, dequantize, quantize

KINDS: list[Callable[..., HistogramObserver]] = [
    HistogramObserver,
    PercentileObserver,
    EntropyObserver,
    MSEObserver,
]


def seen_by(observer: HistogramObserver, *data: Tensor) -> HistogramObserver:
    for x in data:
        assert observer(x) is x
    return observer


def error_of(qparams: QParams, x: Tensor) -> float:
    return float((dequantize(quantize(x, qparams), qparams) - x).double().square().mean())


# ---- counting -------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), min_size=1))
def test_every_value_is_counted_once_in_its_own_bucket(batches: list[list[float]]) -> None:
    observer = HistogramObserver()
    for batch in batches:
        observer(torch.tensor(batch))
    values = torch.tensor([value for batch in batches for value in batch])
    assert int(observer.counts.sum()) == values.numel()
    seen = observer.distribution()
    assert bool((np.diff(seen.values) >= 0).all())
    # Each value is near its bucket's middle, or around zero.
    for value in values.tolist():
        assert np.abs(seen.values - value).min() <= abs(value) * 2**-7 + 1e-40


def test_batches_merge_exactly_whatever_their_ranges_and_order() -> None:
    # What the legacy spread over new bins, and did not count at times (pytorch/pytorch#87126, #129387).
    batches = [torch.randn(1000) * 10.0**power for power in (0, -3, 5, 2, -20)]
    counts = []
    for order in itertools.islice(itertools.permutations(batches), 0, 120, 17):
        observer = seen_by(HistogramObserver(), *order)
        counts.append(observer.distribution().counts)
        assert int(observer.counts.sum()) == 5000
    assert all(np.array_equal(found, counts[0]) for found in counts)
    whole = seen_by(HistogramObserver(), torch.cat(batches))
    assert np.array_equal(whole.distribution().counts, counts[0])


def test_the_readable_histogram_is_that_of_torch() -> None:
    x = torch.randn(50_000)
    observer = seen_by(HistogramObserver(bins=64), x)
    expected = torch.histc(x, 64, float(x.min()), float(x.max()))
    assert observer.histogram.shape == (64,)
    assert float(observer.histogram.sum()) == 50_000
    # Values within 2^-8 of a bin's edge may fall on its other side.
    assert float((observer.histogram - expected).abs().sum()) < 0.05 * 50_000
    assert HistogramObserver().histogram.tolist() == [0.0] * 2048


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "strided", "expanded"])
def test_every_layout_is_counted(layout: str) -> None:
    x = torch.randn(2, 6, 5, 8)
    views = {
        "contiguous": x,
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(1, 3),
        "strided": x[:, ::2, 1:],
        "expanded": x[:1].expand(3, 6, 5, 8),
    }
    view = views[layout]
    found = seen_by(HistogramObserver(), view).distribution()
    expected = seen_by(HistogramObserver(), view.contiguous()).distribution()
    assert np.array_equal(found.counts, expected.counts)
    if layout in ("contiguous", "channels_last", "transposed"):
        assert in_memory_order(view).data_ptr() == view.data_ptr()


def test_a_large_tensor_is_thinned_without_losing_its_extremes_or_its_shape() -> None:
    x = torch.randn(4, 16, 224, 224)
    x[:, 3] += 5.0  # one channel of sixteen: a stride that divides would see it always or never
    x[1, 2, 3, 4], x[3, 3, 3, 3] = 40.0, -40.0
    observer = seen_by(HistogramObserver(), x)
    stride = thinning(x.numel())
    assert x.numel() / stride <= MOST_VALUES
    assert abs(int(observer.counts.sum()) - x.numel()) <= 16 * stride + 2
    assert (float(observer.min_val), float(observer.max_val)) == (-40.0, 40.0)
    seen = observer.distribution()
    above = float(seen.counts[seen.values > 3].sum()) / x.numel()
    assert above == pytest.approx(float((x > 3).float().mean()), rel=0.02)
    assert float(seen.counts[seen.values >= 39].sum()) >= 1


def test_buckets_are_in_order_and_hold_no_infinity() -> None:
    centers = bucket_centers()
    assert bool((np.diff(centers[:0x7F80]) > 0).all())
    assert bool(np.isfinite(centers).all())
    assert np.array_equal(centers[0x8001:0xFF80], -centers[1:0x7F80])


# ---- threads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "batches",
    [
        # pytorch/pytorch#123309: bins by the ratio of ranges, hence gigabytes
        [[-1e-6, 1e-6], [-1e6, 1e6]],
        # pytorch/pytorch#100051: -3.4, then the lowest float32
        [[-3.4028234663852886, -0.0], [-3.4028234663852886e38, -0.0]],
        # pytorch/pytorch#122659: a range of nearly nothing
        [[1.0, 1.0 + 1.2e-7], [0.5, 2.0]],
        [[0.0, 1e-45], [0.0, 1e-44]],
        # pytorch/pytorch#39239: zeros first; #129387: one value at a time
        [[0.0, 0.0], [0.0], [1.0, 2.0]],
        [[5.0], [-5.0], [5.0]],
    ],
)
@pytest.mark.filterwarnings("ignore::intaglio.observer.ObserverWarning")
def test_no_range_breaks_it_or_costs_memory(kind: Callable[..., Any], batches: list[list[float]]) -> None:
    # And with them pytorch/pytorch#106432, #156414 and #48473: the threads of histograms and their ranges.
    bucket_centers()  # made once for all observers
    observer = kind()
    tracemalloc.start()
    for batch in batches:
        observer(torch.tensor(batch))
    found = observer.choose()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert observer.counts.numel() <= 2**16
    assert int(observer.counts.sum()) == sum(map(len, batches))
    assert bool(torch.isfinite(found.scale))
    low, high = min(map(min, batches)), max(map(max, batches))
    assert float(observer.min_val) == pytest.approx(low)
    assert float(observer.max_val) == pytest.approx(high)


@pytest.mark.parametrize("outlier", [1e4, 1e10, 1e30])
@pytest.mark.parametrize("first", [True, False])
def test_an_outlier_does_not_blur_the_rest(outlier: float, first: bool) -> None:
    # With equal bins, one outlier puts everything else into one of them.
    usual, odd = torch.randn(100_000), torch.cat([torch.randn(100_000), torch.tensor([outlier])])
    batches = [odd, usual] if first else [usual, odd]
    found = seen_by(PercentileObserver(99.99), *batches).choose()
    assert error_of(found, usual) < 1e-4 * float(usual.square().mean()) * 2
    if outlier > 1e20:
        # Least squares keeps the outlier, whose loss would cost more than all the rest is worth.
        assert float(seen_by(HistogramObserver(), *batches).range()[1]) > 1e20


def test_values_of_a_masked_softmax_do_not_decide() -> None:
    x = torch.randn(1000)
    x[::10] = torch.finfo(torch.float32).min
    found = seen_by(PercentileObserver(89.0), x).range()
    assert -4 < float(found[0]) < 0


# ---- ranges ---------------------------------------------------------------------------------------------


def data_of(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    normal = torch.randn(60_000, generator=generator)
    return {
        "normal": normal,
        "relu": normal.relu(),
        "relu6": (normal * 4).clamp(0, 6),
        "laplace": normal.sign() * torch.rand(60_000, generator=generator).log(),
        "cauchy": normal / torch.randn(60_000, generator=generator).abs().clamp(min=1e-3),
        "gelu": nn.functional.gelu(normal * 3),
        "shifted": normal + 3,
        "negative": -normal.square(),
    }[name]


NAMES = ["normal", "relu", "relu6", "laplace", "cauchy", "gelu", "shifted", "negative"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", [torch.per_tensor_affine, torch.per_tensor_symmetric])
def test_least_squares_finds_what_trying_every_range_finds(name: str, scheme: torch.qscheme) -> None:
    x = data_of(name)
    found = seen_by(HistogramObserver(qscheme=scheme), x).choose()
    fine = seen_by(MSEObserver(qscheme=scheme), x).choose()
    best = torch.inf
    parts = [part / 20 for part in range(2, 21)]
    for low, high in (
        itertools.product(parts, parts) if "affine" in str(scheme) else zip(parts, parts, strict=True)
    ):
        observer = MinMaxObserver(qscheme=scheme)
        observer(torch.stack([x.min() * low, x.max() * high]))
        best = min(best, error_of(observer.choose(), x))
    assert error_of(found, x) <= 1.04 * best
    assert error_of(fine, x) <= 1.02 * best


@pytest.mark.parametrize("name", NAMES)
def test_least_squares_is_at_least_as_good_as_the_legacy(name: str) -> None:
    x = data_of(name)
    theirs = legacy.HistogramObserver()
    theirs(x)
    scale, zero_point = theirs.calculate_qparams()
    expected = QParams(scale[0], zero_point[0].int(), MinMaxObserver().dtype)
    for kind in (HistogramObserver, MSEObserver):
        assert error_of(seen_by(kind(), x).choose(), x) <= 1.005 * error_of(expected, x)


def test_few_distinct_values_are_no_trouble() -> None:
    # 256 grey levels, normalized: rounding errors are not spread evenly.
    x = (torch.randint(0, 256, (20_000,)) / 255.0 - 0.45) / 0.22
    kinds = (MinMaxObserver(), seen_by(MSEObserver(), x), seen_by(HistogramObserver(), x))
    kinds[0](x)
    even = float((x.max() - x.min()) / 255) ** 2 / 12
    assert all(error_of(kind.choose(), x) <= 1.3 * even for kind in kinds)


def test_percentiles_are_those_of_torch() -> None:
    x = torch.randn(60_000)
    for percentile in (99.0, 99.9, 99.99, 100.0):
        low, high = seen_by(PercentileObserver(percentile), x).range()
        part = percentile / 100
        assert float(high) == pytest.approx(float(x.quantile(part)), rel=0.01)
        assert float(low) == pytest.approx(float(x.quantile(1 - part)), rel=0.01)
    low, high = seen_by(PercentileObserver(100.0), x).range()
    assert (low, high) == (x.min(), x.max())


@pytest.mark.parametrize("scheme", [torch.per_tensor_affine, torch.per_tensor_symmetric])
def test_entropy_cuts_a_long_tail_and_keeps_a_short_one(scheme: torch.qscheme) -> None:
    tail = torch.cat([torch.randn(100_000), torch.tensor([50.0, -50.0])])
    low, high = seen_by(EntropyObserver(qscheme=scheme), tail).range()
    assert 2 < float(high) < 25
    assert -25 < float(low) < -2
    even = torch.rand(100_000)
    low, high = seen_by(EntropyObserver(), even).range()
    assert float(high) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_that_is_not_cut_is_exact(kind: Callable[..., Any]) -> None:
    x = torch.rand(10_000).clamp(0, 0.7)  # much of it at the upper end
    observer = seen_by(kind(**({"percentile": 100.0} if kind is PercentileObserver else {})), x)
    assert float(observer.range()[1]) == float(x.max())


# ---- cost -----------------------------------------------------------------------------------------------


def ratio_of_times(slow: Callable[[], object], quick: Callable[[], object], times: int) -> float:
    """How many times longer `slow` takes, by the fastest of turns taken one after the other."""
    best = [torch.inf, torch.inf]
    for _ in range(times):
        for index, run in enumerate((slow, quick)):
            start = time.perf_counter()
            run()
            best[index] = min(best[index], time.perf_counter() - start)
    return best[0] / best[1]


@pytest.mark.parametrize("shape", [(1, 64, 28, 28), (8, 64, 28, 28)])
def test_it_is_several_times_faster_than_the_legacy(shape: tuple[int, ...]) -> None:
    # 5 x and more on a quiet machine; here what holds on a busy one as well.
    torch.set_num_threads(1)
    batches = [torch.randn(*shape).relu() for _ in range(8)]

    def calibrate(kind: Callable[[], Any]) -> Any:
        observer = kind()
        for batch in batches:
            observer(batch)
        return observer

    mine, theirs = calibrate(HistogramObserver), calibrate(legacy.HistogramObserver)
    both = (lambda: calibrate(legacy.HistogramObserver)), (lambda: calibrate(HistogramObserver))
    assert ratio_of_times(*both, times=7) > 2
    assert ratio_of_times(theirs.calculate_qparams, mine.calculate_qparams, times=5) > 2


def calibration(observer: Callable[[], ObserverBase]) -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(3)
    convs = [nn.Conv2d(i, o, 3, stride=s, padding=1) for i, o, s in [(3, 32, 2), (32, 64, 1), (64, 64, 2)]]
    plain = [layer for conv in convs for layer in (conv, nn.ReLU())]
    watched = [layer for conv in convs for layer in (conv, nn.ReLU(), observer())]
    return nn.Sequential(*plain), nn.Sequential(*watched)


@pytest.mark.parametrize(("kind", "limit"), [(MinMaxObserver, 1.5), (HistogramObserver, 2.5)])
@torch.no_grad()
def test_calibration_costs_little(kind: Callable[[], ObserverBase], limit: float) -> None:
    torch.set_num_threads(1)
    plain, watched = calibration(kind)
    x = torch.randn(1, 3, 112, 112)  # short runs, of which some are not interrupted
    watched(x)
    assert ratio_of_times(lambda: watched(x), lambda: plain(x), times=40) < limit
