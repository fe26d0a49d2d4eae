"""TReS and MANIQA in plain PyTorch: see benchmarks/torch_models.py.

Parts that the score does not use are left out, as in jaxiqa: TReS's pass over the mirrored image, MANIQA's ViT blocks
10 and 11, and the ``downsample`` convolutions of its Swin stages.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch_models import Normalise, mean_of, resnet50


def position_encoding(side: int, channels: int) -> torch.Tensor:
    """DETR's sines and cosines, ``side² 1 channels``: the row in the first half of the channels, then the column."""
    half = channels // 2
    i = torch.arange(half)
    angles = 2 * math.pi * torch.arange(1, side + 1)[:, None] / (side + 1e-6) / 10000 ** (2 * (i // 2) / half)
    code = torch.where(i % 2 == 0, angles.sin(), angles.cos())
    grid = torch.cat([code[:, None].expand(side, side, half), code[None].expand(side, side, half)], 2)
    return grid.reshape(side * side, 1, channels)


class EncoderLayer(nn.Module):
    """Pre-norm layer of a transformer; the position encoding is added to the inputs of queries and keys."""

    def __init__(self, features: int, *, heads: int, hidden: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(features, heads)
        self.linear1, self.linear2 = nn.Linear(features, hidden), nn.Linear(hidden, features)
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)

    def forward(self, x, position):
        y = self.norm1(x)
        placed = y + position
        x = x + self.attention(placed, placed, value=y)[0]
        return x + self.linear2(F.relu(self.linear1(self.norm2(x))))


class TReS(nn.Module):
    """A transformer over four pooled levels of a ResNet-50."""

    def __init__(self):
        super().__init__()
        self.normalise, self.resnet = Normalise(), resnet50()
        window = torch.tensor([0.25, 0.5, 0.25])
        window = window[:, None] * window
        for i, channels in enumerate((256, 512, 1024, 2048)):
            self.register_buffer(f"window{i}", window.repeat(channels, 1, 1, 1), persistent=False)
        self.register_buffer("position", position_encoding(7, 3840), persistent=False)
        self.encoder = nn.ModuleList(EncoderLayer(3840, heads=16, hidden=64) for _ in range(2))
        self.norm = nn.LayerNorm(3840)
        self.fc2, self.fc = nn.Linear(3840, 2048), nn.Linear(4096, 1)

    def forward(self, x):
        maps = self.resnet(self.normalise(x))
        levels = []
        for i, y in enumerate(maps):
            window = getattr(self, f"window{i}")
            y = F.conv2d(F.normalize(y) ** 2, window, padding=1, groups=len(window))
            y = (y + 1e-12).sqrt()
            levels.append(F.avg_pool2d(y, 8 >> i) if i < 3 else y)
        tokens = torch.cat(levels, 1).flatten(2).permute(2, 0, 1)
        for layer in self.encoder:
            tokens = layer(tokens, self.position)
        return self.fc(torch.cat([self.fc2(self.norm(tokens).mean(0)), mean_of(maps[-1])], 1))[:, 0]


class Attention(nn.Module):
    """Self-attention in plain matrix products, with an optional bias on the logits."""

    def __init__(self, features: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.project = nn.Linear(features, 3 * features), nn.Linear(features, features)

    def forward(self, x, bias=None, mask=None):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        logits = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        if bias is not None:
            logits = logits + bias
        if mask is not None:
            logits = (logits.view(-1, len(mask), *logits.shape[1:]) + mask[:, None]).view(logits.shape)
        return self.project((logits.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


def mlp(features: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, features))


class Block(nn.Module):
    """Block of a vision transformer."""

    def __init__(self, features: int, heads: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(features, 1e-6), Attention(features, heads)
        self.norm2, self.mlp = nn.LayerNorm(features, 1e-6), mlp(features, 4 * features)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class WindowBlock(nn.Module):
    """Block of a Swin transformer: attention within 4×4 windows of a 28×28 map, shifted by ``shift``."""

    SIDE, WINDOW = 28, 4

    def __init__(self, features: int, shift: int):
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(features)
        self.position = nn.Parameter(torch.zeros(49, 4))
        self.attention = Attention(features, 4)
        self.norm2, self.mlp = nn.LayerNorm(features), mlp(features, 768)
        row, column = (torch.arange(16) // 4, torch.arange(16) % 4)
        offsets = 7 * (row[:, None] - row + 3) + column[:, None] - column + 3
        self.register_buffer("offsets", offsets, persistent=False)
        part = torch.tensor([0] * 24 + [1] * 2 + [2] * 2)  # pieces of an axis of the shifted map
        region = self.partition((3 * part[:, None] + part).view(1, 28, 28, 1))[..., 0]
        mask = torch.where(region[:, :, None] == region[:, None], 0.0, -100.0)
        self.register_buffer("mask", mask if shift else None, persistent=False)

    @staticmethod
    def partition(x):
        b, _, _, c = x.shape
        return x.view(b, 7, 4, 7, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)

    @staticmethod
    def merge(windows):
        c = windows.shape[-1]
        return windows.view(-1, 7, 7, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 28, 28, c)

    def forward(self, x):
        y = self.norm1(x)
        y = torch.roll(y, (-self.shift, -self.shift), (1, 2)) if self.shift else y
        bias = self.position[self.offsets].permute(2, 0, 1).contiguous()
        y = self.merge(self.attention(self.partition(y), bias, self.mask))
        x = x + (torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y)
        return x + self.mlp(self.norm2(x))


class SwinLayer(nn.Module):
    """``x + 0.8 · relu(conv(blocks(x)))``."""

    def __init__(self, features: int):
        super().__init__()
        self.conv = nn.Conv2d(features, features, 3, padding=1)
        self.blocks = nn.Sequential(WindowBlock(features, 0), WindowBlock(features, 2))

    def forward(self, x):
        y = self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + 0.8 * F.relu(self.conv(y))


class ChannelAttention(nn.Module):
    """Attention between the channels of a map, with the authors' reshape that mixes pixels and channels."""

    def __init__(self):
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(784, 784) for _ in range(3))

    def forward(self, x):
        b, c, h, w = x.shape
        rows = x.reshape(b, c, h * w)
        attention = (self.queries(rows) @ self.keys(rows).transpose(-2, -1) * (h * w) ** -0.5).softmax(-1)
        rows = rows + (attention @ self.values(rows)).transpose(1, 2).reshape(b, c, h * w)
        return rows.view(b, c, h, w)


class MANIQA(nn.Module):
    """Ten blocks of a ViT-B/8, attention across channels, Swin stages, and a weighted mean over patches."""

    def __init__(self):
        super().__init__()
        self.normalise = Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.cls_token, self.position = nn.Parameter(torch.zeros(1, 1, 768)), nn.Parameter(torch.zeros(1, 785, 768))
        self.patches = nn.Conv2d(3, 768, 8, 8)
        self.blocks = nn.ModuleList(Block(768, 12) for _ in range(10))
        self.stages = nn.Sequential(
            *(ChannelAttention(), ChannelAttention(), nn.Conv2d(3072, 768, 1), SwinLayer(768), SwinLayer(768)),
            *(ChannelAttention(), ChannelAttention(), nn.Conv2d(768, 384, 1), SwinLayer(384), SwinLayer(384)),
        )
        self.score = nn.Sequential(nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 1), nn.ReLU())
        self.weight = nn.Sequential(nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 1), nn.Sigmoid())

    def forward(self, x):
        b = len(x)
        tokens = self.patches(self.normalise(x)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(b, -1, -1), tokens], 1) + self.position
        maps = []
        for i, block in enumerate(self.blocks):
            tokens = block(tokens)
            if i >= 6:
                maps.append(tokens[:, 1:])
        y = torch.cat(maps, 2).transpose(1, 2).reshape(b, -1, 28, 28)
        y = self.stages(y).flatten(2).transpose(1, 2)
        score, weight = self.score(y), self.weight(y)
        return ((score * weight).sum(1) / weight.sum(1))[:, 0]
