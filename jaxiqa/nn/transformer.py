"""Transformer parts in forms that are fast on a CPU: plain batched matrix products."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.precision import at_least_float32


def layer_norm(features: int, *, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Build ``(x - mean) / sqrt(variance + epsilon) · scale + bias`` over the last axis.

    The variance is the mean of ``(x - mean)²``; the mean of squares minus the square of the mean is less exact.
    """
    return nnx.LayerNorm(features, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


@at_least_float32
def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return ``x · (1 + erf(x / √2)) / 2``, exactly.

    `jax.nn.gelu` uses ``erfc``, which is several times slower on a CPU.

    >>> print(jax.device_get(gelu(jnp.array([-1.0, 0.0, 1.0]))).round(4))
    [-0.1587  0.      0.8413]
    """
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@at_least_float32
def attention(
    queries: Float[Array, "*b n c"],
    keys: Float[Array, "*b m c"],
    values: Float[Array, "*b m d"],
    bias: Float[Array, "..."] | None = None,
) -> Float[Array, "*b n d"]:
    """Return ``softmax(q kᵀ + bias) v``: for every query, the mean of the values weighted by the match of their keys.

    The derivative is written by hand: it multiplies matrices as they lie in memory. The automatic one copies the
    transposed weights.

    Args:
        queries, keys, values: tokens; for the usual form, divide the queries by the root of their channels.
        bias: added to the logits: their shape, or 1 instead of the first axis.

    >>> values = jnp.array([[1.0, 2.0], [3.0, 6.0]])
    >>> attention(jnp.zeros((1, 3)), jnp.ones((2, 3)), values).tolist()
    [[2.0, 4.0]]
    """
    return _attention(queries, keys, values, bias)


@jax.custom_jvp
def _attention(queries, keys, values, bias):
    return _weights(queries, keys, bias) @ values


def _weights(queries, keys, bias):
    logits = jnp.einsum("...nc,...mc->...nm", queries, keys)
    return jax.nn.softmax(logits if bias is None else logits + bias)


@_attention.defjvp
def _derivative(primals, tangents):
    queries, keys, values, bias = primals
    of_queries, of_keys, of_values, of_bias = tangents
    weights = _weights(queries, keys, bias)
    of_logits = jnp.einsum("...nc,...mc->...nm", of_queries, keys) + jnp.einsum("...nc,...mc->...nm", queries, of_keys)
    of_logits = of_logits if bias is None else of_logits + of_bias
    of_weights = weights * (of_logits - jnp.sum(weights * of_logits, -1, keepdims=True))
    # In the backward pass the transposed values are multiplied by the weights, which are not moved in memory.
    moved = jnp.einsum("...dm,...nm->...dn", jnp.swapaxes(of_values, -1, -2), weights)
    return weights @ values, of_weights @ values + jnp.swapaxes(moved, -1, -2)


@at_least_float32
def attend(
    queries: Float[Array, "b n c"],
    keys: Float[Array, "b m c"],
    values: Float[Array, "b m c"],
    *,
    heads: int,
    bias: Float[Array, "#b heads n m"] | None = None,
) -> Float[Array, "b n c"]:
    """Apply `attention` in each of ``heads`` groups of channels, logits divided by √(c / heads).

    "Attention Is All You Need", arXiv:1706.03762.

    Args:
        queries, keys, values: tokens; ``heads`` divides their channels.
        heads: number of groups.
        bias: added to the logits.

    >>> tokens = jnp.arange(12.0).reshape(1, 3, 4)
    >>> mean = attend(jnp.zeros((1, 2, 4)), tokens, tokens, heads=2)  # the logits are equal
    >>> print(jax.device_get(mean)[0, 0].round(3))
    [4. 5. 6. 7.]
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for x in (queries, keys, values))
    return attention(q / math.sqrt(q.shape[-1]), k, v, bias).swapaxes(1, 2).reshape(queries.shape)


class SelfAttention(nnx.Module):
    """Compute ``proj(attend(q, k, v))``, ``[q, k, v] = qkv(x)``."""

    def __init__(self, features: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = nnx.Linear(features, 3 * features, rngs=rngs)
        self.proj = nnx.Linear(features, features, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n c"], bias: Float[Array, "#b heads n n"] | None = None
    ) -> Float[Array, "b n c"]:
        q, k, v = jnp.split(self.qkv(x), 3, axis=-1)
        return self.proj(attend(q, k, v, heads=self.heads, bias=bias))


class MLP(nnx.Module):
    """Compute ``fc2(gelu(fc1(x)))``."""

    def __init__(self, features: int, hidden: int, *, rngs: nnx.Rngs):
        self.fc1 = nnx.Linear(features, hidden, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, features, rngs=rngs)

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        return self.fc2(gelu(self.fc1(x)))
