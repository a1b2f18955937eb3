"""A small vision transformer, all of whose weights can be pruned."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from jobs.models.base import Shape, Width

Small = Annotated[int, Field(ge=1, le=64)]


def vit(
    shape: Shape, classes: int, *, patch: Small = 4, depth: Small = 6, heads: Small = 3, width: Width = 1.0
) -> nn.Module:
    """ViT-Tiny's blocks (Touvron et al., ICML 2021: 192 channels, 3 heads of 64), six of them, on patches of 4 x 4
    pixels: 2.7M weights for CIFAR-10. `width` scales the channels of a head.

    Patches are averaged at the end and there is no class token (Beyer et al., arXiv 2205.01580); the embedding of
    positions is learnt. Queries, keys and values come of one linear layer.
    """
    channels = heads * max(1, round(64 * width))
    count = (shape[1] // patch) * (shape[2] // patch)
    blocks = [_Block(channels, heads) for _ in range(depth)]
    return nn.Sequential(
        _Patches(shape[0], channels, patch, count),
        *blocks,
        nn.LayerNorm(channels),
        _Mean(),
        nn.Linear(channels, classes),
    )


class _Patches(nn.Module):
    def __init__(self, before: int, channels: int, patch: int, count: int) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(before, channels, patch, patch)
        self.positions = nn.Parameter(torch.randn(count, channels) * 0.02)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (n, c, h, w) to patches (n, count, channels)."""
        patches: Tensor = self.embedding(inputs).flatten(2).transpose(1, 2)
        return patches + self.positions


class _Block(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.inward, self.outward = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.inner = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.inward(self.norm(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()  # each (n, heads, count, channels of a head)
        seen = scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.outward(seen.transpose(1, 2).flatten(2))
        result: Tensor = tokens + self.inner(tokens)
        return result


class _Mean(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)
