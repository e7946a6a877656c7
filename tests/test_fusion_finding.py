"""Groups that a model's dataflow shows: traced or watched, never one that would change the results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intaglio import ConversionError, find_fusable_groups, fuse_modules, fused_groups
from intaglio.fusion import FusionWarning
from tests.test_fusion import Block, Net, image, trained


def check_found(model: nn.Module, x: Tensor, expected: list[list[str]], **how: Any) -> nn.Module:
    model.eval()
    assert find_fusable_groups(model, **how) == expected
    if not expected:
        return model
    fused = fuse_modules(model, **how)
    assert fused_groups(fused) == expected
    result, wanted = fused(x), model(x)
    for found, value in zip(*((t,) if isinstance(t, Tensor) else t for t in (result, wanted)), strict=True):
        assert torch.allclose(found, value, atol=1e-4)
    return fused


both_ways = pytest.mark.parametrize("watched", [False, True])


def how(watched: bool, x: Tensor) -> dict[str, Any]:
    return {"example_inputs": x} if watched else {}


@both_ways
def test_blocks_are_found_in_order(watched: bool) -> None:
    x = image(2)
    groups = [["first.conv", "first.bn", "first.relu"], ["second.conv", "second.bn", "second.relu"]]
    check_found(Net(), x, groups, **how(watched, x))


@both_ways
def test_sequences_of_every_kind(watched: bool) -> None:
    model = nn.Sequential(
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(6, 4, 2),
        nn.BatchNorm2d(4),
        nn.ReLU6(),
        nn.Flatten(),
        nn.Linear(36, 5),
        nn.BatchNorm1d(5),
        nn.Dropout(),
        nn.Tanh(),
    )
    x = image(2)
    expected = [["0", "1"], ["2", "3"], ["5", "6", "7"], ["9", "10"]]
    check_found(model, x, expected, **how(watched, x))


class Residual(nn.Module):
    """As in ResNet: one ReLU for two places, one of them after a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), trained(nn.BatchNorm2d(4))
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), trained(nn.BatchNorm2d(4))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x)


@both_ways
def test_a_module_used_twice_is_not_fused(watched: bool) -> None:
    # pytorch/ao#4478, pytorch/pytorch#142035
    x = image(2)
    check_found(Residual(), x, [["conv1", "bn1"], ["conv2", "bn2"]], **how(watched, x))


class Skips(nn.Module):
    """As in CRAFT: what a batch norm gives is taken by an in-place ReLU and again later."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), trained(nn.BatchNorm2d(4))
        self.relu, self.next, self.act = nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Hardswish()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.bn(self.conv(x))
        y = self.next(self.relu(skip))
        return torch.cat([skip, self.act(y)], 1), y


@both_ways
def test_an_output_used_elsewhere_is_not_fused_away(watched: bool) -> None:
    x = image(2)
    check_found(Skips(), x, [["conv", "bn"]], **how(watched, x))


@both_ways
def test_an_in_place_activation_takes_what_later_uses_see(watched: bool) -> None:
    # CRAFT: the skip is the very tensor that the in-place ReLU of the next stage changes.
    class InPlace(Skips):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

    x = image(2)
    group = ["conv", "bn", "relu"] if watched else ["conv", "bn"]
    check_found(InPlace(), x, [group], **how(watched, x))


@both_ways
def test_a_head_that_is_used_on_several_inputs_keeps_its_chain(watched: bool) -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.loose = Block(), nn.Conv2d(4, 4, 1)
            self.after = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x) + self.head(x * 2) + self.after(self.loose(x)) + self.loose(x)

    x = image(2)
    check_found(Pyramid(), x, [["head.conv", "head.bn", "head.relu"]], **how(watched, x))


@both_ways
def test_functions_operators_and_attributes_count_as_uses(watched: bool) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for index in range(4):
                setattr(self, f"conv{index}", nn.Conv2d(4, 4, 1))
                setattr(self, f"act{index}", nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv0(x)
            x = self.act0(y) + F.relu(y)
            y = self.conv1(x)
            x = self.act1(y) + y.mean()
            y = self.conv2(x)
            x = self.act2(y) + y.shape[0] + y.mT
            y = self.conv3(x)
            return self.act3(y) * y.shape[0] if watched else self.act3(y)

    x = image(2)
    check_found(Mixed(), x, [["conv3", "act3"]], **how(watched, x))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn, self.relu, self.block = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), Block()
        self.layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            return x
        taps = []
        for layer in self.layers:
            x = layer(x)
            taps.append(x)
        return self.block(self.relu(self.bn(self.stem(x)))) + taps[0]


def test_control_flow_is_looked_into_or_watched() -> None:
    # pytorch/pytorch#118634, #74842
    model, x = Branching().eval(), image(2)
    with pytest.warns(FusionWarning, match=r"could not trace '' .TraceError.*pass example_inputs"):
        assert find_fusable_groups(model) == [["block.conv", "block.bn", "block.relu"]]
    # The plain Sequential is run piece by piece, and one of the pieces is used elsewhere.
    groups = [["stem", "bn", "relu"], ["block.conv", "block.bn", "block.relu"]]
    check_found(model, x, groups, example_inputs=x)


def test_a_part_with_control_flow_is_opaque_to_the_rest() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), Branching(), nn.Conv2d(4, 4, 1), nn.ReLU()).eval()
    with pytest.warns(FusionWarning, match=r"could not trace '2'"):
        groups = find_fusable_groups(model)
    assert groups == [["0", "1"], ["2.block.conv", "2.block.bn", "2.block.relu"], ["3", "4"]]


def test_finding_changes_nothing() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.seen = nn.Conv2d(4, 4, 1), nn.ReLU(), None

        def forward(self, x: Tensor) -> Tensor:
            self.seen = x
            return self.relu(self.conv(x))

    model = Keeping().eval()
    find_fusable_groups(model)
    assert model.seen is None
    find_fusable_groups(model, image(2))
    assert not model.conv._forward_hooks
    assert not model.conv._forward_pre_hooks


def test_modules_that_cannot_be_folded_or_stand_twice_are_left() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(4, 4, 1), nn.ReLU()
            self.also = self.conv
            self.other, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.other(self.relu(self.conv(x))))

    with pytest.raises(ConversionError, match="nothing to fuse was found"):
        fuse_modules(Twice().eval())
    assert find_fusable_groups(Twice().eval()) == []


def test_weights_that_are_read_from_outside_stay_where_they_are() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.act, self.down = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.act(self.up(x)), self.up.weight.t())

    assert find_fusable_groups(Tied().eval()) == []


def test_train_mode_fuses_what_needs_no_folding() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
    assert find_fusable_groups(model) == [["1", "2"], ["3", "4"]]


def test_what_cannot_be_traced_at_all_says_what_to_do() -> None:
    class Only(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(4, 4, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.conv(x)) if x.sum() > -1e9 else x

    with pytest.raises(ConversionError, match=r"could not trace ''.*pass example_inputs, or name the groups"):
        fuse_modules(Only().eval())
    x = image(2)
    check_found(Only(), x, [["conv", "relu"]], example_inputs=(x,))
    with pytest.raises(ConversionError, match=r"takes an nn.Module"):
        find_fusable_groups("model")  # type: ignore[arg-type]
