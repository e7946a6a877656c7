"""Processes that stay up for many tests, each a rank: `Ranks(3).run(job, 2, ...)` runs `job` on two.

Torch takes seconds to import, so that each test could not have processes of its own. Ranks meet in a file,
for which no port is needed, and whatever waits has a limit.
"""

import io
import os
import queue
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PATIENCE = 60.0
"""Seconds after which a test gives up waiting; what is right takes one or two."""

LOST = timedelta(seconds=20)
"""How long a rank waits for another."""


class RankError(AssertionError):
    """A job raised on a rank; the message has its traceback."""


def pack(value: Any) -> bytes:
    """`value`, with its tensors, as bytes: queues would hand over tensors in shared memory."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def unpack(packed: bytes) -> Any:
    """What `pack` was given."""
    return torch.load(io.BytesIO(packed), weights_only=False)


def meet(rank: int, world_size: int, rendezvous: str) -> None:
    """Start the process group of `world_size` ranks that know the path of one file."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size, timeout=LOST
    )


def serve(rank: int, jobs: Any, done: Any) -> None:
    """Run jobs until None comes."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    while (order := jobs.get()) is not None:
        job, world_size, rendezvous, arguments = order
        try:
            torch.manual_seed(rank)
            if world_size:
                meet(rank, world_size, rendezvous)
            try:
                found = job(*unpack(arguments))
            finally:
                if dist.is_initialized():
                    dist.destroy_process_group()
            done.put((rank, True, pack(found)))
        except Exception:
            done.put((rank, False, traceback.format_exc().encode()))


class Ranks:
    """`most` processes; `run` gives what a job returned on each rank, or raises `RankError`."""

    def __init__(self, most: int, folder: Path) -> None:
        context = mp.get_context("spawn")
        self.folder, self.meetings = folder, 0
        self.done = context.Queue()
        self.jobs = [context.Queue() for _ in range(most)]
        self.processes = [
            context.Process(target=serve, args=(rank, jobs, self.done), daemon=True)
            for rank, jobs in enumerate(self.jobs)
        ]
        for process in self.processes:
            process.start()

    def run(self, job: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
        """`job(*arguments)` on `world_size` ranks that form a process group."""
        self.meetings += 1
        rendezvous = str(self.folder / f"meeting-{self.meetings}")
        for jobs in self.jobs[:world_size]:
            jobs.put((job, world_size, rendezvous, pack(arguments)))
        found: list[Any] = [None] * world_size
        errors = []
        for _ in range(world_size):
            try:
                rank, is_right, answer = self.done.get(timeout=PATIENCE)
            except queue.Empty:
                raise RankError(f"no answer within {PATIENCE} s; {errors}") from None
            if is_right:
                found[rank] = unpack(answer)
            else:
                errors.append(f"rank {rank}:\n{answer.decode()}")
        if errors:
            raise RankError("\n".join(errors))
        return found

    def close(self) -> None:
        """End the processes."""
        for jobs in self.jobs:
            jobs.put(None)
        for process in self.processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
