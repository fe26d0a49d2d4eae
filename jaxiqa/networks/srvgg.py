"""Real-ESRGAN's compact network ("realesr-general-x4v3"): upscaling by four without artefacts.

"Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data", arXiv:2107.10833.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.types import Images
from jaxiqa.networks.distance import NetworkSpec
from jaxiqa.networks.network import Network
from jaxiqa.networks.prelu import prelu
from jaxiqa.nn.conv import conv
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

DEEPEST = 64
"""Largest number of inner convolutions for which the parameter names of checkpoints are known."""


class SRVGG(nnx.Module):
    """``b h w 3 -> b fh fw 3``: nearest(x) + shuffle(conv(… prelu(conv(x)))); only the shuffle changes the size.

    The result is not clipped.

    Args:
        depth: 3×3 convolutions between the first and the last.
        width: channels between them.
        factor: f, the ratio of output to input size.
        rngs: random numbers for the kernels.

    >>> import jax
    >>> net = nnx.eval_shape(lambda: SRVGG(rngs=nnx.Rngs(0)))
    >>> sum(variable.size for variable in jax.tree.leaves(nnx.state(net)))
    1213296
    """

    def __init__(self, *, depth: int = 32, width: int = 64, factor: int = 4, rngs: nnx.Rngs):
        widths = [3, *[width] * (depth + 1), 3 * factor**2]
        self.factor = factor
        self.conv = nnx.List(conv(cin, cout, 3, bias=True, rngs=rngs) for cin, cout in pairwise(widths))
        self.slope = nnx.List(nnx.Param(jnp.full(width, 0.25)) for _ in range(depth + 1))

    def __call__(self, images: Images) -> Float[Array, "b h2 w2 3"]:
        *layers, last = self.conv
        x = images
        for layer, slope in zip(layers, self.slope, strict=True):
            x = prelu(layer(x), slope[...])
        return _shuffle(last(x), self.factor) + images.repeat(self.factor, 1).repeat(self.factor, 2)


def _shuffle(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h2 w2 3"]:
    """Reorder channels ``3 f f`` to pixels, in PyTorch's order."""
    b, h, w, _ = x.shape
    x = x.reshape(b, h, w, 3, factor, factor).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(b, h * factor, w * factor, 3)


def _rules() -> tuple[key_map.Rule, ...]:
    """Return rules; the published names number convolutions and slopes together."""
    rules: list[key_map.Rule] = []
    for level in range(DEEPEST + 2):
        rules += key_map.conv(rf"body\.{2 * level}", f"conv.{level}", bias=True)
        rules += [(rf"body\.{2 * level + 1}\.weight", f"slope.{level}", key_map.same)]
    return tuple(rules)


def _options(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    kernels = [array for key, array in arrays.items() if key.startswith("body.") and array.ndim == 4]
    last = arrays.get(f"body.{2 * len(kernels) - 2}.weight")
    if "body.0.weight" not in arrays or last is None:
        return {}  # the error of `fill` then lists what is missing
    factor = max(1, round((len(last) / 3) ** 0.5))
    return {"depth": len(kernels) - 2, "width": len(arrays["body.0.weight"]), "factor": factor}


RELEASES = "https://github.com/xinntao/Real-ESRGAN/releases"

SPEC = NetworkSpec(
    build=SRVGG,
    rules=_rules(),
    title="Real-ESRGAN, general x4v3",
    paper="arXiv:2107.10833",
    licence="BSD-3-Clause",
    weights={
        name: WeightsUrl(url=f"{RELEASES}/download/v0.2.5.0/realesr-{name}.pth", page=RELEASES)
        for name in ("general-x4v3", "general-wdn-x4v3")
    },
    wrap=Network,
    options=_options,
)
