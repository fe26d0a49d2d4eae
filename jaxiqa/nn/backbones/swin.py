"""Stages of a Swin transformer that keep the resolution, as in MANIQA.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv:2103.14030.
"""

from functools import cache

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxiqa.nn.activations import activate
from jaxiqa.nn.conv import conv
from jaxiqa.nn.transformer import MLP, SelfAttention, layer_norm
from jaxiqa.pretrained import key_map


def partition(x: Float[Array, "b h w c"], window: int) -> Float[Array, "n tokens c"]:
    """Cut a map into windows, row by row; each is a sequence of tokens.

    >>> partition(jnp.arange(8).reshape(1, 2, 4, 1) * 1.0, 2)[:, :, 0].tolist()
    [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, window * window, c)


def merge(windows: Float[Array, "n tokens c"], size: tuple[int, int], window: int) -> Float[Array, "b h w c"]:
    """Join the windows of `partition` to a map."""
    h, w = size
    x = windows.reshape(-1, h // window, w // window, window, window, windows.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, windows.shape[-1])


@cache
def relative_positions(window: int) -> Int[np.ndarray, "n n"]:
    """Return, for each pair of a window's tokens, the index of their offset among the ``(2·window - 1)²`` offsets.

    >>> relative_positions(2).tolist()
    [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    """
    row, column = np.divmod(np.arange(window * window), window)
    rows, columns = (axis[:, None] - axis + window - 1 for axis in (row, column))
    return rows * (2 * window - 1) + columns


@cache
def shift_mask(size: tuple[int, int], window: int, shift: int) -> Float[np.ndarray, "windows n n"]:
    """Return 0 where two tokens of a window of the shifted map were neighbours before the shift, else -100.

    >>> shift_mask((4, 4), 2, 1)[1].tolist()  # top right window: the shift joined its left and right columns
    [[0.0, -100.0, 0.0, -100.0], [-100.0, 0.0, -100.0, 0.0], [0.0, -100.0, 0.0, -100.0], [-100.0, 0.0, -100.0, 0.0]]
    """
    # Along an axis: 0 in windows that the shift did not split, 1 and 2 for the two parts of the last one.
    rows, columns = (
        np.where(np.arange(side) < side - window, 0, np.where(np.arange(side) < side - shift, 1, 2)) for side in size
    )
    whole = (3 * rows[:, None] + columns).reshape(size[0] // window, window, size[1] // window, window)
    region = whole.transpose(0, 2, 1, 3).reshape(-1, window * window)
    return np.where(region[:, :, None] == region[:, None], 0, -100).astype(np.float32)


class WindowBlock(nnx.Module):
    """Compute ``x + attn(norm1(x))`` within windows of the shifted map, then ``x + mlp(norm2(x))``."""

    def __init__(self, features: int, *, heads: int, window: int, shift: int, hidden: int, rngs: nnx.Rngs):
        self.window, self.shift = window, shift
        self.norm1 = layer_norm(features, epsilon=1e-5, rngs=rngs)
        self.attn = SelfAttention(features, heads, rngs=rngs)
        init = nnx.initializers.normal(0.02)
        self.position = nnx.Param(init(rngs.params(), ((2 * window - 1) ** 2, heads), jnp.float32))
        self.norm2 = layer_norm(features, epsilon=1e-5, rngs=rngs)
        self.mlp = MLP(features, hidden, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        size, shift = (x.shape[1], x.shape[2]), self.shift
        # Heads first, so that the bias adds to the logits `windows heads n n`.
        bias = self.position[...][relative_positions(self.window)].transpose(2, 0, 1)[None]
        if shift:
            mask = jnp.asarray(shift_mask(size, self.window, shift))[:, None]
            bias = jnp.tile(bias + mask, (x.shape[0], 1, 1, 1))
        y = jnp.roll(self.norm1(x), (-shift, -shift), (1, 2))
        y = merge(self.attn(partition(y, self.window), bias), size, self.window)
        x = x + jnp.roll(y, (shift, shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class SwinLayer(nnx.Module):
    """Compute ``x + scale · relu(conv3x3(block_n(... block_1(x))))``; every second block shifts by half a window.

    Args:
        features: channels, in and out.
        depth: number of blocks.
        heads: of every attention, divides ``features``.
        window: side of a window; it divides both sides of the maps.
        hidden: channels inside the MLPs.
        scale: factor of the branch.
        rngs: random numbers for the weights.
    """

    activation = "relu"

    def __init__(
        self, features: int, *, depth: int, heads: int, window: int, hidden: int, scale: float, rngs: nnx.Rngs
    ):
        self.scale = scale
        self.block = nnx.List(
            [
                WindowBlock(features, heads=heads, window=window, shift=i % 2 * (window // 2), hidden=hidden, rngs=rngs)
                for i in range(depth)
            ]
        )
        self.conv = conv(features, features, 3, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = x
        for block in self.block:
            y = block(y)
        return x + self.scale * activate(self.activation, self.conv(y))


def rules(source: str, target: str) -> tuple[key_map.Rule, ...]:
    """Return conversion rules for one layer; tables that depend only on the window size are dropped."""
    block, ours = rf"{source}\.blocks\.(?P<block>\d)", rf"{target}.block.\g<block>"
    return (
        *key_map.layer_norm(rf"{block}\.norm(?P<norm>\d)", rf"{ours}.norm\g<norm>"),
        *key_map.linear(rf"{block}\.(?P<linear>attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)", rf"{ours}.\g<linear>"),
        (rf"{block}\.attn\.relative_position_bias_table", f"{ours}.position", key_map.same),
        (rf"{block}\.(attn\.relative_position_index|attn_mask)", None, key_map.same),
        *key_map.conv(rf"{source}\.conv", f"{target}.conv"),
        (rf"{source}\.conv\.bias", f"{target}.conv.bias", key_map.same),
    )
