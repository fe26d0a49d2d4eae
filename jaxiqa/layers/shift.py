"""Circular shifts: spatial mixing that moves pixels and changes no norm."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_number


@partial(jax.jit, static_argnames=("distance", "share"))
def circular_shift(x: Float[Array, "b h w c"], *, distance: int = 1, share: float = 0.5) -> Float[Array, "b h w c"]:
    """Shift channels by ``distance`` pixels down, up, right and left, circularly: a permutation, so ‖y‖ = ‖x‖.

    The first ``share`` of the channels is divided into four groups of ⌊share·c/4⌋, one per direction; the others stay.
    Between orthogonal 1×1 maps it mixes pixels as a convolution does. A stride-1 circular depthwise convolution that
    preserves norms can only be a shift.

    Args:
        x: feature maps of any size.
        distance: in pixels; shifts wrap around.
        share: of the channels that move, in [0, 1].

    Raises:
        ValueError: ``share`` is outside [0, 1].

    >>> x = jnp.arange(16.0).reshape(1, 2, 2, 4)
    >>> circular_shift(x, share=1.0)[0, 0, 0].tolist(), x[0, 0, 0].tolist()
    ([8.0, 9.0, 6.0, 7.0], [0.0, 1.0, 2.0, 3.0])

    Reference: Hu et al., "LipNeXt: Scaling up Lipschitz-based Certified Robustness to Billion-parameter Models",
    arXiv:2601.18513.
    """
    check_number("share", share, 0.0, 1.0)
    group = int(share * x.shape[-1] / 4)
    moves = ((distance, 1), (-distance, 1), (distance, 2), (-distance, 2))
    parts = [jnp.roll(x[..., i * group : (i + 1) * group], *move) for i, move in enumerate(moves)]
    return jnp.concatenate([*parts, x[..., 4 * group :]], axis=-1)
