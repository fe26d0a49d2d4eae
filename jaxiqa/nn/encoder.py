"""A layer of a transformer encoder, and the encoding of positions that it adds to queries and keys."""

import math
from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.nn.activations import activate
from jaxiqa.nn.dropout import Dropout
from jaxiqa.nn.transformer import attend, layer_norm


@cache
def position_encoding(height: int, width: int, channels: int) -> Float[np.ndarray, "height width channels"]:
    """Return sines and cosines of the row (first half of the channels) and of the column (second half).

    Channels 2i and 2i + 1 of a half of n channels are ``sin`` and ``cos`` of ``p / 10000^(2i / n)``, where
    ``p = 2π (row + 1) / (height + 1e-6)``; columns likewise. Reference: "End-to-End Object Detection
    with Transformers", arXiv:2005.12872.

    Args:
        height, width: of the map.
        channels: a multiple of 4.

    >>> print(position_encoding(2, 3, 4)[0, 0].round(3))
    [ 0.    -1.     0.866 -0.5  ]
    """
    if channels % 4:
        raise ValueError(f"channels={channels!r} is not allowed; it must be a multiple of 4")
    half = channels // 2
    frequencies = 10000.0 ** (-2 * (np.arange(half) // 2) / half)

    def encode(side: int) -> np.ndarray:
        angles = 2 * np.pi * (np.arange(side)[:, None] + 1) / (side + 1e-6) * frequencies
        return np.where(np.arange(half) % 2 == 0, np.sin(angles), np.cos(angles))

    rows = np.broadcast_to(encode(height)[:, None], (height, width, half))
    columns = np.broadcast_to(encode(width)[None], (height, width, half))
    return np.concatenate([rows, columns], axis=-1).astype(np.float32)


class Projections(nnx.Module):
    """Apply three linear maps to three inputs as one batched product: ``y_i = x_i W_iᵀ + b_i``.

    ``W_i`` is ``out in``, as published; on a CPU this is faster than ``in out``.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=2, out_axis=1, batch_axis=0)
        self.kernel = nnx.Param(init(rngs.params(), (3, features, features), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((3, features)))

    def __call__(self, x: Float[Array, "3 b n c"]) -> Float[Array, "3 b n c"]:
        return jnp.einsum("pbni,poi->pbno", x, self.kernel[...]) + self.bias[:, None, None]


def thinned_attend(
    queries: Float[Array, "b n c"],
    keys: Float[Array, "b m c"],
    values: Float[Array, "b m c"],
    *,
    heads: int,
    thin: Callable[[Array], Array],
) -> Float[Array, "b n c"]:
    """Return `jaxiqa.nn.transformer.attend` with ``thin`` applied to the weights, for dropout.

    >>> tokens = jnp.arange(12.0).reshape(1, 3, 4)
    >>> mean = thinned_attend(jnp.zeros((1, 2, 4)), tokens, tokens, heads=2, thin=lambda weights: 2 * weights)
    >>> mean[0, 0].tolist()
    [8.0, 10.0, 12.0, 14.0]
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for x in (queries, keys, values))
    weights = thin(jax.nn.softmax(jnp.einsum("bhnc,bhmc->bhnm", q, k) / math.sqrt(q.shape[-1])))
    return jnp.einsum("bhnm,bhmc->bnhc", weights, v).reshape(queries.shape)


class EncoderLayer(nnx.Module):
    """Compute ``x + out(attend(...))``, then ``x + linear2(relu(linear1(x)))``, each branch on ``norm(x)``.

    The position is added to the input of queries and keys, not of values. ``dropout`` is the rate in both branches, in
    front of ``linear2``, and of the attention's weights.
    """

    activation = "relu"

    def __init__(self, features: int, *, heads: int, hidden: int, dropout: float = 0.0, rngs: nnx.Rngs):
        self.heads = heads
        self.dropout = nnx.List([Dropout(dropout) for _ in range(4)])
        self.norm1 = layer_norm(features, epsilon=1e-5, rngs=rngs)
        self.qkv = Projections(features, rngs=rngs)
        self.out = nnx.Linear(features, features, rngs=rngs)
        self.norm2 = layer_norm(features, epsilon=1e-5, rngs=rngs)
        self.linear1 = nnx.Linear(features, hidden, rngs=rngs)
        self.linear2 = nnx.Linear(hidden, features, rngs=rngs)

    def __call__(self, x: Float[Array, "b n c"], position: Float[Array, "n c"]) -> Float[Array, "b n c"]:
        y = self.norm1(x)
        placed = y + position
        queries, keys, values = self.qkv(jnp.stack([placed, placed, y]))
        in_weights, after_attention, in_branch, after_branch = self.dropout
        if in_weights.active:
            seen = thinned_attend(queries, keys, values, heads=self.heads, thin=in_weights)
        else:
            seen = attend(queries, keys, values, heads=self.heads)
        x = x + after_attention(self.out(seen))
        return x + after_branch(self.linear2(in_branch(activate(self.activation, self.linear1(self.norm2(x))))))
