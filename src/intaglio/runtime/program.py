"""`BaseProgram`: a model as plans, one for each shape that its inputs have had. May import plan and model.

What tensors are is a subclass's: torch's, or numpy arrays.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from intaglio.runtime import lowerings
from intaglio.runtime.array import Array
from intaglio.runtime.calls import Call, Host
from intaglio.runtime.graph import map_values
from intaglio.runtime.model import Model
from intaglio.runtime.plan import Plan
from intaglio.runtime.planner import Planner
from intaglio.runtime.profile import Profile, profile_of

__all__ = ["MOST_PLANS", "BaseProgram", "Memory", "lowerings"]

MOST_PLANS = 64
"""Plans that a program keeps; the oldest goes when one more is made."""


@dataclass(frozen=True)
class Memory:
    """What a program takes, in bytes.

    weights: packed weights and tables, which the model and other programs of it share.
    arena: what one call works in, of the largest plan.
    largest_live: the most that is needed at one moment of that call.
    arenas: how many arenas there are now: one for each call at once, and some kept.
    plans: how many shapes have been planned.
    """

    weights: int
    arena: int
    largest_live: int
    arenas: int
    plans: int


class BaseProgram:
    """See the module; `model` is what it runs."""

    def __init__(self, model: Model, host: Host) -> None:
        self.model = model
        self._host = host
        self._plans: dict[Any, Plan] = {}
        self._lock = threading.Lock()

    # ---- What a subclass defines -------------------------------------------------------------------------

    def _array_of(self, leaf: Any) -> Array | None:
        """The array that stands for an input, or None of what is no tensor; `InputError` for wrong ones."""
        raise NotImplementedError

    def _key_of(self, leaf: Any) -> Any:
        """What of an input a plan depends on, hashable."""
        raise NotImplementedError

    def _address_of(self, leaf: Any) -> int:
        """Where a tensor lies."""
        raise NotImplementedError

    def _allocate(self, array: Array) -> Any:
        """A tensor for an output."""
        raise NotImplementedError

    def _threads(self) -> int:
        """How many threads a call may use."""
        raise NotImplementedError

    # ---- Calls -------------------------------------------------------------------------------------------

    def plan_for(self, *args: Any, **kwargs: Any) -> Plan:
        """The plan for inputs like these, made if there is none yet."""
        return self._find(args, kwargs)[0]

    def _find(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Plan, list[Any]]:
        """The plan of a call, and its tensors in order."""
        graph, values = self.model.bind(args, kwargs)
        leaves: list[Any] = []
        map_values(values, leaves.append)
        arrays = [self._array_of(leaf) for leaf in leaves]
        # What is no tensor is part of the plan, and so is how the values are nested.
        key = (id(graph), repr(map_values(values, lambda leaf: None)), *map(self._key_of, leaves))
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                plan = self._make(graph, values, iter(arrays))
                while len(self._plans) >= MOST_PLANS:
                    self._plans.pop(next(iter(self._plans)))
                self._plans[key] = plan
        return plan, [leaf for leaf, array in zip(leaves, arrays, strict=True) if array is not None]

    def _make(self, graph: Any, values: list[Any], arrays: Any) -> Plan:
        inputs: list[Array] = []

        def stand_in(leaf: Any) -> Any:
            array = next(arrays)
            if array is None:
                return leaf
            inputs.append(array)
            return array

        planner = Planner(self.model.layers, self.model.graphs, self._host)
        result = planner.run_graph(graph, map_values(values, stand_in))
        return Plan(planner, inputs, result)

    def _run(self, plan: Plan, tensors: Sequence[Any]) -> Any:
        """Call a plan of these tensors."""
        outputs = [self._allocate(array) for array in plan.outputs]
        address = self._address_of
        plan.run([*map(address, tensors), *map(address, outputs)], self._threads())
        return plan.result(outputs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives for these inputs."""
        plan, tensors = self._find(args, kwargs)
        return self._run(plan, tensors)

    # ---- What it says of itself --------------------------------------------------------------------------

    @property
    def memory(self) -> Memory:
        """What the program takes: see `Memory`."""
        plans = list(self._plans.values())
        weights: dict[int, int] = {}
        for plan in plans:
            for call in plan.calls:
                for array in call.read():
                    if array.buffer.home == "constant":
                        weights[array.buffer.number] = array.buffer.bytes
        largest = max(plans, key=lambda plan: plan.arena.bytes, default=None)
        return Memory(
            weights=sum(weights.values()),
            arena=0 if largest is None else largest.arena.bytes,
            largest_live=0 if largest is None else largest.arena.largest_live,
            arenas=sum(plan.core.arenas() for plan in plans),
            plans=len(plans),
        )

    @property
    def left_to_host(self) -> dict[str, str]:
        """The steps that no kernel computes, by the names of their layers or functions, with the reason."""
        plans = list(self._plans.values())  # which other threads add to
        return {name: why for plan in plans for name, why in plan.left_to_host.items()}

    def profile(self, *args: Any, repetitions: int = 20, **kwargs: Any) -> Profile:
        """Where the time of a call goes, kernel by kernel; `str()` of it is a table.

        The median of `repetitions` calls; `Profile.to_chrome_trace` writes what a trace viewer shows.
        """
        plan, tensors = self._find(args, kwargs)
        outputs = [self._allocate(array) for array in plan.outputs]
        addresses = [self._address_of(t) for t in (*tensors, *outputs)]
        runs = [plan.time(addresses, self._threads()) for _ in range(repetitions + 1)][1:]
        calls = [call for call in plan.calls if isinstance(call, Call)]
        return profile_of(calls, runs, self._threads())

    def __repr__(self) -> str:
        left = f", {len(self.left_to_host)} steps left to torch" if self.left_to_host else ""
        return f"{type(self).__name__}({self.model.name}, {len(self._plans)} shapes planned{left})"
