"""KonCept512 in plain PyTorch: see benchmarks/torch_models.py."""

import torch
from torch import nn
from torch_models import Normalise

# Branches of the blocks: (channels, kernel) of one convolution after another.
BLOCK35 = [(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)]
BLOCK17 = [(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))]
BLOCK8 = [(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))]
MIXED_5B = [(96, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)], [(64, 1)]
MIXED_6A = [(384, 3)], [(256, 1), (256, 3), (384, 3)]
MIXED_7A = [(256, 1), (384, 3)], [(256, 1), (288, 3)], [(256, 1), (288, 3), (320, 3)]


class ConvNormReLU(nn.Sequential):
    """``relu(bn(conv(x)))``; by default padded to keep the size."""

    def __init__(self, cin: int, cout: int, size, stride: int = 1, padding=None):
        size = (size, size) if isinstance(size, int) else size
        padding = tuple(side // 2 for side in size) if padding is None else padding
        conv = nn.Conv2d(cin, cout, size, stride, padding, bias=False)
        super().__init__(conv, nn.BatchNorm2d(cout, eps=1e-3), nn.ReLU(inplace=False))


class Branches(nn.Module):
    """Several branches side by side along the channels; with ``shrink`` each ends in stride 2 without padding."""

    def __init__(self, cin: int, branches, *, shrink: bool = False, pool: nn.Module | None = None):
        super().__init__()
        chains = []
        for layers in branches:
            chain, channels = [], cin
            for i, (cout, size) in enumerate(layers):
                last = (2, 0) if shrink and i == len(layers) - 1 else ()
                chain.append(ConvNormReLU(channels, cout, size, *last))
                channels = cout
            chains.append(chain)
        if shrink:
            chains.append([nn.MaxPool2d(3, 2)])
        elif pool is not None:
            chains[-1].insert(0, pool)
        self.chains = nn.ModuleList(nn.Sequential(*chain) for chain in chains)

    def forward(self, x):
        return torch.cat([chain(x) for chain in self.chains], 1)


class Residual(nn.Module):
    """``relu(x + scale · project(branches(x)))``."""

    def __init__(self, channels: int, branches, scale: float, *, relu: bool = True):
        super().__init__()
        self.branches = Branches(channels, branches)
        self.project = nn.Conv2d(sum(layers[-1][0] for layers in branches), channels, 1)
        self.scale, self.relu = scale, nn.ReLU(inplace=False) if relu else nn.Identity()

    def forward(self, x):
        return self.relu(self.project(self.branches(x)) * self.scale + x)


class KonCept512(nn.Module):
    """An Inception-ResNet-v2, the mean of the top left 8×8 of its last map, and four linear maps."""

    def __init__(self):
        super().__init__()
        self.normalise = Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.base = nn.Sequential(
            ConvNormReLU(3, 32, 3, 2, 0),
            ConvNormReLU(32, 32, 3, 1, 0),
            ConvNormReLU(32, 64, 3),
            nn.MaxPool2d(3, 2),
            ConvNormReLU(64, 80, 1),
            ConvNormReLU(80, 192, 3, 1, 0),
            nn.MaxPool2d(3, 2),
            Branches(192, MIXED_5B, pool=nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
            *(Residual(320, BLOCK35, 0.17) for _ in range(10)),
            Branches(320, MIXED_6A, shrink=True),
            *(Residual(1088, BLOCK17, 0.10) for _ in range(20)),
            Branches(1088, MIXED_7A, shrink=True),
            *(Residual(2080, BLOCK8, 0.20) for _ in range(9)),
            Residual(2080, BLOCK8, 1.0, relu=False),
            ConvNormReLU(2080, 1536, 1),
            nn.AvgPool2d(8),
            nn.Flatten(),
        )
        head = []
        for cin, cout in ((1536, 2048), (2048, 1024), (1024, 256)):
            head += [nn.Linear(cin, cout), nn.ReLU(inplace=True), nn.BatchNorm1d(cout)]
        self.head = nn.Sequential(*head, nn.Linear(256, 1))

    def forward(self, x):
        return self.head(self.base(self.normalise(x)))[:, 0]
