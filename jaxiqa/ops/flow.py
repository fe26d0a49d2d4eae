"""Bilinear warps by a flow field, and the smoothness of such a field. For one image; vmap for batches."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.precision import at_least_float32

Flow = Float[Array, "h w 2"]
"""Displacement per pixel in pixels: rows (down) first, then columns (right)."""


@at_least_float32
def warp(image: Float[Array, "h w c"], flow: Flow) -> Float[Array, "h w c"]:
    """Sample ``image`` at pixel + flow, bilinearly; positions are clipped to the image.

    Args:
        image: at least 2×2.
        flow: the position where each output pixel is sampled, relative to itself, in pixels.

    Raises:
        ValueError: the image is smaller than 2×2.

    >>> image = jnp.arange(6.0).reshape(2, 3, 1)
    >>> warp(image, jnp.full((2, 3, 2), 0.5))[..., 0].tolist()
    [[2.0, 3.0, 3.5], [3.5, 4.5, 5.0]]
    """
    h, w, _ = image.shape
    if min(h, w) < 2:
        raise ValueError(f"image is {h}x{w}; a warp needs at least 2x2 pixels")
    y = _clip(jnp.arange(h)[:, None] + flow[..., 0], h - 1)
    x = _clip(jnp.arange(w)[None, :] + flow[..., 1], w - 1)
    top = jnp.clip(jnp.floor(y), 0, h - 2).astype(jnp.int32)
    left = jnp.clip(jnp.floor(x), 0, w - 2).astype(jnp.int32)
    dy, dx = (y - top)[..., None], (x - left)[..., None]
    upper = (1 - dx) * image[top, left] + dx * image[top, left + 1]
    lower = (1 - dx) * image[top + 1, left] + dx * image[top + 1, left + 1]
    return (1 - dy) * upper + dy * lower


def _clip(position, last):
    # jnp.clip halves the derivative at the bound itself, where a zero flow puts the border pixels.
    return jnp.where((position >= 0) & (position <= last), position, jnp.clip(position, 0, last))


@at_least_float32
def flow_loss(flow: Flow, *, root: bool = True, padding: str = "symmetric") -> Float[Array, ""]:
    """Return Σ over pixels p and their four diagonal neighbours q of (‖f_p − f_q‖² + 1e-8)^½, or without the root.

    Args:
        flow: the field.
        root: take the square root (the paper) or not (the defense benchmark, arXiv:2408.01541).
        padding: flow outside the image: ``"symmetric"`` (repeats the border) or ``"zero"``.

    Raises:
        ValueError: ``padding`` is unknown.

    >>> round(float(flow_loss(jnp.zeros((4, 6, 2)))), 6)  # 24 pixels, 4 neighbours, 1e-4 each
    0.0096

    Reference: Xiao et al., "Spatially Transformed Adversarial Examples", arXiv:1801.02612.
    """
    check_choice("padding", padding, ["symmetric", "zero"])
    h, w, _ = flow.shape
    padded = jnp.pad(flow, ((1, 1), (1, 1), (0, 0)), mode="symmetric" if padding == "symmetric" else "constant")
    total = jnp.zeros((), flow.dtype)
    for i in (0, 2):
        for j in (0, 2):
            squared = jnp.sum((flow - padded[i : i + h, j : j + w]) ** 2, axis=-1) + 1e-8
            total += jnp.sum(jnp.sqrt(squared) if root else squared)
    return total
