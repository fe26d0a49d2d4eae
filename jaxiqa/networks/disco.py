"""DISCO: an image as a continuous function, drawn from clean local features at any size.

"DISCO: Adversarial Defense with Local Implicit Functions", arXiv:2212.05630.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxiqa.core.types import Images
from jaxiqa.networks.distance import NetworkSpec
from jaxiqa.networks.network import Network
from jaxiqa.nn.conv import conv
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""The features above or below, left or right of a pixel."""

CHUNK = 2**15
"""Pixels that the decoder computes at a time: 128 MiB of activations."""


class Residual(nnx.Module):
    """Compute ``x + conv(relu(conv(x)))``."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv = nnx.List(conv(width, width, 3, bias=True, rngs=rngs) for _ in range(2))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        first, second = self.conv
        return x + second(jax.nn.relu(first(x)))


class Encoder(nnx.Module):
    """EDSR-baseline without its upsampling: ``h + conv(blocks(h))``, h = conv(x).

    Reference: Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", arXiv:1707.02921.
    """

    def __init__(self, *, depth: int, width: int, rngs: nnx.Rngs):
        self.head = conv(3, width, 3, bias=True, rngs=rngs)
        self.block = nnx.List(Residual(width, rngs=rngs) for _ in range(depth))
        self.tail = conv(width, width, 3, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w c"]:
        head = x = self.head(x)
        for block in self.block:
            x = jax.checkpoint(lambda x, block=block: block(x))(x)
        return head + self.tail(x)


class DISCO(nnx.Module):
    """EDSR features, and LIIF, a small network that gives the colour at any position between them.

        colour(p) = Σ over the four nearest features f_k at p_k: s_k · net([unfold₃ₓ₃ f_k, (p − p_k), cell])

    with positions and the cell (the sides of an output pixel) in units of half a feature pixel, and s_k the area ratio
    of the rectangle between p and the *opposite* feature. The result is in [0, 1] but not clipped.

    Args:
        depth: residual blocks of the encoder.
        width: channels of the features.
        hidden: channels of the decoder's four hidden layers.
        rngs: random numbers for the weights.

    The decoder's first layer is linear in the 3×3 features, so it is a convolution, computed once per feature instead
    of four times per pixel. The rest runs on a few rows at a time. Each such part and each encoder block is a
    checkpoint, so memory stays bounded, with and without a gradient.

    >>> net = nnx.eval_shape(lambda: DISCO(rngs=nnx.Rngs(0)))
    >>> sum(variable.size for variable in jax.tree.leaves(nnx.state(net)))
    1567299

    Reference: Chen, Liu and Wang, "Learning Continuous Image Representation with Local Implicit Image Function",
    arXiv:2012.09161 (LIIF).
    """

    def __init__(self, *, depth: int = 16, width: int = 64, hidden: int = 256, rngs: nnx.Rngs):
        self.encoder = Encoder(depth=depth, width=width, rngs=rngs)
        self.first = nnx.Linear(9 * width + 4, hidden, rngs=rngs)
        widths = [hidden] * 4 + [3]
        self.decoder = nnx.List(nnx.Linear(cin, cout, rngs=rngs) for cin, cout in pairwise(widths))

    def features(self, images: Images) -> Float[Array, "b h w width"]:
        """Return the encoder's map."""
        return self.encoder((images - 0.5) / 0.5)

    def __call__(self, images: Images, size: tuple[int, int] | None = None) -> Float[Array, "b h2 w2 3"]:
        """Return the image at ``size`` (height, width); None: its own size."""
        b, h, w, c = images.shape
        height, width = size or (h, w)
        assert self.first.bias is not None
        kernel = self.first.kernel[...]
        unfolded, placed = kernel[:-4].reshape(-1, 3, 3, kernel.shape[1]).transpose(1, 2, 0, 3), kernel[-4:]
        local = _conv(self.features(images), unfolded) + self.first.bias[...]
        cell = jnp.array([2 * h / height, 2 * w / width], images.dtype) @ placed[2:]
        columns, offsets = nearest(width, w)
        across = jnp.asarray(offsets, images.dtype)

        @jax.checkpoint
        def draw(chunk: Any) -> Array:
            rows, down = chunk
            total = jnp.zeros((b, rows.shape[1], width, c), images.dtype)
            weights = jnp.zeros((rows.shape[1], width), images.dtype)
            for v, u in CORNERS:
                place = down[v][:, None, None] * placed[0] + across[u][:, None] * placed[1] + cell
                colour = self._decode(local[:, rows[v]][:, :, columns[u]] + place)
                share = jnp.abs(down[1 - v][:, None] * across[1 - u]) + 1e-9
                total, weights = total + colour * share[..., None], weights + share
            return total / weights[..., None]

        lines = max(1, min(height, CHUNK // (b * width)))
        rows, down = nearest(height, h)
        chunks = tuple(
            jnp.asarray(np.pad(table, ((0, 0), (0, -height % lines)), mode="edge").reshape(2, -1, lines).swapaxes(0, 1))
            for table in (rows, down.astype(images.dtype))
        )
        if jax.default_backend() == "cpu":  # loops are slow there
            drawn = jnp.stack([draw(jax.tree.map(lambda table: table[i], chunks)) for i in range(len(chunks[0]))])  # noqa: B023
        else:
            drawn = jax.lax.map(draw, chunks)
        return drawn.swapaxes(0, 1).reshape(b, -1, width, c)[:, :height] * 0.5 + 0.5

    def _decode(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w 3"]:
        for layer in self.decoder:
            x = layer(jax.nn.relu(x))
        return x


def nearest(size: int, side: int) -> tuple[Int[np.ndarray, "2 size"], Float[np.ndarray, "2 size"]]:
    """For ``size`` pixels over ``side`` features along an axis, return the features before and after, and distances.

    Distances are in half features. For a pixel in the outer half of the outermost feature, both are that feature.

    >>> index, offset = nearest(2, 4)
    >>> index.tolist(), offset.tolist()
    ([[0, 2], [1, 3]], [[1.0, 1.0], [-1.0, -1.0]])
    """
    place = (2 * np.arange(size) + 1) / size - 1
    # The small shift to the right is the original's: it decides for a position midway between two features.
    beside = np.clip(place + np.array([[-1.0], [1.0]]) / side + 1e-6, -1 + 1e-6, 1 - 1e-6)
    index = np.rint(((beside + 1) * side - 1) / 2).astype(np.int32)
    return index, (place - ((2 * index + 1) / side - 1)) * side


def _conv(x: Float[Array, "b h w cin"], kernel: Float[Array, "3 3 cin cout"]) -> Float[Array, "b h w cout"]:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _rules() -> tuple[key_map.Rule, ...]:
    """Return rules; the checkpoint's mean shifts are unused."""
    rules = [
        (r"encoder\.(?:sub|add)_mean\.(?:weight|bias)", None, key_map.same),
        *key_map.conv(r"encoder\.head\.0", "encoder.head", bias=True),
        *key_map.conv(r"encoder\.body\.(\d+)\.body\.0", r"encoder.block.\1.conv.0", bias=True),
        *key_map.conv(r"encoder\.body\.(\d+)\.body\.2", r"encoder.block.\1.conv.1", bias=True),
        *key_map.conv(r"encoder\.body\.\d+", "encoder.tail", bias=True),
        *key_map.linear(r"imnet\.layers\.0", "first"),
    ]
    for layer in range(4):
        rules += key_map.linear(rf"imnet\.layers\.{2 * layer + 2}", f"decoder.{layer}")
    return tuple(rules)


def _options(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if not {"encoder.head.0.weight", "imnet.layers.0.weight"} <= arrays.keys():
        return {}  # the error of `fill` then lists what is missing
    blocks = [key for key in arrays if re.fullmatch(r"encoder\.body\.\d+\.body\.0\.weight", key)]
    width, hidden = len(arrays["encoder.head.0.weight"]), len(arrays["imnet.layers.0.weight"])
    return {"depth": len(blocks), "width": width, "hidden": hidden}


SPEC = NetworkSpec(
    build=DISCO,
    rules=_rules(),
    title="DISCO",
    paper="arXiv:2212.05630",
    licence="see its page",
    weights={"published": WeightsUrl(url=None, page="https://github.com/chihhuiho/disco")},
    wrap=Network,
    options=_options,
)
