"""A hierarchical transformer with shifted windows.

Hard to trace: shapes unpacked and divided, padding only where it is needed, a roll, and an attention mask
that forward makes for the size of its input.
Source: Liu et al., "Swin Transformer" (2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.vision_transformer import DropPath, Mlp
from benchmarks.architectures.weights import seeded

__all__ = ["Swin", "make_swin"]


def window_partition(x: Tensor, ws: int) -> Tensor:
    """`(B, H, W, C)` to `(B * windows, ws, ws, C)`."""
    b, h, w, c = x.shape
    x = x.view(b, h // ws, ws, w // ws, ws, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, ws, ws, c)


def window_reverse(windows: Tensor, ws: int, h: int, w: int) -> Tensor:
    """What `window_partition` was given."""
    b = int(windows.shape[0] / (h * w / ws / ws))
    x = windows.view(b, h // ws, w // ws, ws, ws, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)


class WindowAttention(nn.Module):
    """Attention inside each window, with a learned bias for each relative position."""

    def __init__(self, width: int, ws: int, heads: int) -> None:
        super().__init__()
        self.ws = ws
        self.num_heads = heads
        self.scale = (width // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(0.2 * torch.randn((2 * ws - 1) ** 2, heads))
        places = torch.stack(torch.meshgrid(torch.arange(ws), torch.arange(ws), indexing="ij")).flatten(1)
        steps = places[:, :, None] - places[:, None, :] + ws - 1
        self.register_buffer("relative_position_index", steps[0] * (2 * ws - 1) + steps[1])
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(B * windows, ws * ws, width)` to the same; `mask` is `(windows, ws * ws, ws * ws)`."""
        bw, n, c = x.shape
        qkv = self.qkv(x).reshape(bw, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(self.ws * self.ws, self.ws * self.ws, -1).permute(2, 0, 1).contiguous()
        attn = attn + bias.unsqueeze(0)
        if mask is not None:
            windows = mask.shape[0]
            attn = attn.view(bw // windows, windows, self.num_heads, n, n)
            attn = attn + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, self.num_heads, n, n)
        attn = self.softmax(attn)
        return self.proj((attn @ v).transpose(1, 2).reshape(bw, n, c))


class SwinBlock(nn.Module):
    """Attention in windows, shifted in every other block, and an MLP."""

    def __init__(self, width: int, heads: int, ws: int, shift: int) -> None:
        super().__init__()
        assert 0 <= shift < ws, "the shift is less than a window"
        self.ws = ws
        self.shift = shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, ws, heads)
        self.drop_path = DropPath(0.1)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)

    def make_mask(self, h: int, w: int) -> Tensor:
        """Minus a hundred between places that only the roll has brought together."""
        regions = torch.zeros((1, h, w, 1))
        parts = (slice(0, -self.ws), slice(-self.ws, -self.shift), slice(-self.shift, None))
        count = 0
        for rows in parts:
            for columns in parts:
                regions[:, rows, columns, :] = count
                count += 1
        windows = window_partition(regions, self.ws).view(-1, self.ws * self.ws)
        mask = windows.unsqueeze(1) - windows.unsqueeze(2)
        return mask.masked_fill(mask != 0, -100.0).masked_fill(mask == 0, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, H, W, width)` to the same."""
        _, h, w, c = x.shape
        shortcut = x
        x = self.norm1(x)
        pad_b = (self.ws - h % self.ws) % self.ws
        pad_r = (self.ws - w % self.ws) % self.ws
        if pad_r > 0 or pad_b > 0:
            x = F.pad(x, (0, 0, 0, pad_r, 0, pad_b))
        _, hp, wp, _ = x.shape
        mask = None
        if self.shift > 0:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
            mask = self.make_mask(hp, wp)
        windows = window_partition(x, self.ws).view(-1, self.ws * self.ws, c)
        windows = self.attn(windows, mask=mask)
        x = window_reverse(windows.view(-1, self.ws, self.ws, c), self.ws, hp, wp)
        if self.shift > 0:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        if pad_r > 0 or pad_b > 0:
            x = x[:, :h, :w, :].contiguous()
        x = shortcut + self.drop_path(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Each two by two places to one of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, H, W, width)` to `(B, H / 2, W / 2, 2 width)`; odd sizes are padded."""
        h, w = x.shape[1], x.shape[2]
        if h % 2 == 1 or w % 2 == 1:
            x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        x0 = x[:, 0::2, 0::2, :]
        x1 = x[:, 1::2, 0::2, :]
        x2 = x[:, 0::2, 1::2, :]
        x3 = x[:, 1::2, 1::2, :]
        return self.reduction(self.norm(torch.cat([x0, x1, x2, x3], -1)))


class Swin(nn.Module):
    """The network."""

    def __init__(self, *, width: int = 64, depths: tuple[int, ...] = (2, 2, 2), ws: int = 7) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 4, 4)
        self.patch_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList()
        for stage, depth in enumerate(depths):
            dim = width << stage
            blocks = [SwinBlock(dim, dim // 32, ws, 0 if i % 2 == 0 else ws // 2) for i in range(depth)]
            if stage < len(depths) - 1:
                blocks.append(PatchMerging(dim))
            self.layers.append(nn.Sequential(*blocks))
        self.norm = nn.LayerNorm(width << len(depths) - 1)
        self.head = nn.Linear(width << len(depths) - 1, 100)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 3, H, W)` to `(B, 100)` logits."""
        x = self.patch_norm(self.patch_embed(x).permute(0, 2, 3, 1))
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return self.head(x.mean([1, 2]))


@seeded
def make_swin() -> nn.Module:
    """Three stages, windows of seven, which no size of input here is a multiple of throughout."""
    return Swin()
