"""Timing in turn: order and counts, not times, which on a shared machine prove nothing."""

from __future__ import annotations

from intaglio.timing import Timing, time_in_turn


def test_candidates_take_turns() -> None:
    calls: list[str] = []
    timings = time_in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=0)
    assert calls == ["a"] * 3 + ["b"] * 3 + ["a", "b"] * 10
    for timing in timings.values():
        assert timing.calls == 10
        assert 0 <= timing.low_ms <= timing.median_ms <= timing.high_ms


def test_a_fast_candidate_is_not_called_for_ever() -> None:
    timing: Timing = time_in_turn({"a": lambda: None}, seconds=3600)["a"]
    assert timing.calls == 1000
