"""Convolution of small maps by wide kernels, as in late stages of a network."""

from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.precision import at_least_float32

Padding = tuple[tuple[int, int], tuple[int, int]]

WIDE = 4
"""A kernel is wide if it has this many times the values of the map: then the product is faster on two CPU cores (512
channels at 7×7, batch 4: forward 7 ms instead of 12, backward 6 instead of 18; at 16×21, batch 1: 12 instead of 16
and 10 instead of 32; 256 channels at 14×14: equal; at 32×42: slower)."""


CHANNELS = 512
"""With at least this many channels on both sides, a kernel is wide on any map (512 channels at 16×16, batch 32: forward
380 ms instead of 460, backward 420 instead of 450)."""

GATHERED = 2**22
"""Up to this many values, the patches of a map are gathered for one product; beyond, there is one product per kernel
tap."""


def is_wide(x: Array, kernel: Array) -> bool:
    """Return whether `wide_conv` is faster here."""
    if not all(isinstance(side, int) for side in x.shape):  # sizes of an exported metric may be symbolic
        return False
    wide = kernel.size > WIDE * x.size or min(kernel.shape[2:]) >= CHANNELS
    return jax.default_backend() == "cpu" and wide


@partial(jax.jit, static_argnames=("padding", "precision"))  # one operation in traced programs, see jaxiqa.lipschitz
@at_least_float32
def wide_conv(
    x: Float[Array, "b h w cin"],
    kernel: Float[Array, "kh kw cin cout"],
    *,
    padding: Padding,
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "b h2 w2 cout"]:
    """Compute a convolution of stride 1 as one matrix product of all patches and the kernel, or as one per tap.

    Args:
        x: feature maps.
        kernel: filters.
        padding: zeros ((above, below), (left, right)).
        precision: of the product.

    >>> wide_conv(jnp.ones((1, 2, 3, 4)), jnp.ones((3, 3, 4, 5)), padding=((1, 1), (1, 1)))[0, :, :, 0].tolist()
    [[16.0, 24.0, 16.0], [16.0, 24.0, 16.0]]
    """
    kh, kw, cin, cout = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    patches = [x[:, i : i + height, j : j + width] for i in range(kh) for j in range(kw)]
    kernel = kernel.reshape(kh * kw, cin, cout)
    if kh * kw * x.size > GATHERED:
        return reduce(
            add, (jnp.dot(patch, tap, precision=precision) for patch, tap in zip(patches, kernel, strict=True))
        )
    return jnp.dot(jnp.concatenate(patches, axis=-1), kernel.reshape(-1, cout), precision=precision)
