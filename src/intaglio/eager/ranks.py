"""Several processes, one model: what was observed comes to agree on all ranks.

In training `watch_ranks` lets every forward end with one small all-reduce: the moving averages of ranges and of
batch norms become the mean over the ranks, which is what one process would have over all their batches.
`SyncBatchNorm` does its own. After calibration `synchronize_observers` merges what each rank saw. Any backend of
`torch.distributed` will do. May import fake_quantize, observer, nn and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from intaglio.errors import ConfigError
from intaglio.fake_quantize import FakeQuantize, LearnedFakeQuantize
from intaglio.observer import (
    HistogramObserver,
    InputMean,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    ObserverBase,
    PerChannelMinMaxObserver,
)

__all__ = ["agree_on_ranges", "synchronize_observers", "watch_ranks"]

Group = Any
"""A process group of `torch.distributed`, or None for all processes."""


def watch_ranks(model: nn.Module) -> None:
    """Let ranges and batch norms agree on all ranks after each forward of `model` that trains."""
    model.register_forward_hook(agree_on_ranges)


def agree_on_ranges(model: nn.Module, inputs: Any = None, output: Any = None) -> None:
    """Forward hook: average over the ranks what this forward moved, if there are several."""
    if model.training and torch.is_grad_enabled() and dist.is_available() and dist.is_initialized():
        _average(model)


@torch.compiler.disable
@torch.no_grad()
def _average(model: nn.Module) -> None:
    if dist.get_world_size() == 1:
        return
    rounders = [part for part in model.modules() if isinstance(part, FakeQuantize)]
    moved = [part for part in rounders if part.follows_data]
    values = [value for part in moved for value in (part.observer.min_val, part.observer.max_val)]
    values += list(_running_statistics(model))
    learned = [part for part in rounders if isinstance(part, LearnedFakeQuantize) and part.is_fresh]
    values += [value.data for part in learned for value in (part.scale, part.zero_point)]
    if not values:
        return
    flat = torch.cat([value.detach().reshape(-1).double() for value in values])
    finite = torch.isfinite(flat)
    both = torch.stack([torch.where(finite, flat, 0.0), finite.double()])
    dist.all_reduce(both)
    found = torch.where(both[1] > 0, both[0] / both[1].clamp(min=1.0), flat)
    for value, mean in zip(values, found.split([value.numel() for value in values]), strict=True):
        value.copy_(mean.view(value.shape))
    for part in moved:
        part.take_range()
    for part in learned:
        part.is_fresh = False


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
    Extremes, histograms and means merge without rounding: the parameters are, to the bit, those of one process
    that ran the same batches, in any order. Moving averages depend on the order; theirs are averaged.

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
    for path, part in parts:
        merger.add(path, part)
    merger.run()


class _Merger:
    """Gathers tensors that are reduced alike, so that each kind takes one call."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.waiting: dict[Any, list[tuple[Tensor, Callable[[Tensor], None]]]] = {}

    def check_alike(self, names: list[str]) -> None:
        """Raise `ConfigError` unless every rank has the same observers."""
        found: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(found, names, group=self.group)
        if any(other != names for other in found):
            raise ConfigError(
                "the ranks' models have different observers: prepare the same model on each rank"
            )

    def add(self, path: str, part: nn.Module) -> None:
        """Note what is to be merged of one observer."""
        if isinstance(part, InputMean):
            for name in ("sums", "count", "sizes"):
                self._reduce(dist.ReduceOp.SUM, part, name)
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
                    part.counts = torch.zeros(1 << 16, dtype=torch.int64)
                self._reduce(dist.ReduceOp.SUM, part, "counts")
        elif part.state_dict() and not isinstance(part, FakeQuantize):
            raise ConfigError(
                f"'{path}': what a {type(part).__name__} saw cannot be merged over ranks: calibrate in one "
                "process, or use an observer of intaglio"
            )

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
        self.waiting.setdefault((how, value.dtype), []).append((value, value.copy_))

    def run(self) -> None:
        """Reduce everything that was noted."""
        for (how, _), entries in self.waiting.items():
            flat = torch.cat([value.reshape(-1) for value, _ in entries])
            if how == "mean":
                finite = torch.isfinite(flat)
                both = torch.stack([torch.where(finite, flat, 0.0), finite.to(flat.dtype)])
                dist.all_reduce(both, group=self.group)
                flat = torch.where(both[1] > 0, both[0] / both[1].clamp(min=1.0), flat)
            else:
                dist.all_reduce(flat, how, group=self.group)
            for (value, take), merged in zip(
                entries, flat.split([value.numel() for value, _ in entries]), strict=True
            ):
                take(merged.view(value.shape))
