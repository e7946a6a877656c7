"""Calibration data as users have it, turned into calls of a model.

Batches are tensors, tuples or dicts; a tuple may end with labels that the model does not take, a dict may
hold them. How many parts of a batch are arguments is found on the first one. May import graph_passes, errors.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.errors import ConfigError
from intaglio.graph_passes.examples import Call
from intaglio.graph_passes.module_state import kept_state

__all__ = ["CalibrationData", "CallableData", "Calls", "read_data"]

CalibrationData = Iterable[Any] | Callable[[nn.Module], Any]
"""A DataLoader or any iterable of batches, or a function that runs a model on data of its own."""


class Calls:
    """The calls that an iterable of batches stands for; `count` is None if it is not known."""

    def __init__(self, model: nn.Module, data: Iterable[Any], most: int | None) -> None:
        self._model = model
        batches = enumerate(iter(data))
        first = next(batches, None)
        if first is None:
            raise ConfigError(
                "the calibration data holds no batches: pass at least one, better a hundred samples"
            )
        with kept_state(model):
            self._parts = _count_arguments(model, first[1])
        self._batches: Iterator[tuple[int, Any]] = itertools.islice(itertools.chain([first], batches), most)
        self.first = _call_of(model, first[1], 0, self._parts)
        count = len(data) if isinstance(data, Sized) else None
        self.count = most if count is None else min(count, most or count)

    def __iter__(self) -> Iterator[Call]:
        for number, batch in self._batches:
            yield _call_of(self._model, batch, number, self._parts)

    def run(self, model: nn.Module, call: Call, number: int) -> None:
        """Run a prepared model on one of the calls; `ConfigError` with the number of a batch that fails."""
        try:
            with torch.no_grad():
                model(*call.args, **call.kwargs)
        except Exception as error:  # whatever a user's forward raises for a batch unlike the first
            raise ConfigError(
                f"the model cannot be run on batch {number} of the calibration data: {type(error).__name__}: "
                f"{str(error).strip().partition(chr(10))[0]}"
            ) from error


class CallableData:
    """A function that runs a model on data of its own; the first call that it makes is the example."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module], Any]) -> None:
        self.function = function
        watched: list[Call] = []

        def watch(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not watched:
                watched.append(Call(args, dict(kwargs)).copied())
                raise _Seen

        handle = model.register_forward_pre_hook(watch, with_kwargs=True)
        try:
            with torch.no_grad(), kept_state(model):
                function(model)
        except _Seen:
            pass
        finally:
            handle.remove()
        if not watched:
            raise ConfigError(
                "the calibration function did not call the model that it was given: it must run it on data, "
                "def calibrate(model): model(batch)"
            )
        self.first = watched[0]


class _Seen(BaseException):
    """Ends a user's function after its first call; no `Exception`, which it might catch."""


def read_data(model: nn.Module, data: Any, most: int | None) -> Calls | CallableData:
    """What `data` stands for; `ConfigError` if it is no data."""
    if isinstance(data, (Tensor, str, Mapping, nn.Module)) or not (
        callable(data) or isinstance(data, Iterable)
    ):
        raise ConfigError(
            f"the calibration data must be an iterable of batches or a function that runs a model, not "
            f"{type(data).__name__}: put a single batch in a list"
        )
    if isinstance(data, Iterable):
        return Calls(model, data, most)
    return CallableData(model, data)


def _count_arguments(model: nn.Module, batch: Any) -> int:
    """How many parts of a batch that is a tuple the model takes: as many as it can be run on.

    A last part that looks like labels, one value a sample or less, is none of them if it can be left out.
    """
    if not isinstance(batch, (tuple, list)):
        return 1
    reasons: list[str] = []
    most = min(len(batch), _most_positional(model))
    counts = [count for count in range(most, 0, -1) if _runs(model, batch[:count], reasons)]
    if not counts:
        raise ConfigError(
            f"the model cannot be run on the first batch of the calibration data, a {type(batch).__name__} "
            f"of {len(batch)}: {reasons[-1] if reasons else 'it takes no arguments'}"
        )
    while len(counts) > 1 and _looks_like_labels(batch[counts[0] - 1]):
        counts.pop(0)
    return counts[0]


def _runs(model: nn.Module, args: Sequence[Any], reasons: list[str]) -> bool:
    try:
        Call(tuple(args), {}).run(model)
    except Exception as error:  # whatever a user's forward raises for arguments that are not its own
        reasons.append(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        return False
    return True


def _looks_like_labels(part: Any) -> bool:
    return not isinstance(part, (dict, list, tuple)) and (not isinstance(part, Tensor) or part.dim() <= 1)


def _most_positional(model: nn.Module) -> int:
    parameters = inspect.signature(model.forward).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 1_000_000
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _call_of(model: nn.Module, batch: Any, number: int, parts: int) -> Call:
    if isinstance(batch, Mapping):
        return Call((), _known_arguments(model, batch))
    if isinstance(batch, (tuple, list)):
        if len(batch) < parts:
            raise ConfigError(
                f"batch {number} of the calibration data has {len(batch)} parts, but the first had at least "
                f"{parts}"
            )
        return Call(tuple(batch[:parts]), {})
    if isinstance(batch, Tensor):
        return Call((batch,), {})
    raise ConfigError(
        f"batch {number} of the calibration data is a {type(batch).__name__}: batches are tensors, tuples of "
        "arguments, or dicts of named ones"
    )


def _known_arguments(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Of a dict, what the model has arguments for."""
    parameters = inspect.signature(model.forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(batch)
    known = {name: value for name, value in batch.items() if name in parameters}
    if not known:
        raise ConfigError(
            f"the batches of the calibration data are dicts of {', '.join(map(repr, batch))}, but the model "
            f"takes {', '.join(map(repr, parameters))}"
        )
    return known
