"""Fashion-MNIST: 60,000 pictures of clothes to learn from and 10,000 to be judged by, in ten classes.

Read from Debian's package, or from the folder where it is kept. Imports: numpy, torch, and the demo's way to
packages. Neighbours: `train` learns from what is read here.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from intaglio.demo.carriers import cache_folder
from intaglio.demo.debian import FASHION_MNIST, locate_debian
from intaglio.demo.fetching import OnProgress

__all__ = ["Pictures", "read_fashion_mnist"]


class Pictures(NamedTuple):
    """`pixels` are `(N, 1, 28, 28) uint8`, `labels` `(N,) int64` from 0 to 9."""

    pixels: Tensor
    labels: Tensor

    def take(self, count: int | None) -> Pictures:
        """The first `count`; all if that is None."""
        return Pictures(self.pixels[:count], self.labels[:count])


def read_fashion_mnist(on_progress: OnProgress) -> tuple[Pictures, Pictures]:
    """The pictures to learn from and those to be judged by.

    Raises
    ------
    CarrierError
        the package is not on this machine and cannot be fetched.
    """
    files = locate_debian(FASHION_MNIST, cache_folder(), on_progress)
    train, test = (
        Pictures(
            _read_idx(files[f"{part}-images-idx3-ubyte.gz"])[:, None],
            _read_idx(files[f"{part}-labels-idx1-ubyte.gz"]).long(),
        )
        for part in ("train", "t10k")
    )
    return train, test


def _read_idx(path: Path) -> Tensor:
    """An idx file of bytes: two zeros, the code of uint8, how many dimensions, each of them, the data."""
    content = gzip.decompress(path.read_bytes())
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    return torch.from_numpy(values.reshape(shape).copy())
