"""Fixtures that every test may use."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from intaglio import _core

# Machines that test are often busy: an example that takes long is not a failure.
settings.register_profile("intaglio", deadline=None)
settings.load_profile("intaglio")


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Each test draws the same numbers and leaves threads and instruction set as they were."""
    threads, isa = torch.get_num_threads(), _core.active_isa()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    _core.force_isa(isa)


@pytest.fixture
def one_thread() -> None:
    """As other processes have that are compared with this one: torch's float sums hang on the number."""
    torch.set_num_threads(1)
