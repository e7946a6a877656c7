"""A one-stage detector: features at several scales, one head for all, boxes relative to anchors.

Hard to trace: dictionaries between modules, lists zipped and enumerated, anchors made from shapes, a
dictionary of lists as the output.
Source: Lin et al., "Feature Pyramid Networks" (2017) and "Focal Loss" (2017).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.weights import seeded, settle, spread_weights

__all__ = ["Detector", "make_detector"]


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Backbone(nn.Module):
    """Features after each of the named stages."""

    def __init__(self, widths: tuple[int, ...], return_layers: dict[str, str]) -> None:
        super().__init__()
        self.return_layers = return_layers
        self.stem = conv_bn_relu(3, widths[0], 2)
        inputs = widths[0]
        for stage, width in enumerate(widths, start=1):
            self.add_module(
                f"layer{stage}", nn.Sequential(conv_bn_relu(inputs, width, 2), conv_bn_relu(width, width))
            )
            inputs = width

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """`(N, 3, H, W)` to a map for each returned layer."""
        out: dict[str, Tensor] = OrderedDict()
        for name, module in self.named_children():
            x = module(x)
            if name in self.return_layers:
                out[self.return_layers[name]] = x
        return out


class FeaturePyramid(nn.Module):
    """Coarse features added to fine ones, all of one width."""

    def __init__(self, inputs: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in inputs)
        self.layer_blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in inputs)

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Maps by name, fine to coarse, to as many of `width` channels and one more, pooled."""
        names = list(x.keys())
        maps = list(x.values())
        last_inner = self.inner_blocks[-1](maps[-1])
        results = [self.layer_blocks[-1](last_inner)]
        for index in range(len(maps) - 2, -1, -1):
            lateral = self.inner_blocks[index](maps[index])
            top_down = F.interpolate(last_inner, size=lateral.shape[-2:], mode="nearest")
            last_inner = lateral + top_down
            results.insert(0, self.layer_blocks[index](last_inner))
        names.append("pool")
        results.append(F.max_pool2d(results[-1], kernel_size=1, stride=2, padding=0))
        return OrderedDict(zip(names, results, strict=True))


class Head(nn.Module):
    """Scores and offsets for each anchor; one set of weights, a learned factor for each level."""

    def __init__(self, width: int, anchors: int, classes: int, levels: int) -> None:
        super().__init__()
        self.classes = classes
        self.tower = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor(1.0 + 0.2 * i)) for i in range(levels))
        self.cls_logits = nn.Conv2d(width, anchors * classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(width, anchors * 4, 3, padding=1)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """A list of `(N, width, H, W)` to lists of `(N, H * W * anchors, classes)` and `(..., 4)`."""
        logits, offsets = [], []
        for level, feature in enumerate(features):
            x = feature
            for conv in self.tower:
                x = F.relu(conv(x))
            for into, conv, size in (
                (logits, self.cls_logits, self.classes),
                (offsets, self.bbox_pred, 4),
            ):
                y = conv(x)
                n, _, h, w = y.shape
                y = y.view(n, -1, size, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, size)
                into.append(y * self.scales[level] if size == 4 else y)
        return logits, offsets


class Detector(nn.Module):
    """The network."""

    def __init__(self, *, classes: int = 20) -> None:
        super().__init__()
        self.backbone = Backbone((32, 48, 96, 192), {"layer2": "c3", "layer3": "c4", "layer4": "c5"})
        self.fpn = FeaturePyramid((48, 96, 192), 96)
        self.ratios = (0.5, 1.0, 2.0)
        self.head = Head(96, len(self.ratios), classes, 4)

    def make_anchors(self, features: list[Tensor], image_size: torch.Size) -> list[Tensor]:
        """`(H * W * anchors, 4)` centres and sizes for each level, in pixels."""
        anchors = []
        for feature in features:
            h, w = feature.shape[-2:]
            step_y, step_x = image_size[0] // h, image_size[1] // w
            ys = (torch.arange(h, dtype=torch.float32, device=feature.device) + 0.5) * step_y
            xs = (torch.arange(w, dtype=torch.float32, device=feature.device) + 0.5) * step_x
            grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
            shapes = [(2.0 * step_x * ratio**0.5, 2.0 * step_y / ratio**0.5) for ratio in self.ratios]
            level = [
                torch.stack(
                    (grid_x, grid_y, torch.full_like(grid_x, wide), torch.full_like(grid_y, high)), -1
                )
                for wide, high in shapes
            ]
            anchors.append(torch.stack(level, dim=2).reshape(-1, 4))
        return anchors

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        """`(N, 3, H, W)` to boxes `(N, anchors, 4)` and scores `(N, anchors, classes)` at each level."""
        features = list(self.fpn(self.backbone(images)).values())
        logits, offsets = self.head(features)
        anchors = self.make_anchors(features, images.shape[-2:])
        result: dict[str, list[Tensor]] = {"boxes": [], "scores": []}
        for level_logits, level_offsets, level_anchors in zip(logits, offsets, anchors, strict=True):
            centres = level_anchors[:, :2] + 0.1 * level_offsets[..., :2] * level_anchors[:, 2:]
            sizes = level_anchors[:, 2:] * torch.exp(torch.clamp(0.2 * level_offsets[..., 2:], max=4.0))
            result["boxes"].append(torch.cat((centres - sizes / 2, centres + sizes / 2), dim=-1))
            result["scores"].append(level_logits.sigmoid())
        return result


@seeded
def make_detector() -> nn.Module:
    """Three levels of features and a pooled fourth."""
    return settle(spread_weights(Detector()), torch.randn(2, 3, 128, 128))
