"""What ranks do in tests/test_training_ranks.py: functions that `Ranks.run` sends to other processes."""

import inspect
import os
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import intaglio
from intaglio.fake_quantize import default_histogram_fake_quant
from tests.training_models import LEARNED, LEARNED_WEIGHTS, Net, convert, images, make, state_of

_WEIGHT = intaglio.get_default_qat_qconfig("x86").weight
QCONFIGS = {
    "default": None,
    "learned": LEARNED,
    "learned weights": LEARNED_WEIGHTS,
    "extremes": intaglio.QConfig(
        intaglio.FakeQuantize.with_args(observer=intaglio.MinMaxObserver, dtype="uint8"), _WEIGHT
    ),
    "histogram": intaglio.QConfig(default_histogram_fake_quant, _WEIGHT),
}


def seed_of(rank: int, step: int) -> int:
    """The batch that a rank gets in a step: no two are alike."""
    return 1 + 7 * step + rank


def _as_known(options: dict[str, Any]) -> dict[str, Any]:
    """Options under the names that this torch has for them."""
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:
        return options
    return {name.replace("forward_sync", "broadcast"): value for name, value in options.items()}


def train(kind: str, graph: bool, steps: int, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train under DistributedDataParallel; the state after each step, the losses, and what it converts to."""
    model = make(qconfig=QCONFIGS[kind], graph=graph)
    parallel = DistributedDataParallel(model, **_as_known(options or {}))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    states, losses = [], []
    for step in range(steps):
        optimizer.zero_grad()
        loss = parallel(images(seed_of(dist.get_rank(), step))).square().mean()
        after_forward = state_of(model)
        loss.backward()
        optimizer.step()
        states.append((after_forward, state_of(model)))
        losses.append(float(loss.detach()))
    converted = convert(model, graph=graph)
    return {"states": states, "losses": losses, "converted": converted.state_dict()}


def train_on_two_forwards() -> list[dict[str, Tensor]]:
    """Two forwards before one backward, as in adversarial training, and gradients that pile up."""
    model = make(qconfig=LEARNED)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    rank, states = dist.get_rank(), []
    for step in range(2):
        optimizer.zero_grad()
        with parallel.no_sync():
            parallel(images(seed_of(rank, 10 + step))).square().mean().backward()
        first = parallel(images(seed_of(rank, step)))
        second = parallel(images(seed_of(rank, 20 + step)))
        (first.square().mean() + second.abs().mean()).backward()
        optimizer.step()
        states.append(state_of(model))
    return states


class TwoWays(nn.Module):
    """Takes one of two branches: ranks may go different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = intaglio.QuantStub(), intaglio.DeQuantStub()
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, goes_left: bool) -> Tensor:
        """`(N, 4)` to `(N, 4)`."""
        x = self.quant(x)
        y: Tensor = self.dequant(self.left(x) if goes_left else self.right(x))
        return y


def train_two_ways(learned: bool) -> dict[str, Tensor]:
    """Rank 0 goes left, the others right; then all go left."""
    torch.manual_seed(0)
    model = TwoWays().train()
    model.qconfig = LEARNED if learned else intaglio.get_default_qat_qconfig("x86")  # type: ignore[assignment]
    model = intaglio.prepare_qat(model)
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for step in range(3):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(dist.get_rank()))
        optimizer.zero_grad()
        parallel(x, dist.get_rank() == 0 or step == 2).square().mean().backward()
        optimizer.step()
    return state_of(model)


def train_in_subgroups() -> dict[str, Tensor]:
    """Ranks 0 and 1 train one model, rank 2 another by itself: nobody waits for who is not concerned."""
    together, alone = dist.new_group([0, 1]), dist.new_group([2])
    rank = dist.get_rank()
    model = make(rank // 2)
    parallel = DistributedDataParallel(model, process_group=alone if rank == 2 else together)
    for step in range(1 if rank == 2 else 2):
        parallel(images(seed_of(rank, step))).sum().backward()
    return state_of(model)


def train_with_empty_batch() -> dict[str, Tensor]:
    """Rank 0 sees NaN in its first batch; what it saw counts for nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(intaglio.QuantStub(), nn.Linear(4, 3), intaglio.DeQuantStub()).train()
    model.qconfig = intaglio.get_default_qat_qconfig("x86")  # type: ignore[assignment]
    model = intaglio.prepare_qat(model)
    parallel = DistributedDataParallel(model)
    rank = dist.get_rank()
    x = torch.randn(0 if rank == 0 else 8, 4)
    parallel(x).sum().backward()
    return state_of(model)


def train_with_sync_norm() -> str:
    """What torch says of SyncBatchNorm on several ranks of CPUs."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(make())
    try:
        DistributedDataParallel(model)(images(0))
    except ValueError as error:
        return str(error)
    return ""


# ---- Calibration -------------------------------------------------------------------------------------------


def make_calibrated(graph: bool, minmax: bool, seeds: list[int]) -> nn.Module:
    """A `Net` prepared for static quantization that has seen these batches."""
    torch.manual_seed(0)
    model = Net().eval()
    model.bn.running_mean.uniform_(-1, 1)
    qconfig = intaglio.default_per_channel_qconfig if minmax else intaglio.get_default_qconfig("x86")
    if graph:
        mapping = intaglio.QConfigMapping().set_global(qconfig)
        model = intaglio.prepare_fx(model, mapping, (images(0),))
    else:
        model.qconfig = qconfig  # type: ignore[assignment]
        model = intaglio.prepare(intaglio.fuse_modules(model))
    for seed in seeds:
        model(images(seed))
    return model


def calibrate(graph: bool, minmax: bool, seeds: list[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Take every batch whose turn it is, then merge: the observers' state and what they convert to."""
    mine = seeds[dist.get_rank() :: dist.get_world_size()]
    prepared = make_calibrated(graph, minmax, mine)
    intaglio.synchronize_observers(prepared)
    return prepared.state_dict(), convert(prepared, graph=graph).state_dict()


def calibrate_twice(minmax: bool) -> dict[str, Tensor]:
    """Merging, with more data after it: what was merged before counts once."""
    rank = dist.get_rank()
    prepared = make_calibrated(False, minmax, [rank])
    intaglio.synchronize_observers(prepared)
    prepared(images(2 + rank))
    intaglio.synchronize_observers(prepared)
    intaglio.synchronize_observers(prepared)
    return prepared.state_dict()


class Scores(intaglio.ObserverBase):
    """A user's own observer, of whose state nobody knows how to merge it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_buffer("scores", torch.zeros(3))

    def choose(self) -> intaglio.QParams:
        """Something."""
        return intaglio.QParams(torch.tensor(0.1), torch.tensor(0, dtype=torch.int32), self.dtype)


class Widest(intaglio.MinMaxObserver):
    """A user's own observer that holds more than extremes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_buffer("widest", torch.zeros(()))


def calibrate_oddly(what: str) -> str:
    """The error of `synchronize_observers` for a model that cannot be merged."""
    torch.manual_seed(0)
    wide = what == "different models" and dist.get_rank() == 1
    layers = [nn.Linear(4, 4), nn.Linear(4, 4)] if wide else [nn.Linear(4, 4)]
    model = nn.Sequential(intaglio.QuantStub(), *layers, intaglio.DeQuantStub()).eval()
    kind = {"own": Scores, "derived": Widest}.get(what, intaglio.MinMaxObserver)
    model.qconfig = intaglio.QConfig(  # type: ignore[assignment]
        kind.with_args(dtype="uint8"), intaglio.default_per_channel_qconfig.weight
    )
    model = intaglio.prepare(model)
    model(torch.randn(2, 4))
    try:
        intaglio.synchronize_observers(model)
    except intaglio.ConfigError as error:
        return str(error)
    return ""


def calibrate_fixed() -> list[dict[str, Tensor]]:
    """Observers that hold what was known beforehand, and a range for each channel of an activation."""
    torch.manual_seed(0)
    model = nn.Sequential(intaglio.QuantStub(), nn.Linear(4, 4), intaglio.DeQuantStub()).eval()
    model.qconfig = intaglio.get_default_qconfig("x86")  # type: ignore[assignment]
    model[0].qconfig = intaglio.QConfig(  # type: ignore[assignment]
        intaglio.default_fixed_qparams_range_neg1to1_observer, intaglio.default_per_channel_qconfig.weight
    )
    prepared = intaglio.prepare(model)
    prepared.looking = intaglio.observer.PerChannelMinMaxObserver(ch_axis=1)
    if dist.get_rank() == 0:
        x = torch.tensor([[1.0, -2.0, 3.0, 0.5]])
        prepared[0](x)
        prepared[1](x)
        prepared.looking(x)
    intaglio.synchronize_observers(prepared)
    return [prepared.state_dict()]


def calibrate_trained(learned: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model prepared for training whose ranges were calibrated in eval mode, each rank on its own batch."""
    model = make(qconfig=LEARNED if learned else None).eval()
    model(images(dist.get_rank()))
    intaglio.synchronize_observers(model)
    return state_of(model), convert(model).state_dict()


# ---- Ranks that are lost -----------------------------------------------------------------------------------


def lose_a_rank(rank: int, rendezvous: str, answers: Any) -> None:
    """Rank 1 dies between two steps; rank 0 tells what it got."""
    from tests.processes import meet

    torch.set_num_threads(1)
    meet(rank, 2, rendezvous)
    model = make()
    parallel = DistributedDataParallel(model)
    parallel(images(rank)).sum().backward()
    if rank == 1:
        os._exit(3)
    started = time.monotonic()
    try:
        for _ in range(3):
            parallel(images(rank)).sum().backward()
    except RuntimeError as error:
        answers.put((type(error).__name__, str(error), time.monotonic() - started))
    else:
        answers.put(("", "", 0.0))


def run_script(text: str, port: int) -> None:
    """Run a script as `torchrun` would start it on this rank."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    dist.destroy_process_group()
    asked = {"RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in asked.items()})
    try:
        exec(compile(text, "calibrate.py", "exec"), {"__name__": "__main__"})
    finally:
        for name in asked:
            del os.environ[name]
