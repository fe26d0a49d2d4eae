"""DnCNN: a plain stack of convolutions that predicts the noise in an image and subtracts it.

"Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising", arXiv:1608.03981.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxiqa.core.checks import check_number
from jaxiqa.core.types import Images
from jaxiqa.networks.distance import NetworkSpec
from jaxiqa.networks.network import Network
from jaxiqa.nn.conv import HE, conv
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

DEEPEST = 64
"""Largest number of convolutions for which the parameter names of checkpoints are known."""


class DnCNN(nnx.Module):
    """``x − net(x)``, ``b h w 3 -> b h w 3``: 3×3 convolutions, all but the first and last followed by a batch norm.

    The last kernel starts at zero, so that a fresh network returns images unchanged.

    Args:
        depth: convolutions, 3 to 64; 17 as published.
        width: channels between them.
        rngs: random numbers for the kernels.

    >>> net = nnx.eval_shape(lambda: DnCNN(rngs=nnx.Rngs(0)))
    >>> sum(variable.size for variable in jax.tree.leaves(nnx.state(net, nnx.Param)))
    558400
    """

    def __init__(self, *, depth: int = 17, width: int = 64, rngs: nnx.Rngs):
        check_number("depth", depth, 3, DEEPEST)
        widths = [3, *[width] * (depth - 1), 3]
        inits = [*[HE] * (depth - 1), nnx.initializers.zeros]
        self.conv = nnx.List(
            conv(cin, cout, 3, bias=level == 0, init=inits[level], rngs=rngs)
            for level, (cin, cout) in enumerate(pairwise(widths))
        )
        self.norm = nnx.List(
            nnx.BatchNorm(width, use_running_average=True, momentum=0.9, epsilon=1e-4, rngs=rngs)
            for _ in range(depth - 2)
        )

    def __call__(self, images: Images) -> Images:
        first, *middle, last = self.conv
        x = jax.nn.relu(first(images))
        for layer, norm in zip(middle, self.norm, strict=True):
            x = jax.nn.relu(norm(layer(x)))
        return images - last(x)


def _rules() -> tuple[key_map.Rule, ...]:
    """Return rules; the published names number convolutions, norms and ReLUs together."""
    rules = [*key_map.conv(r"dncnn\.0", "conv.0", bias=True)]
    for level in range(1, DEEPEST):
        rules += key_map.conv(rf"dncnn\.{3 * level - 1}", f"conv.{level}")
        rules += key_map.batch_norm(rf"dncnn\.{3 * level}", f"norm.{level - 1}")
    return tuple(rules)


def _options(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    kernels = [array for key, array in arrays.items() if key.startswith("dncnn.") and array.ndim == 4]
    if "dncnn.0.weight" not in arrays or len(kernels) < 3:
        return {}  # the error of `fill` then lists what is missing
    return {"depth": len(kernels), "width": len(arrays["dncnn.0.weight"])}


SPEC = NetworkSpec(
    build=DnCNN,
    rules=_rules(),
    title="DnCNN, trained for denoised smoothing (arXiv:2003.01908)",
    paper="arXiv:1608.03981",
    licence="MIT",
    weights={"published": WeightsUrl(url=None, page="https://github.com/microsoft/denoised-smoothing")},
    wrap=Network,
    options=_options,
)
