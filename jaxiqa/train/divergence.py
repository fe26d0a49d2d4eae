"""Signs that a training has diverged although no loss was infinite: batch norms, and losses that ignore the scale of
scores, hide it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

GROWTH = 1000.0
"""A training has diverged if the root mean square of the weights at the end of an epoch is more than this multiple of
that at the start."""

SMALL_START = 0.1
"""Lower limit for the root mean square at the start: weights may start at 0 and grow to any usual size."""

LARGEST_SPREAD = 1e6
"""Standard deviation of raw scores above which an epoch cannot be judged. Labels are standardised in training, so
scores spread by about 1, or by up to millions while the running statistics of batch norms still adapt."""

SETTLED = 1000
"""Steps after which they have adapted: 0.9^1000 of their initial values is left, and little of older weights."""


def rms(tree: Any) -> float:
    """Return the root mean square over all numbers of a tree; infinite or NaN if one of them is.

    >>> round(rms({"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.0])}), 4)
    2.8868
    """
    leaves = jax.tree.leaves(tree)
    # One small program per shape. As one program over all leaves, XLA needed minutes to compile it for 700 of them.
    largest, squares = np.array(jax.device_get([_largest_and_squares(leaf) for leaf in leaves]), np.float64).T
    return float(np.sqrt(np.sum(largest**2 * squares) / sum(np.size(leaf) for leaf in leaves)))


@jax.jit
def _largest_and_squares(leaf: Array) -> tuple[Array, Array]:
    """Return the largest magnitude m of the numbers, and Σ (x / m)²: squares of 1e20 would overflow."""
    leaf = jnp.asarray(leaf, jnp.float32)  # sums overflow in float16
    largest = jnp.max(jnp.abs(leaf), initial=0.0)
    return largest, jnp.sum((leaf / jnp.where(largest == 0, 1, largest)) ** 2)


def check_weights(start: float, params: Any, batch_stats: Any, step: int) -> None:
    """Raise ``FloatingPointError`` if the weights have exploded since the start.

    Args:
        start: `rms` of the parameters before the first step.
        params, batch_stats: the current ones.
        step: number of steps done, for the message.
    """
    now = rms(params)
    if not np.isfinite(now) or now > GROWTH * max(start, SMALL_START):
        raise FloatingPointError(
            f"training diverged: at step {step} the weights' root mean square is {now:.3g}, {start:.3g} at the start"
        )
    if jax.tree.leaves(batch_stats) and not np.isfinite(rms(batch_stats)):
        raise FloatingPointError(f"training diverged: at step {step} statistics of batch norms are not finite")


def unjudged(scores: Float[np.ndarray, " n"]) -> str | None:
    """Return why validation scores cannot judge an epoch, or None if they can.

    Such an epoch does not end a training: with running statistics from a few steps, scores of a sound metric may have
    any value. A training fails only if all its epochs are like that (`check_scores`).

    >>> unjudged(np.array([1.0, np.inf])), unjudged(np.array([0.0, 1e12])), unjudged(np.ones(3))
    ('1 of 2 validation scores is not finite', 'validation scores spread by 5e+11', 'all validation scores are equal')
    """
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        return f"{bad} of {len(scores)} validation scores {'is' if bad == 1 else 'are'} not finite"
    if (spread := float(np.std(scores, dtype=np.float64))) > LARGEST_SPREAD:
        return f"validation scores spread by {spread:.3g}"
    return None if differ(scores) else "all validation scores are equal"


def check_scores(scores: Float[np.ndarray, " n"], step: int, total: int) -> None:
    """Raise ``FloatingPointError`` if no epoch up to this ``step`` could be judged and none after it will be.

    Equal scores may differ after a learning rate's warm-up; the other problems may end until step `SETTLED`.

    >>> check_scores(np.array([1.0, 1e9]), 3, 4000)
    >>> check_scores(np.array([1.0, 1e9]), 2000, 4000)
    Traceback (most recent call last):
    FloatingPointError: training failed: no epoch can be judged; at step 2000 validation scores spread by 5e+08
    """
    if (why := unjudged(scores)) and (step == total or (step >= SETTLED and "equal" not in why)):
        raise FloatingPointError(f"training failed: no epoch can be judged; at step {step} {why}")


def differ(scores: Float[np.ndarray, " n"]) -> bool:
    """Return whether scores differ by more than float32's rounding.

    >>> differ(np.array([1.0, 1.1])), differ(np.array([1e6, 1e6 + 0.06]))
    (True, False)
    """
    return bool(np.ptp(scores) > 1e-6 * np.abs(scores).max())
