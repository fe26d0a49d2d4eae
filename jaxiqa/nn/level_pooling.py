"""Pooling of the levels of a backbone to one size: unit length over channels, smooth L2 pooling, means of blocks."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def unit_channels(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Return ``x / max(‖x‖₂, 1e-12)``, the norm over channels; a zero vector stays zero, its norm has gradient zero.

    >>> print(jax.device_get(unit_channels(jnp.array([[[[3.0, 4.0], [0.0, 0.0]]]]))).round(3))
    [[[[0.6 0.8]
       [0.  0. ]]]]
    """
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-24))


def l2_pool_smooth(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Return ``sqrt(g * x² + 1e-12)``, ``g = [1 2 1]ᵀ [1 2 1] / 16``: the local root mean square, zero padding.

    >>> print(jax.device_get(l2_pool_smooth(jnp.ones((1, 3, 3, 1))))[0, 1, :, 0].round(3))
    [0.866 1.    0.866]
    """
    return jnp.sqrt(_smooth(_smooth(x * x, axis=1), axis=2) + 1e-12)


def _smooth(x: Array, axis: int) -> Array:
    """Apply ``[1 2 1] / 4`` along an axis. XLA must not fuse it: it would compute it once per use, 3 times slower."""
    count = x.shape[axis]
    zeros = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis))
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, count, axis=axis), zeros], axis)
    before = jnp.concatenate([zeros, jax.lax.slice_in_dim(x, 0, count - 1, axis=axis)], axis)
    return jax.lax.optimization_barrier(0.25 * before + 0.5 * x + 0.25 * after)


def block_mean(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
    """Return the means of the equal blocks that cut a map into ``size`` (height, width), which divides its sides.

    >>> block_mean(jnp.arange(8.0).reshape(1, 2, 4, 1), (1, 2)).ravel().tolist()
    [2.5, 4.5]
    """
    b, h, w, c = x.shape
    return jnp.mean(x.reshape(b, size[0], h // size[0], size[1], w // size[1], c), (2, 4))
