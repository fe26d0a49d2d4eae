"""Down-sampling without loss: pixels become channels."""

from jaxtyping import Array, Float


def space_to_depth(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h2 w2 c2"]:
    """Rearrange ``b h w c → b h/s w/s s²c``: each s×s block becomes one pixel. A permutation, so an isometry.

    Raises:
        ValueError: a side is not a multiple of ``factor``.

    >>> import jax.numpy as jnp
    >>> space_to_depth(jnp.arange(4.0).reshape(1, 2, 2, 1), 2).tolist()
    [[[[0.0, 1.0, 2.0, 3.0]]]]
    """
    b, h, w, c = x.shape
    if h % factor or w % factor:
        raise ValueError(f"a {h}x{w} map cannot be divided into {factor}x{factor} blocks; pad or crop it first")
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor**2 * c)


def depth_to_space(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h2 w2 c2"]:
    """Invert `space_to_depth`: ``b h w s²c → b sh sw c``.

    Raises:
        ValueError: the number of channels is not a multiple of the square of ``factor``.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(24.0).reshape(1, 2, 4, 3)
    >>> bool((depth_to_space(space_to_depth(x, 2), 2) == x).all())
    True
    """
    b, h, w, c = x.shape
    if c % factor**2:
        raise ValueError(f"{c} channels cannot be divided into {factor}x{factor} blocks")
    x = x.reshape(b, h, w, factor, factor, c // factor**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c // factor**2)
