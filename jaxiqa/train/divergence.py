"""Signs that a training has diverged, although no loss was infinite: batch norms and losses that ignore the scale of
scores hide it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

GROWTH = 1000.0
"""Root mean square of the weights at the end of an epoch, as a multiple of that at the start, above which a training
has diverged."""

SMALL_START = 0.1
"""What counts as the root mean square at the start where it is smaller: weights may start at 0 and grow to anything
usual."""

LARGEST_SPREAD = 1e6
"""Standard deviation of raw scores above which an epoch cannot be judged. Labels are standardised while training, so
that scores spread by about 1, or by up to millions while batch norms' running statistics have yet to catch up."""

SETTLED = 1000
"""Steps by which they have: 0.9^1000 is left of what they were at the start, and nearly as little of older weights."""


@jax.jit
def rms(tree: Any) -> Float[Array, ""]:
    """Root mean square over all numbers of a tree; infinite or NaN where one of them is.

    >>> round(float(rms({"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.0])})), 4)
    2.8868
    """
    leaves = [jnp.asarray(leaf, jnp.float32) for leaf in jax.tree.leaves(tree)]  # sums overflow in float16
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
    if not np.isfinite(now) or now > GROWTH * max(start, SMALL_START):
        raise FloatingPointError(
            f"training diverged: at step {step} the weights' root mean square is {now:.3g}, {start:.3g} at the start"
        )
    if jax.tree.leaves(batch_stats) and not np.isfinite(float(rms(batch_stats))):
        raise FloatingPointError(f"training diverged: at step {step} statistics of batch norms are not finite")


def unjudged(scores: Float[np.ndarray, " n"]) -> str | None:
    """Why validation scores say nothing about an epoch; None where they do.

    Such an epoch does not end a training: with running statistics from a few steps, scores of a sound metric may still
    be anything. Only a training all of whose epochs are like that has failed (`check_scores`).

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
    """Raise ``FloatingPointError`` where no epoch up to this ``step`` could be judged, and none after it will be.

    Equal scores may differ once a rate has warmed up; others are waited for until running statistics have `SETTLED`.

    >>> check_scores(np.array([1.0, 1e9]), 3, 4000)
    >>> check_scores(np.array([1.0, 1e9]), 2000, 4000)
    Traceback (most recent call last):
    FloatingPointError: training failed: no epoch can be judged; at step 2000 validation scores spread by 5e+08
    """
    if (why := unjudged(scores)) and (step == total or (step >= SETTLED and "equal" not in why)):
        raise FloatingPointError(f"training failed: no epoch can be judged; at step {step} {why}")


def differ(scores: Float[np.ndarray, " n"]) -> bool:
    """Whether scores differ by more than what float32 rounds.

    >>> differ(np.array([1.0, 1.1])), differ(np.array([1e6, 1e6 + 0.06]))
    (True, False)
    """
    return bool(np.ptp(scores) > 1e-6 * np.abs(scores).max())
