"""What the package knows of the machine it runs on."""

from __future__ import annotations

import pytest
import torch

from intaglio import _core
from intaglio.machine import describe_machine, measure_limits


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTAGLIO_ISA", raising=False)
    torch.set_num_threads(1)
    machine = describe_machine()
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.isa in machine.available_isas
    assert machine.threads == 1
    assert machine.forced_isa is None


def test_torch_and_the_core_share_one_openmp_runtime() -> None:
    runtimes = describe_machine().openmp
    assert runtimes is None or len(runtimes) == 1


@pytest.mark.parametrize("isa", _core.available_isas())
def test_limits_are_those_of_the_instruction_set_in_use(isa: str) -> None:
    _core.force_isa(isa)
    limits = measure_limits(seconds=0.001)
    assert limits.isa == isa
    assert limits.int8_ops > 0
    assert limits.float32_ops > 0
    assert all(rate > 0 for rate in limits.read_bandwidth.values())
