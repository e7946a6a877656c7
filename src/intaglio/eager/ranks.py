"""Several processes, one model: what was observed comes to agree on all ranks.

In training `watch_ranks` lets every forward end with one small all-reduce: the moving averages of ranges and
of batch norms become the mean over the ranks, which is what one process would have over all their batches.
`SyncBatchNorm` does its own. After calibration `synchronize_observers` merges what each rank saw. The backend
of `torch.distributed` must take tensors where the model is. May import fake_quantize, observer and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import nan
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from intaglio.eager.observing import observing_hook
from intaglio.errors import ConfigError
from intaglio.fake_quantize import FakeQuantize, FixedQParamsFakeQuantize, LearnedFakeQuantize
from intaglio.observer import (
    FixedQParamsObserver,
    HistogramObserver,
    InputMean,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    ObserverBase,
    PerChannelMinMaxObserver,
    RecordingObserver,
    UniformQuantizationObserverBase,
)
from intaglio.observer.histogram import BUCKETS
from intaglio.observer.observing import MERGED
from intaglio.untraced import untraced

__all__ = ["agree_on_ranges", "synchronize_observers", "watch_ranks"]

Group = Any
"""A process group of `torch.distributed`, or None for all processes."""


def watch_ranks(model: nn.Module) -> None:
    """Let ranges and batch norms agree on all ranks after each forward of `model` that trains."""
    model.register_forward_hook(agree_on_ranges)


@observing_hook
def agree_on_ranges(model: nn.Module, inputs: Any = None, output: Any = None) -> None:
    """Forward hook: average over the ranks what this forward moved, if there are several."""
    if model.training and torch.is_grad_enabled() and dist.is_available() and dist.is_initialized():
        _average(model)


@untraced
@torch.no_grad()
def _average(model: nn.Module) -> None:
    group = _group_of_forward()
    if dist.get_world_size(group) == 1:
        return
    # Every rank must name the same tensors, whichever parts of the model its data went through.
    rounders = [part for part in model.modules() if isinstance(part, FakeQuantize)]
    moved = [part for part in rounders if part.follows_data]
    widened = [part for part in rounders if not part.follows_data and _keeps_extremes(part)]
    guessed = [part for part in rounders if _finds_scale(part) and part not in widened]
    means = [value for part in moved for value in _ends(part)]
    means += list(_running_statistics(model))
    scales: list[tuple[FakeQuantize, Tensor]] = []
    for part in guessed:
        scales += [(part, part.scale), (part, part.zero_point)]
    if means or scales:
        found = [value.detach().reshape(-1).double() for value in means]
        found += [
            value.detach().reshape(-1).double() * (1.0 if part.has_range else nan) for part, value in scales
        ]
        is_known = _take_means(found, [*means, *(value for _, value in scales)], group)
        for (part, _), known in zip(scales, is_known[len(means) :], strict=True):
            if known and isinstance(part, LearnedFakeQuantize):
                part.accept()
    if widened:
        ends = [_ends(part) for part in widened]
        flat = torch.cat([torch.cat([-low.reshape(-1), high.reshape(-1)]) for low, high in ends])
        dist.all_reduce(flat, dist.ReduceOp.MAX, group=group)
        for (low, high), both in zip(
            ends, flat.split_with_sizes([2 * low.numel() for low, _ in ends]), strict=True
        ):
            low.data.copy_(-both[: low.numel()].view(low.shape))
            high.data.copy_(both[low.numel() :].view(high.shape))
    for part in (*moved, *widened):
        part.take_range()


def _group_of_forward() -> Group:
    """The processes of the `DistributedDataParallel` whose forward runs; all, if none does."""
    active = getattr(DistributedDataParallel, "_active_ddp_module", None)
    return getattr(active, "process_group", None)


def _ends(part: FakeQuantize) -> tuple[Tensor, Tensor]:
    observer = part.observer
    assert isinstance(observer, UniformQuantizationObserverBase)
    return observer.min_val, observer.max_val


def _keeps_extremes(part: FakeQuantize) -> bool:
    """Whether the range is that of all data seen."""
    return _looks_at_data(part) and type(part.observer) in (MinMaxObserver, PerChannelMinMaxObserver)


def _finds_scale(part: FakeQuantize) -> bool:
    """Whether the scale is found by a search, or where a learned one starts: known to the rank alone."""
    if isinstance(part, LearnedFakeQuantize):
        return part.is_fresh and part.ch_axis is None
    return _looks_at_data(part) and not part.follows_data and part.ch_axis is None


def _looks_at_data(part: FakeQuantize) -> bool:
    fixed = isinstance(part, (LearnedFakeQuantize, FixedQParamsFakeQuantize))
    own = fixed or part.is_dynamic or part.rounds_rows or part.is_own_range
    return not own and bool(part.observer_enabled)


def _take_means(found: list[Tensor], values: list[Tensor], group: Group) -> list[bool]:
    """Put into `values` the means over the ranks of what was `found`; gives of which any rank knew something.

    NaN and infinity, which is what was not found, count for nothing.
    """
    flat = torch.cat(found)
    finite = torch.isfinite(flat)
    both = torch.stack([torch.where(finite, flat, 0.0), finite.double()])
    dist.all_reduce(both, group=group)
    for value, (total, count) in zip(
        values, both.split_with_sizes([value.numel() for value in values], dim=1), strict=True
    ):
        mean = torch.where(count > 0, total / count.clamp(min=1.0), value.detach().reshape(-1).double())
        mean = mean if value.is_floating_point() else mean.round()
        # By `data`: what the backward pass keeps of these tensors it does not use, yet it counts changes.
        value.data.copy_(mean.view(value.shape))
    return [
        bool((count > 0).any()) for count in both[1].split_with_sizes([value.numel() for value in values])
    ]


def _running_statistics(model: nn.Module) -> Iterator[Tensor]:
    """What batch norms that see their rank's batch alone keep of it."""
    for part in model.modules():
        if not isinstance(part, nn.modules.batchnorm._BatchNorm) or isinstance(part, nn.SyncBatchNorm):
            continue
        if part.training and part.running_mean is not None and part.running_var is not None:
            yield part.running_mean
            yield part.running_var


# ---- Calibration -------------------------------------------------------------------------------------------


@torch.no_grad()
def synchronize_observers(model: nn.Module, group: Group = None) -> None:
    """Merge what the observers of `model` saw on each rank, so that all hold what one process would.

    Call it on every rank after each ran its share of the data through the prepared model, before `convert`.
    Extremes, histograms and means merge without rounding: the parameters are, to the bit, those of one
    process that ran the same batches, in any order. Moving averages depend on the order; theirs are averaged.
    More data may follow, and another call: what was merged before counts once.

    Parameters
    ----------
    model : nn.Module
        What `prepare` or `prepare_fx` gave, the same on every rank.
    group : a process group, optional
        All processes by default.

    Raises
    ------
    ConfigError
        No process group was started, an observer cannot be merged, or the ranks' models differ.

    Examples
    --------
    >>> synchronize_observers(nn.Linear(2, 2))
    Traceback (most recent call last):
    intaglio.errors.ConfigError: there are no ranks: call torch.distributed.init_process_group first
    """
    if not dist.is_available() or not dist.is_initialized():
        raise ConfigError("there are no ranks: call torch.distributed.init_process_group first")
    merger = _Merger(group)
    parts = [
        (path, part) for path, part in model.named_modules() if isinstance(part, (ObserverBase, InputMean))
    ]
    merger.check_alike([f"{path}:{type(part).__name__}" for path, part in parts])
    if not parts:
        raise ConfigError("the model has no observers: call prepare on it and run data through it")
    for path, part in parts:
        merger.check(path, part)
    for _, part in parts:
        merger.add(part)
    merger.run()
    for _, part in parts:
        if isinstance(part, FakeQuantize) and not isinstance(part, LearnedFakeQuantize):
            part.take_range()


class _Merger:
    """Gathers tensors that are reduced alike, so that each kind takes one call."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.waiting: dict[Any, list[tuple[Tensor, Callable[[Tensor], Any]]]] = {}

    def check_alike(self, names: list[str]) -> None:
        """Raise `ConfigError` unless every rank has the same observers."""
        found: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(found, names, group=self.group)
        if any(other != names for other in found):
            raise ConfigError(
                "the ranks' models have different observers: prepare the same model on each rank"
            )

    def check(self, path: str, part: nn.Module) -> None:
        """Raise `ConfigError` for an observer that holds more than is known how to merge."""
        if isinstance(part, (InputMean, FakeQuantize, FixedQParamsObserver)):
            return
        known = (
            {"min_val", "max_val"} if isinstance(part, (MinMaxObserver, PerChannelMinMaxObserver)) else set()
        )
        known = {"min_val", "max_val", "counts"} if isinstance(part, HistogramObserver) else known
        if not set(part._buffers) <= known or isinstance(part, RecordingObserver):
            raise ConfigError(
                f"'{path}': what a {type(part).__name__} saw cannot be merged over ranks: calibrate in one "
                "process, or use an observer of intaglio"
            )

    def add(self, part: nn.Module) -> None:
        """Note what is to be merged of one observer."""
        if isinstance(part, InputMean):
            for name in ("sums", "count", "sizes"):
                self._reduce(dist.ReduceOp.SUM, part, name)
        elif isinstance(part, LearnedFakeQuantize) and part.ch_axis is None:
            for name in ("scale", "zero_point"):
                self._mean_of_learned(part, name)
        elif isinstance(part, (MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver)):
            self._agree_on_size(part)
            for name in ("min_val", "max_val"):
                self._reduce("mean", part, name)
        elif isinstance(part, (MinMaxObserver, PerChannelMinMaxObserver, HistogramObserver)):
            self._agree_on_size(part)
            self._reduce(dist.ReduceOp.MIN, part, "min_val")
            self._reduce(dist.ReduceOp.MAX, part, "max_val")
            if isinstance(part, HistogramObserver):
                if not part.counts.numel():
                    part.counts = torch.zeros(BUCKETS, dtype=torch.int64)
                self._reduce(dist.ReduceOp.SUM, part, "counts")

    def _agree_on_size(self, part: Any) -> None:
        """Give a rank that saw nothing room for what the others saw."""
        size = torch.tensor(part.min_val.numel())
        dist.all_reduce(size, dist.ReduceOp.MAX, group=self.group)
        if part.min_val.numel() != int(size) and part.min_val.dim() == 1:
            part.min_val = part.min_val.new_full((int(size),), torch.inf)
            part.max_val = part.max_val.new_full((int(size),), -torch.inf)

    def _reduce(self, how: Any, part: nn.Module, name: str) -> None:
        value = part._buffers[name]
        assert value is not None
        if how is not dist.ReduceOp.SUM:
            self._wait(how, value, value.copy_)
            return
        # What all ranks have since they last merged counts once.
        merged: dict[str, Tensor] = vars(part).setdefault(MERGED, {})
        before = merged.get(name)

        def take(found: Tensor) -> None:
            value.copy_(found if before is None else found + before)
            merged[name] = value.clone()

        self._wait(how, value if before is None else value - before, take)

    def _mean_of_learned(self, part: LearnedFakeQuantize, name: str) -> None:
        held: Tensor = getattr(part, name)

        def take(found: Tensor) -> None:
            if bool(torch.isfinite(found).all()):
                held.copy_(found if held.is_floating_point() else found.round())
                part.accept()

        self._wait("mean", held.detach().double() * (1.0 if part.has_range else nan), take)

    def _wait(self, how: Any, value: Tensor, take: Callable[[Tensor], Any]) -> None:
        self.waiting.setdefault((how, value.dtype), []).append((value, take))

    def run(self) -> None:
        """Reduce everything that was noted."""
        for (how, _), entries in self.waiting.items():
            flat = torch.cat([value.reshape(-1) for value, _ in entries])
            if how == "mean":
                finite = torch.isfinite(flat)
                both = torch.stack([torch.where(finite, flat, 0.0), finite.to(flat.dtype)]).double()
                dist.all_reduce(both, group=self.group)
                mean = (both[0] / both[1].clamp(min=1.0)).to(flat.dtype)
                flat = torch.where(both[1] > 0, mean, flat)
            else:
                dist.all_reduce(flat, how, group=self.group)
            for (value, take), found in zip(
                entries, flat.split_with_sizes([value.numel() for value, _ in entries]), strict=True
            ):
                take(found.view(value.shape))
