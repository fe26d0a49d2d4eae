"""The PyTorch side of benchmarks/attacks.py: models with jaxiqa's weights, and plain PyTorch loops of the attacks."""

import numpy as np
import torch
import torch_models
from torch import nn
from torch.nn import functional as F

from jaxiqa.models import Linearity
from jaxiqa.nn.backbones.mobilenet_v2 import LAYOUT
from jaxiqa.pretrained import key_map


class Conv(nn.Sequential):
    """A convolution with TensorFlow's padding of even sides, and a ReLU6 if asked for."""

    def __init__(self, cin: int, cout: int, size: int, stride: int = 1, groups: int = 1, relu: bool = True):
        pad = [nn.ZeroPad2d((0, 1, 0, 1))] if stride == 2 else []
        conv = nn.Conv2d(cin, cout, size, stride, padding=0 if pad else size // 2, groups=groups)
        super().__init__(*pad, conv, *([nn.ReLU6(inplace=True)] if relu else []))


class InvertedResidual(nn.Module):
    def __init__(self, cin: int, cout: int, expansion: int, stride: int):
        super().__init__()
        inner = cin * expansion
        expand = [Conv(cin, inner, 1)] if expansion > 1 else []
        self.body = nn.Sequential(*expand, Conv(inner, inner, 3, stride, inner), Conv(inner, cout, 1, relu=False))
        self.residual = stride == 1 and cin == cout

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV2(nn.Module):
    """Image -> the outputs of block 12 and of the head. The weights contain the batch norms."""

    def __init__(self):
        super().__init__()
        blocks, cin = [Conv(3, 32, 3, 2)], 32
        for expansion, cout, count, stride in LAYOUT:
            for i in range(count):
                blocks.append(InvertedResidual(cin, cout, expansion, stride if i == 0 else 1))
                cin = cout
        self.blocks = nn.Sequential(*blocks, Conv(cin, 1280, 1))

    def forward(self, x):
        low = self.blocks[:14](x)
        return [low, self.blocks[14:](low)]


def same_model(ours: Linearity) -> nn.Module:
    """A Linearity metric over MobileNetV2 or ResNet-50 with the same parameters, taken in the order of its layers."""
    if ours.architecture == "mobilenet_v2":
        net = torch_models.Linearity(MobileNetV2())
        net.normalise = torch_models.Normalise((0.5,) * 3, (0.5,) * 3)
        net.reduce6, net.reduce7 = net.reduction(96), net.reduction(1280)
    else:
        net = torch_models.Linearity(torch_models.resnet50())
    arrays = {name: np.asarray(value[...]) for name, value in key_map.parameters(ours).items()}
    # Both sides order layers by computation, except shortcuts: last on one side, first on the other.
    order = {name: i for i, name in enumerate(ours.backbone.order)}
    place = ("conv", "expand", "conv1", "bn1", "depthwise", "conv2", "bn2", "conv3", "bn3", "project", "shortcut", "bn")

    def rank(name: str) -> tuple:
        parts = name.split(".")
        if parts[0] == "backbone":
            stage = next(s for s in sorted(order, key=len, reverse=True) if name.startswith(f"backbone.stage.{s}."))
            rest = name.removeprefix(f"backbone.stage.{stage}.").split(".")[:-1]
            return (0, order[stage], *(place.index(part) for part in rest))
        if parts[0] in ("dr6", "dr7"):
            return (1, parts[0], int(parts[2]), parts[1])
        return (2, parts[0])

    grouped: dict[tuple, dict[str, np.ndarray]] = {}
    for name, values in arrays.items():
        if name.partition(".")[0] not in ("regr6", "regr7"):
            grouped.setdefault(rank(name), {})[name.rpartition(".")[2]] = values
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.BatchNorm1d)]
    names = {"weight": ("kernel", "scale"), "bias": ("bias",), "running_mean": ("mean",), "running_var": ("var",)}
    for layer, (_, values) in zip(layers, sorted(grouped.items()), strict=True):
        for part, keys in names.items():
            target = getattr(layer, part, None)
            if target is not None:
                found = torch.from_numpy(next(values[key] for key in keys if key in values).copy())
                found = found.permute(3, 2, 0, 1) if found.ndim == 4 else found.T if found.ndim == 2 else found
                with torch.no_grad():
                    target.copy_(found)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net.eval()


def input_gradient(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(model(x).sum(), x)[0]


def pgd(model: nn.Module, clean: torch.Tensor, epsilon: float, step_size: float, steps: int) -> torch.Tensor:
    x, low, high = clean, (clean - epsilon).clamp(0, 1), (clean + epsilon).clamp(0, 1)
    for _ in range(steps):
        x = torch.minimum(torch.maximum(x + step_size * input_gradient(model, x).sign(), low), high)
    return x


def script_ifgsm(model: nn.Module, clean: torch.Tensor, epsilon: float, step_size: float, steps: int) -> torch.Tensor:
    """As in the benchmark's scripts: ``backward`` also computes gradients of the model's weights."""
    p = torch.zeros_like(clean).requires_grad_()
    for _ in range(steps):
        loss = 1 - model((clean + p).clamp(0, 1)).mean() / 100
        loss.backward()
        p.data = (p.data - step_size * p.grad.data.sign()).clamp(-epsilon, epsilon)
        p.grad.data.zero_()
    return (clean + p.data).clamp(0, 1)


def fit_uap(model: nn.Module, images: torch.Tensor, epsilon: float, epochs: int, batch_size: int) -> torch.Tensor:
    delta = torch.zeros_like(images[:1]).requires_grad_()
    optimizer = torch.optim.Adam([delta], epsilon / 10)
    for _ in range(epochs):
        for batch in images.split(batch_size):
            optimizer.zero_grad()
            (-model((batch + delta).clamp(0, 1)).mean()).backward()
            optimizer.step()
            delta.data.clamp_(-epsilon, epsilon)
    return delta


def stadv(model: nn.Module, images: torch.Tensor, steps: int, step_size: float = 0.1) -> torch.Tensor:
    b, _, h, w = images.shape
    flow = torch.zeros(b, h, w, 2).requires_grad_()
    optimizer = torch.optim.Adam([flow], step_size)
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    base, scale = torch.stack([columns, rows], -1), torch.tensor([2 / (w - 1), 2 / (h - 1)])

    def warped() -> torch.Tensor:
        return F.grid_sample(images, (base + flow) * scale - 1, padding_mode="border", align_corners=True)

    for _ in range(steps):
        optimizer.zero_grad()
        padded = F.pad(flow.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1)
        smooth = 0
        for i in (0, 2):
            for j in (0, 2):
                smooth = smooth + ((flow - padded[:, i : i + h, j : j + w]).square().sum(-1) + 1e-8).sqrt().sum()
        (0.02 * smooth / (h * w) - model(warped()).sum() / 100).backward()
        optimizer.step()
    return warped().detach()


def nes(
    model: nn.Module, clean: torch.Tensor, epsilon: float, iterations: int, pairs: int, rate: float
) -> torch.Tensor:
    x = clean
    with torch.no_grad():
        for _ in range(iterations):
            noise = torch.randn(pairs, *clean.shape)
            both = torch.cat([x + 1e-3 * noise, x - 1e-3 * noise])
            scores = model(both.flatten(0, 1)).view(2, pairs, -1)
            gradient = ((scores[0] - scores[1])[..., None, None, None] * noise).sum(0)
            x = (x + rate * gradient.sign()).clamp(clean - epsilon, clean + epsilon).clamp(0, 1)
    return x
