"""Max pooling with a fast derivative on CPUs, where XLA's is thirty times slower than PyTorch's."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], tuple[int, int]]


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def max_pool(
    x: Float[Array, "b h w c"], window: int, stride: int, padding: Pads = ((0, 0), (0, 0))
) -> Float[Array, "b h2 w2 c"]:
    """Return the largest value of every ``window`` × ``window`` patch, one patch every ``stride`` pixels.

    Of several equal values, the first in the order of rows and columns gets the gradient, as in PyTorch.

    Args:
        x: the maps.
        window, stride: in pixels.
        padding: pixels of −∞ above and below, left and right.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2, 2)[0, ..., 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    pads = ((0, 0), *padding, (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, stride, stride, 1), pads)


@max_pool.defjvp
def _derivative(window, stride, padding, primals, tangents):
    # Columns, then rows: the first largest value of the first largest row is the first of all.
    (x,), (tangent,) = primals, tangents
    for axis in (2, 1):
        low, high = padding[axis - 1]
        values = _places(x, -jnp.inf, axis, window, stride, low, high)
        x, first = values[0], jnp.zeros(values[0].shape, jnp.int8)
        for place, value in enumerate(values[1:], 1):
            first = jnp.where(value > x, jnp.int8(place), first)
            x = jnp.maximum(x, value)
        changes = _places(tangent, 0.0, axis, window, stride, low, high)
        tangent = sum(jnp.where(first == place, change, 0) for place, change in enumerate(changes))
    return x, tangent


def _places(x, fill, axis, window, stride, low, high):
    """Return, for every position in a window along one axis, in order, its values in all windows.

    The map is first sorted by index modulo ``stride``, so that the transpose adds maps without holes.
    """
    side = x.shape[axis]
    size = (side + low + high - window) // stride + 1
    whole = -(-(stride * (size - 1) + window) // stride)
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (low, stride * whole - low - side, 0)  # negative values cut off an unused border
    x = jax.lax.pad(x, jnp.asarray(fill, x.dtype), pads)
    x = x.reshape(*x.shape[:axis], whole, stride, *x.shape[axis + 1 :])
    phases = [jnp.squeeze(phase, axis + 1) for phase in jnp.split(x, stride, axis + 1)]
    return [jax.lax.slice_in_dim(phases[i % stride], i // stride, i // stride + size, axis=axis) for i in range(window)]
