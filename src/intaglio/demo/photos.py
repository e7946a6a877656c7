"""Twenty ImageNet photos with their labels, and how a classifier sees them.

From the wheel foolbox, whose file names carry the labels; the photos are under ImageNet's terms.
Imports: numpy, Pillow, torch. Neighbours: `efficientnet` classifies them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intaglio.demo.errors import CarrierError

__all__ = ["read_photos"]

SIZE, MARGIN = 224, 32
_LABEL = re.compile(r"imagenet_\d+_(\d+)\.jpg")


def read_photos(files: Mapping[str, Path]) -> tuple[Tensor, Tensor]:
    """The photos, `(20, 3, 224, 224) float32` in about -1..1, and their labels, `(20,) int64`.

    The middle of each photo, `224 / 256` of its shorter side, resized with a bicubic filter.

    Raises
    ------
    CarrierError
        a file is missing or cannot be decoded.
    """
    images, labels = [], []
    for name, path in sorted(files.items()):
        match = _LABEL.fullmatch(name)
        if match is None:
            continue
        try:
            with Image.open(path) as photo:
                images.append(_prepare(photo.convert("RGB")))
        except OSError as error:
            raise CarrierError(f"{path}: not a photo that can be read: {error}") from error
        labels.append(int(match[1]))
    if not images:
        raise CarrierError(f"no photos among {sorted(files)}")
    return torch.stack(images), torch.tensor(labels)


def _prepare(photo: Image.Image) -> Tensor:
    width, height = photo.size
    side = int(SIZE / (SIZE + MARGIN) * min(width, height))
    left, top = (width - side) // 2, (height - side) // 2
    middle = photo.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(middle, dtype=np.float32).copy())
    return ((pixels - 127.0) / 128.0).permute(2, 0, 1).contiguous()
