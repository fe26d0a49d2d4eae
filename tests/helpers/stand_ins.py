"""Small files with random numbers under the names and layouts of published weights, for pages that load them."""

from pathlib import Path

import numpy as np
import safetensors.numpy
from flax import nnx

from jaxiqa import networks

FIRES = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128)}
FIRES |= {9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}
"""Place of each fire module in torchvision's SqueezeNet 1.1 -> channels: input, squeezed, of each expansion."""
HEADS = (64, 128, 256, 384, 384, 512, 512)
"""Channels of the maps that LPIPS compares."""


def squeezenet(seed: int = 0) -> dict[str, np.ndarray]:
    """Return random weights of SqueezeNet 1.1 under torchvision's names."""
    shapes = {"features.0": (64, 3, 3, 3)}
    for place, (cin, squeezed, cout) in FIRES.items():
        shapes[f"features.{place}.squeeze"] = (squeezed, cin, 1, 1)
        shapes[f"features.{place}.expand1x1"] = (cout, squeezed, 1, 1)
        shapes[f"features.{place}.expand3x3"] = (cout, squeezed, 3, 3)
    random, arrays = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        noise = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        arrays |= {f"{name}.weight": noise.astype(np.float32), f"{name}.bias": np.zeros(shape[0], np.float32)}
    return arrays


def lpips_heads() -> dict[str, np.ndarray]:
    """Return equal weights of all channels under the authors' names."""
    return {f"lin{i}.model.1.weight": np.full((1, size, 1, 1), 0.1, np.float32) for i, size in enumerate(HEADS)}


def write(folder: Path) -> None:
    """Write ``squeeze.pth``, ``squeezenet1_1.pth`` and ``siggraph17.pth`` (narrow) into a folder."""
    safetensors.numpy.save_file(lpips_heads(), folder / "squeeze.pth")
    safetensors.numpy.save_file(squeezenet(), folder / "squeezenet1_1.pth")
    narrow = networks.Network(*nnx.split(networks.Colorization(width=2, rngs=nnx.Rngs(0))))
    networks.save("siggraph17", narrow, folder / "siggraph17.pth", width=2)
