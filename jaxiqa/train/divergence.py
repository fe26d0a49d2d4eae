"""Signs that a training has diverged, although no loss was infinite: batch norms and losses that ignore the scale of
scores hide it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

GROWTH = 1000.0
"""Root mean square of the weights at the end of an epoch, as a multiple of that at the start, above which a training
has diverged. Healthy ones stay below 10."""

LARGEST_SPREAD = 1e6
"""Standard deviation of raw scores above which a training has diverged. Labels are standardised while training, so that
healthy scores spread by about 1."""


@jax.jit
def rms(tree: Any) -> Float[Array, ""]:
    """Root mean square over all numbers of a tree; infinite or NaN where one of them is.

    >>> round(float(rms({"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.0])})), 4)
    2.8868
    """
    leaves = jax.tree.leaves(tree)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in leaves]))
    scale = jnp.maximum(largest, 1e-30)  # squares of 1e20 would overflow
    squares = sum(jnp.sum((leaf / scale) ** 2) for leaf in leaves)
    return scale * jnp.sqrt(squares / sum(leaf.size for leaf in leaves))


def check_weights(start: float, params: Any, batch_stats: Any, step: int) -> None:
    """Raise ``FloatingPointError`` where the weights have exploded since the start.

    Args:
        start: `rms` of the parameters before the first step.
        params, batch_stats: as they are.
        step: steps done, for the message.
    """
    now = float(rms(params))
    if not np.isfinite(now) or now > GROWTH * max(start, 1e-6):
        raise FloatingPointError(
            f"training diverged: at step {step} the weights' root mean square is {now:.3g}, {start:.3g} at the start"
        )
    if jax.tree.leaves(batch_stats) and not np.isfinite(float(rms(batch_stats))):
        raise FloatingPointError(f"training diverged: at step {step} statistics of batch norms are not finite")


def check_scores(scores: Float[np.ndarray, " n"], step: int) -> None:
    """Raise ``FloatingPointError`` where validation scores are not finite, or spread by more than `LARGEST_SPREAD`.

    >>> check_scores(np.array([1.0, np.inf]), 8)
    Traceback (most recent call last):
    FloatingPointError: training diverged: at step 8, 1 of 2 validation scores is not finite
    """
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        verb = "is" if bad == 1 else "are"
        raise FloatingPointError(
            f"training diverged: at step {step}, {bad} of {len(scores)} validation scores {verb} not finite"
        )
    if (spread := float(np.std(scores, dtype=np.float64))) > LARGEST_SPREAD:
        raise FloatingPointError(
            f"training diverged: at step {step} validation scores spread by {spread:.3g}, where about 1 is usual"
        )


def differ(scores: Float[np.ndarray, " n"]) -> bool:
    """Whether scores differ by more than what float32 rounds.

    >>> differ(np.array([1.0, 1.1])), differ(np.array([1e6, 1e6 + 0.06]))
    (True, False)
    """
    return bool(np.ptp(scores) > 1e-6 * np.abs(scores).max())
