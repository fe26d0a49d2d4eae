"""VGG-16, AlexNet and SqueezeNet 1.1 in torch.nn.functional, from weights under torchvision's names."""

import zlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional

VGG = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
ALEXNET = ((0, 1, 11, 4, 2), (3, 3, 5, 1, 2), (6, 6, 3, 1, 1), (8, 4, 3, 1, 1), (10, 4, 3, 1, 1))
FIRES = {3: (1, 1), 4: (1, 1), 6: (2, 2), 7: (2, 2), 9: (3, 3), 10: (3, 3), 11: (4, 4), 12: (4, 4)}


def random_array(key: str, shape: tuple[int, ...], seed: str = "0") -> np.ndarray:
    """Return a random array generated from its name: He's scale for weights, 0.1 for biases."""
    numbers = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode())).standard_normal(shape)
    scale = 0.1 if key.endswith("bias") else np.sqrt(2 / np.prod(shape[1:]))
    return (scale * numbers).astype(np.float32)


def shapes(backbone: str, width: int) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the convolutions under ``features``."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(name: str, cin: int, cout: int, size: int) -> int:
        found[f"{name}.weight"], found[f"{name}.bias"] = (cout, cin, size, size), (cout,)
        return cout

    cin, index = 3, 0
    if backbone == "vgg16":
        for growth, depth in VGG:
            for _ in range(depth):
                cin = conv(f"features.{index}", cin, width * growth, 3)
                index += 2
            index += 1
    elif backbone == "alexnet":
        for index, growth, size, _, _ in ALEXNET:
            cin = conv(f"features.{index}", cin, width * growth, size)
    else:
        cin = conv("features.0", 3, width, 3)
        for index, (squeezed, expanded) in FIRES.items():
            inner = conv(f"features.{index}.squeeze", cin, width // 4 * squeezed, 1)
            cin = sum(conv(f"features.{index}.expand{k}x{k}", inner, width * expanded, k) for k in (1, 3))
    return found


def weights(backbone: str, width: int, seed: str = "0") -> dict[str, np.ndarray]:
    return {key: random_array(key, shape, seed) for key, shape in shapes(backbone, width).items()}


def features(backbone: str, arrays: dict, x: torch.Tensor, pool=lambda x: F.max_pool2d(x, 2)) -> list[torch.Tensor]:
    """Return the maps that LPIPS (and, for VGG-16, DISTS) uses; ``pool`` is VGG-16's."""

    def conv(name: str, x: torch.Tensor, stride: int = 1, padding: int = 0) -> torch.Tensor:
        kernel, bias = (torch.as_tensor(arrays[f"{name}.{part}"]).to(x.dtype) for part in ("weight", "bias"))
        return F.relu(F.conv2d(x, kernel, bias, stride, padding))

    maps, index = [], 0
    if backbone == "vgg16":
        for _, depth in VGG:
            x = pool(x) if maps else x
            for _ in range(depth):
                x = conv(f"features.{index}", x, padding=1)
                index += 2
            maps.append(x)
            index += 1
    elif backbone == "alexnet":
        for index, _, _, stride, padding in ALEXNET:
            x = F.max_pool2d(x, 3, 2) if index in (3, 6) else x
            x = conv(f"features.{index}", x, stride, padding)
            maps.append(x)
    else:
        x = conv("features.0", x, 2)
        maps.append(x)
        for index in FIRES:
            x = F.max_pool2d(x, 3, 2, ceil_mode=True) if index in (3, 6, 9) else x
            x = conv(f"features.{index}.squeeze", x)
            x = torch.cat([conv(f"features.{index}.expand{k}x{k}", x, padding=k // 2) for k in (1, 3)], 1)
            if index not in (3, 6):
                maps.append(x)
    return maps


def logits(backbone: str, arrays: dict, x: torch.Tensor) -> torch.Tensor:
    """Compute the whole classifier for normalised pixels."""
    x = features(backbone, arrays, x)[-1]
    if backbone == "squeezenet1_1":
        x = F.conv2d(x, torch.as_tensor(arrays["classifier.1.weight"]), torch.as_tensor(arrays["classifier.1.bias"]))
        return F.relu(x).mean((2, 3))
    window, side, layers = {"vgg16": (2, 7, (0, 3, 6)), "alexnet": (3, 6, (1, 4, 6))}[backbone]
    x = F.adaptive_avg_pool2d(F.max_pool2d(x, window, 2), side).flatten(1)
    for index in layers:
        weight, bias = (torch.as_tensor(arrays[f"classifier.{index}.{part}"]) for part in ("weight", "bias"))
        x = F.linear(x if index == layers[0] else F.relu(x), weight, bias)
    return x
