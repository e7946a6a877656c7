"""Writes small models with inputs and answers, which tools/run_without_torch.py runs where there is no torch.

usage: python tools/write_runtime_models.py FOLDER

Each model is `NAME.safetensors` beside `NAME.npz`: the inputs `x0`, `x1` ... and the outputs `y0` ... of its
program. No activation here has a table that numpy would have to compute.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import intaglio
from intaglio.demo.minilm import MiniLM


class Images(nn.Module):
    """Convolutions with a residual sum, a depthwise layer, pools and a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.depthwise, self.point = nn.Conv2d(16, 16, 5, 1, 2, groups=16), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 10)`."""
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.point(torch.relu(self.depthwise(x))))
        x = nn.functional.max_pool2d(torch.cat([x, x], 2), 2)
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def make() -> Iterator[tuple[str, nn.Module, tuple[Tensor, ...]]]:
    """Names, converted models and inputs."""
    torch.manual_seed(0)
    images = torch.randn(3, 3, 33, 30)
    prepared = intaglio.prepare_fx(Images().eval(), intaglio.get_default_qconfig_mapping("x86"), (images,))
    with torch.no_grad():
        prepared(images)
    yield "images", intaglio.convert_fx(prepared), (images,)
    lstm = nn.Sequential(nn.LSTM(8, 24, 2, bidirectional=True, batch_first=True)).eval()
    yield "sequences", intaglio.quantize_dynamic(lstm), (torch.randn(3, 7, 8),)
    encoder = MiniLM(vocabulary=50, width=48, heads=4, feedforward=96, layers=2, positions=20).eval()
    mask = torch.arange(11)[None] < torch.tensor([[11], [6]])
    yield "texts", intaglio.quantize_dynamic(encoder), (torch.randint(0, 50, (2, 11)), mask)


def flat(result: object) -> list[Tensor]:
    """The tensors of a result."""
    if isinstance(result, Tensor):
        return [result]
    assert isinstance(result, (tuple, list))
    return [tensor for part in result for tensor in flat(part)]


def write(folder: Path) -> None:
    """Write all of them."""
    for name, model, inputs in make():
        intaglio.save(model, folder / f"{name}.safetensors")
        outputs = flat(intaglio.compile(model)(*inputs))
        arrays = {f"x{i}": x.numpy() for i, x in enumerate(inputs)}
        arrays |= {f"y{i}": y.numpy() for i, y in enumerate(outputs)}
        np.savez(folder / f"{name}.npz", **arrays)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
