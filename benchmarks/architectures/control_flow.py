"""Networks that are ordinary Python: forward decides, counts, shares, and answers in structures.

Hard or impossible to trace: decisions on values, loops over the length of the input, modules called twice on
different ranges, named tuples and dataclasses as output, `*args`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.weights import seeded, settle, spread_weights

__all__ = [
    "Detection",
    "Embeddings",
    "make_branching",
    "make_looping",
    "make_many_inputs",
    "make_multi_task",
    "make_paired",
    "make_shared",
]


def trunk(width: int) -> nn.Sequential:
    """Three strided convolutions with BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers)


class Branching(nn.Module):
    """Takes one of two ways by the values of its input: bright images one, dark ones the other."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.stem = trunk(width)
        self.bright = nn.Conv2d(4 * width, 4 * width, 3, padding=1)
        self.dark = nn.Conv2d(4 * width, 4 * width, 5, padding=2)
        self.fc = nn.Linear(4 * width, 100)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        y = self.stem(x)
        y = F.relu(self.bright(y)) if x.sum() > 0 else F.relu(self.dark(y))
        return self.fc(y.mean((2, 3)))


class Looping(nn.Module):
    """A recurrence written as a loop over the steps of the input."""

    def __init__(self, width: int = 96, hidden: int = 640) -> None:
        super().__init__()
        self.embed = nn.Linear(width, hidden)
        self.update = nn.Linear(2 * hidden, hidden)
        self.candidate = nn.Linear(2 * hidden, hidden)
        self.read = nn.Linear(hidden, 64)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, width)` to `(B, T, 64)`."""
        state = torch.zeros(x.shape[0], self.embed.out_features, device=x.device)
        outputs = []
        for i in range(x.shape[1]):
            step = torch.relu(self.embed(x[:, i]))
            both = torch.cat((step, state), dim=-1)
            gate = torch.sigmoid(self.update(both))
            state = gate * state + (1 - gate) * torch.tanh(self.candidate(both))
            outputs.append(self.read(state))
        return torch.stack(outputs, dim=1)


class Shared(nn.Module):
    """One convolution called three times and one Linear twice, on values of different ranges."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.stem = trunk(width // 2)
        self.conv = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(2 * width, 2 * width)
        self.also_linear = self.linear
        self.fc = nn.Linear(2 * width, 100)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        x = self.stem(x)
        x = self.relu(self.conv(x))
        x = self.relu(self.conv(20.0 * x))
        x = self.relu(self.conv(0.02 * x))
        y = x.mean((-1, -2))
        y = torch.tanh(self.linear(y)) + 10.0 * torch.sigmoid(self.also_linear(5.0 * y))
        return self.fc(y)


class Detection(NamedTuple):
    """What `MultiTask` finds: `(N, 20)` logits, `(N, 4)` boxes, and maps by name."""

    logits: Tensor
    boxes: Tensor
    features: dict[str, Tensor]


class MultiTask(nn.Module):
    """Several heads, answered as a named tuple."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.trunk = trunk(width)
        self.heads = nn.ModuleDict(
            {
                "logits": nn.Linear(4 * width, 20),
                "boxes": nn.Sequential(nn.Linear(4 * width, 4), nn.Sigmoid()),
            }
        )

    def forward(self, x: Tensor, return_features: bool = True) -> Detection:
        """`(N, 3, H, W)` to a `Detection`."""
        features = self.trunk(x)
        pooled = F.adaptive_max_pool2d(features, 1).flatten(1)
        outputs = {name: head(pooled) for name, head in self.heads.items()}
        return Detection(**outputs, features={"last": features} if return_features else {})


@dataclass
class Embeddings:
    """What `Paired` finds: an embedding for each image and each text, and their cosines."""

    image: Tensor
    text: Tensor
    cosines: Tensor
    loss: Tensor | None = None


class Paired(nn.Module):
    """Images and texts into one space, answered as a dataclass."""

    def __init__(self, width: int = 48, vocabulary: int = 4000) -> None:
        super().__init__()
        self.visual = trunk(width)
        self.bag = nn.EmbeddingBag(vocabulary, 128, mode="mean")
        self.project_image = nn.Linear(4 * width, 128, bias=False)
        self.project_text = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128, bias=False))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, pixels: Tensor, tokens: Tensor, return_loss: bool = False) -> Embeddings:
        """`(N, 3, H, W)` images and `(N, T) int64` texts to `Embeddings`."""
        image = self.project_image(self.visual(pixels).mean(dim=[-2, -1]))
        text = self.project_text(self.bag(tokens))
        image = image / image.norm(dim=-1, keepdim=True)
        text = text / text.norm(p=2, dim=-1, keepdim=True)
        cosines = self.logit_scale.exp() * image @ text.t()
        loss = None
        if return_loss:
            loss = F.cross_entropy(cosines, torch.arange(cosines.shape[0], device=cosines.device))
        return Embeddings(image=image, text=text, cosines=cosines, loss=loss)


class ManyInputs(nn.Module):
    """Any number of images, each through the same trunk, the mean of all classified."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.trunk = trunk(width)
        self.merge = nn.Linear(4 * width, 256)
        self.fc = nn.Linear(256, 100)

    def forward(self, *args: Tensor, weights: tuple[float, ...] | None = None) -> Tensor:
        """As many `(N, 3, H, W)` as are given to `(N, 100)` logits."""
        pooled = [y.mean((2, 3)) for y in (self.trunk(x) for x in args)]
        if weights is not None:
            assert len(weights) == len(args), "a weight for each input"
            pooled = [w * y for w, y in zip(weights, pooled, strict=True)]
        return self.fc(F.relu(self.merge(sum(pooled) / len(pooled))))


@seeded
def make_branching() -> nn.Module:
    """A decision on values."""
    return settle(Branching(), torch.randn(4, 3, 64, 64))


@seeded
def make_looping() -> nn.Module:
    """A loop over steps."""
    return Looping()


@seeded
def make_shared() -> nn.Module:
    """Modules called more than once."""
    return settle(spread_weights(Shared()), torch.randn(4, 3, 64, 64))


@seeded
def make_multi_task() -> nn.Module:
    """A named tuple as output."""
    return settle(MultiTask(), torch.randn(4, 3, 64, 64))


@seeded
def make_paired() -> nn.Module:
    """A dataclass as output."""
    return settle(Paired(), torch.randn(4, 3, 64, 64), torch.randint(1, 4000, (4, 12)))


@seeded
def make_many_inputs() -> nn.Module:
    """Any number of inputs."""
    images = (torch.randn(4, 3, 64, 64), torch.randn(4, 3, 64, 64))
    return settle(ManyInputs(), *images)
