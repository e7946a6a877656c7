"""A vision transformer: class token, positions that follow the image's size, LayerScale and DropPath.

Hard to trace: an early return on shapes, an interpolation inside a branch, assertions on sizes.
Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.weights import seeded

__all__ = ["DropPath", "VisionTransformer", "make_vision_transformer", "make_vision_transformer_by_hand"]


def drop_path(x: Tensor, drop_prob: float = 0.0, training: bool = False) -> Tensor:
    """Drop whole samples' residuals while training."""
    if drop_prob == 0.0 or not training:
        return x
    keep = 1.0 - drop_prob
    mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
    return x * mask / keep


class DropPath(nn.Module):
    """`drop_path` as a module."""

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return drop_path(x, self.drop_prob, self.training)


class LayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int, initial: float, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace
        self.gamma = nn.Parameter(initial * (0.5 + torch.rand(width)))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., width)` to the same."""
        return x.mul_(self.gamma) if self.inplace else x * self.gamma


class Attention(nn.Module):
    """Multi-head attention over one fused projection; `fused` leaves the softmax to torch."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = width // heads
        self.scale = self.head_dim**-0.5
        self.fused_attn = fused
        self.qkv = nn.Linear(width, width * 3)
        self.q_norm = nn.LayerNorm(self.head_dim)
        self.k_norm = nn.LayerNorm(self.head_dim)
        self.attn_drop = nn.Dropout(0.1)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, N, width)` to the same."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.fused_attn:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        else:
            q = q * self.scale
            attn = q @ k.transpose(-2, -1)
            attn = attn.softmax(dim=-1)
            attn = self.attn_drop(attn)
            x = attn @ v
        x = x.transpose(1, 2).reshape(b, n, c)
        return self.proj(x)


class Mlp(nn.Module):
    """Two Linears with GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.drop = nn.Dropout(0.1)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., width)` to the same."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Block(nn.Module):
    """Attention and an MLP, each normalised before and scaled after."""

    def __init__(self, width: int, heads: int, dropped: float, fused: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, fused)
        self.ls1 = LayerScale(width, 0.5)
        self.drop_path = DropPath(dropped) if dropped > 0.0 else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)
        self.ls2 = LayerScale(width, 0.5, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, N, width)` to the same."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class PatchEmbed(nn.Module):
    """Square patches, each to a token."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.patch_size = patch
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 3, H, W)` to `(B, H / patch * W / patch, width)`."""
        _, c, h, w = x.shape
        assert c == 3, f"an image of three channels is expected, not of {c}"
        assert h % self.patch_size == 0, f"the height ({h}) is no multiple of {self.patch_size}"
        assert w % self.patch_size == 0, f"the width ({w}) is no multiple of {self.patch_size}"
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """The network; `img_size` is what the position embedding is learned for, others interpolate it."""

    def __init__(
        self,
        *,
        img_size: int = 96,
        patch: int = 8,
        width: int = 192,
        depth: int = 4,
        heads: int = 3,
        classes: int = 100,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(0.5 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.5 * torch.randn(1, (img_size // patch) ** 2 + 1, width))
        self.pos_drop = nn.Dropout(0.1)
        rates = [0.1 * index / max(depth - 1, 1) for index in range(depth)]
        self.blocks = nn.Sequential(*[Block(width, heads, rate, fused) for rate in rates])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes) if classes > 0 else nn.Identity()

    def interpolate_pos_encoding(self, x: Tensor, w: int, h: int) -> Tensor:
        """The position embedding for an image of `w` by `h` pixels."""
        npatch = x.shape[1] - 1
        n = self.pos_embed.shape[1] - 1
        if npatch == n and w == h:
            return self.pos_embed
        class_pos_embed = self.pos_embed[:, 0]
        patch_pos_embed = self.pos_embed[:, 1:]
        dim = x.shape[-1]
        side = int(n**0.5)
        rows, columns = h // self.patch_embed.patch_size, w // self.patch_embed.patch_size
        grid = patch_pos_embed.reshape(1, side, side, dim).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        assert grid.shape[-2] == rows
        assert grid.shape[-1] == columns
        grid = grid.permute(0, 2, 3, 1).view(1, -1, dim)
        return torch.cat((class_pos_embed.unsqueeze(0), grid), dim=1)

    def prepare_tokens(self, x: Tensor) -> Tensor:
        """`(B, 3, H, W)` to the class token and the patches, each with its position."""
        b, _, h, w = x.shape
        x = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(b, -1, -1), x), dim=1)
        return self.pos_drop(x + self.interpolate_pos_encoding(x, w, h))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 3, H, W)` to `(B, classes)` logits."""
        x = self.prepare_tokens(x)
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0])


@seeded
def make_vision_transformer() -> nn.Module:
    """With torch's own attention."""
    return VisionTransformer()


@seeded
def make_vision_transformer_by_hand() -> nn.Module:
    """With two matrix products and a softmax."""
    return VisionTransformer(img_size=64, width=160, depth=4, heads=5, fused=False)
