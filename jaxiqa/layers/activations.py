"""Activations that preserve gradient norms: each is 1-Lipschitz, and its Jacobian is orthogonal wherever it exists."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_number
from jaxiqa.core.precision import at_least_float32


def group_sort(x: Float[Array, "*b c"], size: int = 2) -> Float[Array, "*b c"]:
    """Sort each group of ``size`` neighbouring channels in ascending order; size 2 is MaxMin.

    The output is a permutation of the channels, so ‖y‖ = ‖x‖.

    Reference: Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation", arXiv:1811.05381.

    Raises:
        ValueError: the number of channels is not a multiple of ``size``.

    >>> group_sort(jnp.array([3.0, 1.0, -2.0, 5.0])).tolist()
    [1.0, 3.0, -2.0, 5.0]
    """
    if x.shape[-1] % size:
        raise ValueError(f"{x.shape[-1]} channels cannot be divided into groups of size={size}")
    return jnp.sort(x.reshape(*x.shape[:-1], -1, size), axis=-1).reshape(x.shape)


@jax.jit
def max_min(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """Return the smaller and the larger of each pair of neighbouring channels: `group_sort` of pairs, without a sort.

    Raises:
        ValueError: the number of channels is odd.

    >>> max_min(jnp.array([3.0, 1.0, -2.0, 5.0])).tolist()
    [1.0, 3.0, -2.0, 5.0]
    """
    if x.shape[-1] % 2:
        raise ValueError(f"{x.shape[-1]} channels cannot be divided into pairs")
    first, second = x[..., ::2], x[..., 1::2]
    pairs = jnp.stack([jnp.minimum(first, second), jnp.maximum(first, second)], axis=-1)
    return pairs.reshape(x.shape)


@partial(jax.jit, static_argnames="share")
def beta_abs(x: Float[Array, "*b c"], *, share: float = 0.5) -> Float[Array, "*b c"]:
    """Replace the first ⌊share·c⌋ channels by their absolute values; the others pass unchanged. ‖y‖ = ‖x‖.

    Between orthogonal maps, half absolute values are as expressive as `max_min`, which is |x − y| in rotated axes.

    Args:
        x: features.
        share: β in [0, 1].

    Raises:
        ValueError: ``share`` is outside [0, 1].

    >>> beta_abs(jnp.array([-1.0, 2.0, -3.0, -4.0])).tolist()
    [1.0, 2.0, -3.0, -4.0]

    Reference: Hu et al., "LipNeXt: Scaling up Lipschitz-based Certified Robustness to Billion-parameter Models",
    arXiv:2601.18513.
    """
    check_number("share", share, 0.0, 1.0)
    changed = jnp.arange(x.shape[-1]) < int(share * x.shape[-1])
    return jnp.where(changed, jnp.abs(x), x)


@jax.jit
@at_least_float32
def householder(x: Float[Array, "*b c"], angle: Float[Array, " p"]) -> Float[Array, "*b c"]:
    """Reflect each pair z of neighbouring channels into the half-plane v·z ≥ 0: ``z − 2v·min(v·z, 0)``.

    v = (sin θ/2, −cos θ/2), one θ per pair; θ = π/2 sorts the pair in descending order. Continuous, ‖y‖ = ‖x‖.
    Reference: Singla, Singla and Feizi, "Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100",
    arXiv:2108.04062.

    Raises:
        ValueError: ``x`` does not have two channels for each angle.

    >>> jnp.round(householder(jnp.array([1.0, 3.0]), jnp.array([jnp.pi / 2])), 5).tolist()
    [3.0, 1.0]
    """
    if x.shape[-1] != 2 * len(angle):
        raise ValueError(f"x has {x.shape[-1]} channels; {len(angle)} angles take {2 * len(angle)}")
    v = jnp.stack([jnp.sin(angle / 2), -jnp.cos(angle / 2)], axis=-1)
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    inner = jnp.sum(pairs * v, axis=-1, keepdims=True)
    return (pairs - 2 * v * jnp.minimum(inner, 0)).reshape(x.shape)


class Householder(nnx.Module):
    """`householder` with a learned angle per pair of channels; the angles start at π/2.

    >>> Householder(4)(jnp.array([1.0, 3.0, 5.0, 2.0])).round(5).tolist()
    [3.0, 1.0, 5.0, 2.0]
    """

    def __init__(self, channels: int):
        self.angle = nnx.Param(jnp.full(channels // 2, jnp.pi / 2))

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        return householder(x, self.angle[...])
