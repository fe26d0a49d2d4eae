"""Pooling with known Lipschitz constants."""

from flax import nnx
from jaxtyping import Array, Float


def square_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b n n c"]:
    """Max-pool a map to a square, as in front of the Cayley layers of arXiv:2506.04951.

    With Δ = |h − w| and u = ⌈shorter/50⌉ + 1 the window is u along the shorter side and u + Δ along the longer one,
    stride 1, so both sides become shorter − u + 1. A square map is returned unchanged.

    A value belongs to at most k = min(u, n)·min(u + Δ, n) windows, n being the output's side, and one that is the
    largest of them all moves k outputs: the constant is √k, **not** 1.

    >>> import jax.numpy as jnp
    >>> square_pool(jnp.zeros((1, 32, 42, 2))).shape, square_pool(jnp.zeros((1, 42, 32, 2))).shape
    ((1, 31, 31, 2), (1, 31, 31, 2))

    **Differs from the paper**: portrait maps work like landscape ones (there they fail).
    """
    h, w = x.shape[1:3]
    if h == w:
        return x
    window, difference = -(-min(h, w) // 50) + 1, abs(h - w)
    if window > min(h, w):
        raise ValueError(f"a {h}x{w} map is too small to be pooled to a square")
    shape = (window, window + difference) if h < w else (window + difference, window)
    return nnx.max_pool(x, shape, strides=(1, 1))


class SquarePool(nnx.Module):
    """`square_pool` as a stage of a network."""

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b n n c"]:
        return square_pool(x)
