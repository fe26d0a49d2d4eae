"""Losses between predicted and human scores of one batch.

All but `mse` and `mae` compare the images of a batch with one another, so under data parallelism they need the batch of
all devices: `jaxiqa.train.step` gathers the predictions before it calls them.
"""

from collections.abc import Callable

import chex
import jax.numpy as jnp
from jaxtyping import Array, Float


def check_scores(predictions: Array, mos: Array) -> None:
    """Raise ``ValueError`` unless both are ``b``: a column of predictions minus a row of labels would be a matrix.

    >>> check_scores(jnp.zeros((4, 1)), jnp.zeros(4))
    Traceback (most recent call last):
    ValueError: [Chex] Assertion assert_rank failed: ...
    """
    chex.assert_rank([predictions, mos], 1, exception_type=ValueError)
    chex.assert_equal_shape([predictions, mos], exception_type=ValueError)


def norm_in_norm(
    predictions: Float[Array, " b"], mos: Float[Array, " b"], *, p: float = 1.0, q: float = 2.0
) -> Float[Array, ""]:
    """Return the distance between two batches, each centred and divided by its own norm.

    x̂ = (x − mean x) / (‖x − mean x‖_q + 1e-8),  loss = (‖p̂ − ŷ‖_p / C)^p  with the largest possible value
    C = 2·b^max(0, 1/p − 1/q), so the loss lies in [0, 1]. It ignores offset and scale of the predictions; with
    p = q = 2 it equals (1 − PLCC) / 2. A single image has nothing to compare to: loss 0.

    Args:
        predictions: scores in any unit.
        mos: human scores in any unit, same orientation.
        p: norm of the distance, at least 1.
        q: norm of the normalisation, at least 1.

    >>> mos = jnp.array([10.0, 40.0, 80.0])
    >>> round(float(norm_in_norm(0.3 * mos + 7, mos)), 4)
    0.0

    Reference: Li, Jiang, Jiang, "Norm-in-Norm Loss with Faster Convergence and Better Performance for Image Quality
    Assessment", arXiv:2008.03889.
    """
    check_scores(predictions, mos)

    def normalise(x: Array) -> Array:
        centred = x - jnp.mean(x)
        # The tiny constant keeps the gradient of the root finite if all values are equal.
        norm = jnp.sum(jnp.abs(centred) ** q + 1e-30) ** (1 / q)
        return centred / (norm + 1e-8)

    difference = jnp.abs(normalise(predictions) - normalise(mos))
    largest = 2.0 * len(mos) ** max(0.0, 1 / p - 1 / q)
    return jnp.sum(difference**p) / largest**p


def mse(predictions: Float[Array, " b"], mos: Float[Array, " b"]) -> Float[Array, ""]:
    """Return the mean squared error, mean((p − y)²), in the square of the scores' unit.

    >>> float(mse(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
    2.0
    """
    check_scores(predictions, mos)
    return jnp.mean((predictions - mos) ** 2)


def ranked_mse(predictions: Float[Array, " b"], mos: Float[Array, " b"]) -> Float[Array, ""]:
    """Return `mse` plus a price for pairs whose difference falls short of that of their labels, or has the wrong sign:

        mean((p − y)²) + ½ · mean over all i, j of max(0, |yᵢ − yⱼ| − sign(yᵢ − yⱼ) · (pᵢ − pⱼ))²

    in the square of the scores' unit. Pairs that lie too far apart cost nothing more.

    >>> mos = jnp.array([10.0, 14.0])
    >>> float(ranked_mse(mos[::-1], mos)), float(ranked_mse(mos + 3, mos)), float(ranked_mse(2 * mos - 12, mos))
    (32.0, 9.0, 4.0)
    """
    check_scores(predictions, mos)
    wanted, found = mos[:, None] - mos, predictions[:, None] - predictions
    short = jnp.maximum(0, jnp.abs(wanted) - jnp.sign(wanted) * found)
    return mse(predictions, mos) + jnp.mean(short**2) / 2


def mae(predictions: Float[Array, " b"], mos: Float[Array, " b"]) -> Float[Array, ""]:
    """Return the mean absolute error, mean |p − y|, in the scores' unit.

    >>> float(mae(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
    1.0
    """
    check_scores(predictions, mos)
    return jnp.mean(jnp.abs(predictions - mos))


def plcc(predictions: Float[Array, " b"], mos: Float[Array, " b"]) -> Float[Array, ""]:
    """Return (1 − Pearson correlation) / 2, in [0, 1]; it ignores offset and scale of the predictions.

    >>> mos = jnp.array([10.0, 40.0, 80.0])
    >>> round(float(plcc(-mos, mos)), 4)
    1.0
    """
    return norm_in_norm(predictions, mos, p=2.0, q=2.0)


LOSSES: dict[str, Callable[[Float[Array, " b"], Float[Array, " b"]], Float[Array, ""]]] = {
    "norm_in_norm": norm_in_norm,
    "mse": mse,
    "ranked_mse": ranked_mse,
    "mae": mae,
    "plcc": plcc,
}

ABSOLUTE = ("mse", "ranked_mse", "mae")
"""Losses that have a unit: a score must equal its label, not only rise with it (`jaxiqa.train.units`)."""
