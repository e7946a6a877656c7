"""Several processes train and calibrate one model: real ones, on the CPU, by gloo.

Threads of torch.ao users that these tests stand for: pytorch/pytorch#33648, #35182, #38081, #85627, #32082
(ranges and flags that no rank shared, buffers that DistributedDataParallel could not copy), #45970 and #43592
(SyncBatchNorm lost its qconfig).
"""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

import intaglio
from intaglio import ConfigError, ConversionError
from tests import rank_jobs
from tests.processes import PATIENCE, RankError, Ranks
from tests.rank_jobs import QCONFIGS, seed_of
from tests.training_models import Net, convert, differences, images, make, rounders, state_of, step

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "training-on-many-processes.md"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Three processes for all tests of this file."""
    made = Ranks(3, tmp_path_factory.mktemp("ranks"))
    yield made
    made.close()


def assert_same(found: list[dict[str, Any]]) -> None:
    """Every rank has what the first has, to the bit."""
    for other in found[1:]:
        assert differences(found[0], other) == []


# ---- Training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "graph", "world"),
    [
        ("default", False, 2),
        ("default", True, 3),
        ("learned", False, 3),
        ("learned", True, 2),
        ("learned weights", False, 2),
    ],
)
def test_ranks_agree_and_know_all_data(ranks: Ranks, kind: str, graph: bool, world: int) -> None:
    found = ranks.run(rank_jobs.train, world, kind, graph, 3)
    for step_done in range(3):
        for moment in range(2):
            states = [rank["states"][step_done][moment] for rank in found]
            assert_same(states)
            ranges = {name: value for name, value in states[0].items() if "counts" not in name}
            unseen = ("min_val", "max_val") if "learned" in kind else ()
            assert all(
                bool(torch.isfinite(value).all())
                for name, value in ranges.items()
                if not name.endswith(unseen)
            )
    assert_same([rank["converted"] for rank in found])
    # Each rank's own data made its loss.
    assert len({rank["losses"][0] for rank in found}) == world

    # After the first forward all hold the mean of what each rank would hold alone.
    alone = []
    for rank in range(world):
        model = make(qconfig=QCONFIGS[kind], graph=graph)
        model(images(seed_of(rank, 0)))
        alone.append(state_of(model))
    together = found[0]["states"][0][0]
    compared = 0
    for name, value in together.items():
        if name.endswith(("running_mean", "running_var", "min_val", "max_val")) or (
            kind == "learned" and name.endswith("scale") and "weight_fake_quant" not in name
        ):
            stacked = torch.stack([state[name] for state in alone]).double()
            if torch.isfinite(stacked).all():
                torch.testing.assert_close(value.double(), stacked.mean(0), rtol=1e-6, atol=1e-7)
                compared += bool((stacked != stacked[0]).any())
    assert compared >= 6  # not one rank's alone


@pytest.mark.parametrize("kind", ["extremes", "histogram"])
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_ranges_of_other_observers_agree(ranks: Ranks, kind: str, graph: bool) -> None:
    found = ranks.run(rank_jobs.train, 2, kind, graph, 3)
    last = [
        {
            name: value
            for name, value in rank["states"][-1][0].items()
            if name.endswith(("scale", "zero_point"))
        }
        for rank in found
    ]
    assert_same(last)
    assert_same([rank["converted"] for rank in found])
    if kind == "extremes":
        lowest = min(
            float(images(seed_of(rank, step_done)).min()) for rank in range(2) for step_done in range(3)
        )
        prefix = "quant.activation_post_process.activation_post_process."
        assert [float(rank["states"][-1][1][prefix + "min_val"]) for rank in found] == [lowest, lowest]


def test_ranges_follow_the_mean_over_many_steps(ranks: Ranks) -> None:
    """The input's range is what one process has that averages the ranks' extremes in each step."""
    found = ranks.run(rank_jobs.train, 2, "default", False, 4)
    low, high = torch.tensor(0.0), torch.tensor(0.0)
    for step_done in range(4):
        batches = [images(seed_of(rank, step_done)) for rank in range(2)]
        now = (
            torch.stack([x.min() for x in batches]).mean(),
            torch.stack([x.max() for x in batches]).mean(),
        )
        part = 1.0 if step_done == 0 else 0.01
        low, high = low + part * (now[0] - low), high + part * (now[1] - high)
    state = found[1]["states"][-1][1]
    prefix = "quant.activation_post_process.activation_post_process."
    torch.testing.assert_close(state[prefix + "min_val"], low)
    torch.testing.assert_close(state[prefix + "max_val"], high)


@pytest.mark.parametrize(
    "options",
    [{"forward_sync_buffers": False}, {"static_graph": True}, {"gradient_as_bucket_view": True}],
    ids=lambda options: next(iter(options)),
)
def test_options_of_ddp(ranks: Ranks, options: dict[str, bool]) -> None:
    found = ranks.run(rank_jobs.train, 2, "learned weights", False, 2, options)
    plain = ranks.run(rank_jobs.train, 2, "learned weights", False, 2)
    assert_same([rank["states"][-1][1] for rank in found])
    assert differences(found[0]["states"][-1][1], plain[0]["states"][-1][1]) == []


def test_two_forwards_before_a_backward(ranks: Ranks) -> None:
    """What ranks agree on is changed in place after a forward; its backward must not mind."""
    found = ranks.run(rank_jobs.train_on_two_forwards, 2)
    for states in zip(*found, strict=True):
        assert_same(list(states))


@pytest.mark.parametrize("learned", [False, True])
def test_ranks_that_go_different_ways(ranks: Ranks, learned: bool) -> None:
    """A range or a learned scale that starts on one rank alone starts on all."""
    assert_same(ranks.run(rank_jobs.train_two_ways, 3, learned))


def test_groups_of_ranks_do_not_wait_for_others(ranks: Ranks) -> None:
    found = ranks.run(rank_jobs.train_in_subgroups, 3)
    assert_same(found[:2])
    model = make(1)
    model(images(seed_of(2, 0))).sum().backward()
    assert differences(found[2], state_of(model)) == []


def test_a_rank_without_data(ranks: Ranks) -> None:
    """An empty batch moves no range, and takes nothing from what the others saw."""
    found = ranks.run(rank_jobs.train_with_empty_batch, 2)
    assert_same(found)
    assert torch.isfinite(found[0]["1.activation_post_process.activation_post_process.min_val"])


# ---- SyncBatchNorm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "fused", "after"])
def test_sync_batch_norm(when: str) -> None:
    """pytorch/pytorch#45970, #35182, #43592: converting batch norms lost qconfigs and fake quantizers."""
    torch.manual_seed(0)
    model: nn.Module = Net().train()
    model.qconfig = intaglio.get_default_qat_qconfig("x86")  # type: ignore[assignment]
    to_sync = nn.SyncBatchNorm.convert_sync_batchnorm
    if when == "before":
        model = to_sync(model)
    model = intaglio.fuse_modules_qat(model)
    if when == "fused":
        model = to_sync(model)
    prepared = intaglio.prepare_qat(model)
    if when == "after":
        qconfigs = {path: vars(part).get("qconfig") for path, part in prepared.named_modules()}
        found = [path for path, _ in rounders(prepared)]
        prepared = to_sync(prepared)
        assert {path: vars(part).get("qconfig") for path, part in prepared.named_modules()} == qconfigs
        assert [path for path, _ in rounders(prepared)] == found
    assert sum(isinstance(part, nn.SyncBatchNorm) for part in prepared.modules()) == 2
    like = make()
    for seed in (1, 2):
        losses = [
            step(each, torch.optim.SGD(each.parameters(), lr=1e-2), images(seed)) for each in (prepared, like)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    intaglio.freeze_bn_stats(prepared)
    assert not any(part.training for part in prepared.modules() if isinstance(part, nn.SyncBatchNorm))
    x = images(3)
    y = prepared.eval()(x)
    converted = convert(prepared)
    assert type(converted.conv).__name__ == "QuantizedConv"
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in converted.modules())
    torch.testing.assert_close(converted(x), y, rtol=0, atol=0.05)


def test_sync_batch_norm_in_a_graph() -> None:
    torch.manual_seed(0)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(Net().train())
    mapping = intaglio.get_default_qat_qconfig_mapping("x86")
    prepared = intaglio.prepare_qat_fx(model, mapping, (images(0),))
    assert sum(isinstance(part, nn.SyncBatchNorm) for part in prepared.modules()) == 2
    step(prepared, torch.optim.SGD(prepared.parameters(), lr=1e-2), images(1))
    converted = convert(prepared, graph=True)
    assert type(converted.conv).__name__ == "QuantizedConv"
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in converted.modules())


def test_a_lone_norm_made_anew_is_noticed() -> None:
    """torch's conversion makes a new module and leaves hooks behind: nothing rounds what it gives."""
    torch.manual_seed(0)
    layers = [intaglio.QuantStub(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), intaglio.DeQuantStub()]
    model = nn.Sequential(*layers).train()
    model.qconfig = intaglio.get_default_qat_qconfig("x86")  # type: ignore[assignment]
    made_anew = nn.SyncBatchNorm.convert_sync_batchnorm(intaglio.prepare_qat(model))
    made_anew(images(1))
    with pytest.raises(ConversionError, match=r"'1' \(SyncBatchNorm\).* before you prepare"):
        intaglio.convert(made_anew.eval())


def test_sync_batch_norm_of_many_cpus_is_refused_by_torch(ranks: Ranks) -> None:
    """On the CPU torch has no such norm: plain norms, averaged by every forward, stand for it."""
    for message in ranks.run(rank_jobs.train_with_sync_norm, 2):
        assert "SyncBatchNorm layers only work with GPU modules" in message


# ---- Calibration -------------------------------------------------------------------------------------------

BATCHES = [3, 1, 4, 6, 5, 9, 2]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("minmax", [False, True], ids=["histogram", "minmax"])
def test_sharded_calibration_is_that_of_one_process(
    ranks: Ranks, world: int, graph: bool, minmax: bool
) -> None:
    whole = rank_jobs.make_calibrated(graph, minmax, BATCHES)
    found = ranks.run(rank_jobs.calibrate, world, graph, minmax, BATCHES)
    expected, converted = whole.state_dict(), convert(whole, graph=graph).state_dict()
    for state, quantized in found:
        assert differences(state, expected) == []
        assert differences(quantized, converted) == []


@pytest.mark.parametrize("minmax", [False, True], ids=["histogram", "minmax"])
def test_a_rank_that_got_no_batch(ranks: Ranks, minmax: bool) -> None:
    whole = rank_jobs.make_calibrated(False, minmax, [3, 1])
    found = ranks.run(rank_jobs.calibrate, 3, False, minmax, [3, 1])
    for state, quantized in found:
        assert differences(state, whole.state_dict()) == []
        assert differences(quantized, convert(whole).state_dict()) == []


@pytest.mark.parametrize("minmax", [False, True], ids=["histogram", "minmax"])
def test_merging_again_after_more_data(ranks: Ranks, minmax: bool) -> None:
    whole = rank_jobs.make_calibrated(False, minmax, [0, 1, 2, 3]).state_dict()
    for state in ranks.run(rank_jobs.calibrate_twice, 2, minmax):
        assert differences(state, whole) == []


def test_ranges_per_channel_and_known_ones_merge(ranks: Ranks) -> None:
    (first,), (second,) = ranks.run(rank_jobs.calibrate_fixed, 2)
    assert differences(first, second) == []
    assert second["looking.max_val"].tolist() == [1.0, -2.0, 3.0, 0.5]


@pytest.mark.parametrize("learned", [False, True])
def test_calibration_of_a_model_that_will_train(ranks: Ranks, learned: bool) -> None:
    """Fake quantizers round by what was merged, not by what their own rank saw."""
    found = ranks.run(rank_jobs.calibrate_trained, 2, learned)
    assert_same([state for state, _ in found])
    assert_same([quantized for _, quantized in found])
    alone = make(qconfig=QCONFIGS["learned" if learned else "default"]).eval()
    alone(images(0))
    assert differences(found[0][0], state_of(alone)) != []


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "different models",
            "the ranks' models have different observers: prepare the same model on each rank",
        ),
        ("own", "'0.activation_post_process': what a Scores saw cannot be merged over ranks"),
        ("derived", "'0.activation_post_process': what a Widest saw cannot be merged over ranks"),
    ],
)
def test_what_cannot_be_merged_is_named(ranks: Ranks, what: str, message: str) -> None:
    for found in ranks.run(rank_jobs.calibrate_oddly, 2, what):
        assert message in found


def test_synchronizing_without_ranks() -> None:
    with pytest.raises(ConfigError, match="init_process_group"):
        intaglio.synchronize_observers(rank_jobs.make_calibrated(False, True, [1]))


def test_a_model_without_observers_has_nothing_to_merge(ranks: Ranks) -> None:
    with pytest.raises(RankError, match=r"ConfigError: .*prepare"):
        ranks.run(intaglio.synchronize_observers, 2, nn.Linear(2, 2))


# ---- Ranks that are lost -----------------------------------------------------------------------------------


def test_a_rank_that_dies_is_missed(tmp_path: Path) -> None:
    context = mp.get_context("spawn")
    answers = context.Queue()
    both = [
        context.Process(target=rank_jobs.lose_a_rank, args=(rank, str(tmp_path / "meeting"), answers))
        for rank in range(2)
    ]
    for process in both:
        process.start()
    try:
        kind, message, seconds = answers.get(timeout=PATIENCE)
    finally:
        for process in both:
            process.join(10)
            process.kill()
    assert (kind, both[1].exitcode) == ("RuntimeError", 3)
    assert message
    assert seconds < 30


RAISES = """
import torch, torch.distributed as dist, intaglio
from datetime import timedelta
from torch import nn
torch.set_num_threads(1)
dist.init_process_group("gloo", timeout=timedelta(seconds=20))
model = nn.Sequential(intaglio.QuantStub(), nn.Linear(4, 4), intaglio.DeQuantStub()).train()
model.qconfig = intaglio.get_default_qat_qconfig("x86")
model = nn.parallel.DistributedDataParallel(intaglio.prepare_qat(model))
for step in range(3):
    if dist.get_rank() == 1 and step == 1:
        raise ValueError("a bad batch")
    model(torch.randn(2, 4)).sum().backward()
"""


def torchrun(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script on two ranks, as the shell command does."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONWARNINGS": "default",
    }
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            script,
            *arguments,
        ],
        cwd=script.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_rank_that_raises_ends_the_run(tmp_path: Path) -> None:
    script = tmp_path / "raises.py"
    script.write_text(RAISES)
    done = torchrun(script)
    assert done.returncode != 0
    assert "ValueError: a bad batch" in done.stderr


# ---- The page ----------------------------------------------------------------------------------------------


def script_of(page: str, title: str) -> str:
    """A block of a page that has a title: a file that the reader is to save."""
    found = re.search(rf'^```python title="{re.escape(title)}"\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_page_trains_under_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(script_of(PAGE.read_text(), "train.py"))
    done = torchrun(script)
    assert done.returncode == 0, done.stderr
    assert "intaglio" not in done.stderr  # no warning of ours
    quantized = intaglio.load(tmp_path / "model.safetensors")
    assert quantized(torch.randn(2, 3, 8, 8)).shape == (2, 4)


def test_the_page_calibrates(ranks: Ranks) -> None:
    """On ranks that are there already: starting others takes seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks.run(rank_jobs.run_script, 2, script_of(PAGE.read_text(), "calibrate.py"), port)
