"""The convolutional published networks in plain PyTorch, eager and NCHW: the peers of benchmarks/models.py.

They compute the same layers as their authors' classes: batch norms are not folded, linear maps are not reordered. Parts
that the score does not use are left out, as in jaxiqa, so that both sides do the same work: FPR's full-reference path,
LinearityIQA's scores of single levels, PaQ-2-PiQ's 400 patches. The modules are registered in the order of the
published checkpoints, under other names.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Normalise(nn.Module):
    """``(x - mean) / std`` per channel; ImageNet's by default."""

    def __init__(self, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, x):
        return (x - self.mean) / self.std


def conv_norm(cin: int, cout: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(cin, cout, size, stride, padding=size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(cout)]


class ResidualBlock(nn.Module):
    """Block of a ResNet: two 3×3 convolutions, or a bottleneck with its 3×3 in ``groups`` of ``per_group`` channels."""

    def __init__(self, cin: int, planes: int, stride: int, *, bottleneck: bool, groups: int, per_group: int):
        super().__init__()
        if bottleneck:
            inner, cout = planes * per_group // 64 * groups, 4 * planes
            layers = [conv_norm(cin, inner, 1), conv_norm(inner, inner, 3, stride, groups), conv_norm(inner, cout, 1)]
        else:
            cout = planes
            layers = [conv_norm(cin, cout, 3, stride), conv_norm(cout, cout, 3)]
        body = [module for layer in layers for module in (*layer, nn.ReLU(inplace=True))]
        self.body = nn.Sequential(*body[:-1])
        self.shortcut = nn.Sequential(*(conv_norm(cin, cout, 1, stride) if stride > 1 or cin != cout else ()))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.body(x)
        y += self.shortcut(x)
        return self.relu(y)


class ResNet(nn.Module):
    """Image -> the outputs of the four stages."""

    def __init__(self, depths, *, bottleneck: bool, groups: int = 1, per_group: int = 64):
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        options = {"bottleneck": bottleneck, "groups": groups, "per_group": per_group}
        stages, cin = [], 64
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                blocks.append(ResidualBlock(cin, 64 * 2**i, 2 if i and not j else 1, **options))
                cin = 64 * 2**i * (4 if bottleneck else 1)
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, x):
        maps, x = [], self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def resnet18() -> ResNet:
    return ResNet((2, 2, 2, 2), bottleneck=False)


def resnet50() -> ResNet:
    return ResNet((3, 4, 6, 3), bottleneck=True)


def mean_of(x):
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


class Linearity(nn.Module):
    """LinearityIQA: two pooled levels of a ResNet, each reduced to 64 numbers, and one linear map."""

    def __init__(self, resnet: ResNet | None = None):
        super().__init__()
        self.normalise = Normalise()
        self.resnet = resnet or ResNet((3, 4, 23, 3), bottleneck=True, groups=32, per_group=8)  # ResNeXt-101 32x8d
        self.reduce6, self.reduce7 = self.reduction(1024), self.reduction(2048)
        self.regression = nn.Linear(128, 1)

    @staticmethod
    def reduction(features: int) -> nn.Sequential:
        layers = []
        for cin, cout in ((features, 1024), (1024, 256), (256, 64)):
            layers += [nn.Linear(cin, cout), nn.BatchNorm1d(cout)]
        return nn.Sequential(*layers, nn.ReLU())

    def forward(self, x):
        *_, low, high = self.resnet(self.normalise(x))
        levels = [self.reduce6(mean_of(low)), self.reduce7(mean_of(high))]
        return self.regression(torch.cat(levels, 1))[:, 0]


class SPAQBaseline(nn.Module):
    """SPAQ's baseline: a ResNet-50 with one output, on pixels as they are."""

    def __init__(self):
        super().__init__()
        self.resnet, self.fc = resnet50(), nn.Linear(2048, 1)

    def forward(self, x):
        return self.fc(mean_of(self.resnet(x)[-1]))[:, 0]


class MetaIQA(nn.Module):
    """A ResNet-18 with its classifier, and three layers on the 1000 class scores."""

    def __init__(self):
        super().__init__()
        self.normalise, self.resnet, self.classifier = Normalise(), resnet18(), nn.Linear(512, 1000)
        hidden = [nn.Linear(1000, 1024), nn.BatchNorm1d(1024), nn.PReLU()]
        hidden += [nn.Linear(1024, 512), nn.BatchNorm1d(512), nn.PReLU()]
        self.head = nn.Sequential(*hidden, nn.Linear(512, 1), nn.Sigmoid())

    def forward(self, x):
        return self.head(self.classifier(mean_of(self.resnet(self.normalise(x))[-1])))[:, 0]


class PaQ2PiQ(nn.Module):
    """PaQ-2-PiQ's score of the whole image: RoI pooling to 2×2 cells, then their maximum and mean."""

    def __init__(self):
        super().__init__()
        self.resnet = resnet18()
        hidden = [nn.BatchNorm1d(1024), nn.Linear(1024, 512), nn.ReLU(inplace=True), nn.BatchNorm1d(512)]
        self.head = nn.Sequential(*hidden, nn.Linear(512, 1))

    @staticmethod
    def bins(side: int, cells: int) -> list[slice]:
        """Return the two halves of an axis as RoI pooling cuts it: ends are inclusive, and halves may overlap."""
        size = int(side / 32 + 0.5) + 1
        return [slice(0, min((size + 1) // 2, cells)), slice(size // 2, cells)]

    def forward(self, x):
        y = self.resnet(x)[-1]
        rows, columns = (self.bins(*sides) for sides in zip(x.shape[2:], y.shape[2:], strict=True))
        cells = [F.adaptive_max_pool2d(y[:, :, row, column], 1) for row in rows for column in columns]
        cells = torch.cat(cells, 3)
        return self.head(torch.cat([cells.amax((2, 3)), cells.mean((2, 3))], 1))[:, 0]


class HyperIQA(nn.Module):
    """HyperIQA: a ResNet-50 computes a vector and the weights of the small network that scores it."""

    TARGET = (224, 112, 56, 28, 14, 1)

    def __init__(self):
        super().__init__()
        self.normalise, self.resnet = Normalise(), resnet50()
        local = []
        for features, reduced, cells in ((256, 16, 8), (512, 32, 4), (1024, 64, 2)):
            pool = nn.Sequential(nn.Conv2d(features, reduced, 1, bias=False), nn.AvgPool2d(7))
            local.append(nn.Sequential(pool, nn.Flatten(), nn.Linear(reduced * cells**2, 16)))
        self.local = nn.ModuleList(local)
        self.local4 = nn.Linear(2048, 176)
        layers = [nn.Conv2d(2048, 1024, 1), nn.ReLU(inplace=True), nn.Conv2d(1024, 512, 1), nn.ReLU(inplace=True)]
        self.hyper = nn.Sequential(*layers, nn.Conv2d(512, 112, 1), nn.ReLU(inplace=True))
        pairs = list(zip(self.TARGET[:-1], self.TARGET[1:], strict=True))
        weights = [nn.Conv2d(112, a * b // 49, 3, padding=1) for a, b in pairs[:-1]] + [nn.Linear(112, 14)]
        # Weights and biases alternate, as in the checkpoint.
        self.parameters_of = nn.ModuleList(
            module for (_, b), weight in zip(pairs, weights, strict=True) for module in (weight, nn.Linear(112, b))
        )

    def forward(self, x):
        maps, b = self.resnet(self.normalise(x)), len(x)
        local = [layer(y) for layer, y in zip(self.local, maps, strict=False)]
        vector = torch.cat([*local, self.local4(mean_of(maps[-1]))], 1)
        hyper = self.hyper(maps[-1])
        mean = mean_of(hyper)
        for i, outputs in enumerate(self.TARGET[1:]):
            weight = self.parameters_of[2 * i](hyper if i < 4 else mean).reshape(b * outputs, -1, 1, 1)
            bias = self.parameters_of[2 * i + 1](mean).reshape(-1)
            # Every image has its own weights: a convolution with the batch as groups, as in the authors' code.
            vector = F.conv2d(vector.reshape(1, -1, 1, 1), weight, bias, groups=b).view(b, outputs)
            vector = torch.sigmoid(vector) if i < 4 else vector
        return vector[:, 0]


class ConvStage(nn.Sequential):
    """3×3 convolutions, each followed by a leaky ReLU, then optional 2×2 max pooling."""

    def __init__(self, cin: int, cout: int, *, times: int = 2, pool: bool = True):
        layers = []
        for i in range(times):
            layers += [nn.Conv2d(cout if i else cin, cout, 3, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        super().__init__(*layers, *([nn.MaxPool2d(2)] if pool else []))


class FPR(nn.Module):
    """FPR's no-reference path: a score for each 64×64 patch, and its weight from a GRU over the patches."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            ConvStage(3, 128),
            ConvStage(128, 256, pool=False),
            ConvStage(256, 256),
            ConvStage(256, 256, pool=False),
            ConvStage(256, 512),
            ConvStage(512, 128, times=1),
            nn.Conv2d(128, 64, 3),
            nn.Flatten(),
        )
        self.opinion = nn.Sequential(nn.Linear(256, 32), nn.Linear(32, 1))
        self.gru = nn.GRU(256, 32, batch_first=True)
        self.weight = nn.Linear(32, 1)

    def forward(self, x):
        b, _, h, w = x.shape
        patches = x.view(b, 3, h // 64, 64, w // 64, 64).permute(0, 4, 2, 1, 3, 5).reshape(-1, 3, 64, 64)
        y = self.features(patches)
        opinions = self.opinion(y).view(b, -1)
        weights = torch.relu(self.weight(self.gru(y.view(b, -1, 256))[0])[..., 0]) + 1e-8
        return 100 - (weights * opinions).sum(1) / weights.sum(1)
