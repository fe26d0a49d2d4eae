"""The ranking loss of TReS.

"No-Reference Image Quality Assessment via Transformers, Relative Ranking, and Self-Consistency", arXiv:2108.06858.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def ranking_triplets(predictions: Float[Array, " b"], mos: Float[Array, " b"]) -> Float[Array, ""]:
    """Return the loss of two triplets of a batch, so that extreme images keep their order and distance.

    With the images sorted by their labels y₁ ≤ y₂ ≤ … ≤ yₙ and their predictions p,

        max(0, |p₁ − p₂| − |p₁ − pₙ| + (yₙ − y₂)) + max(0, |pₙ − pₙ₋₁| − |pₙ − p₁| + (yₙ₋₁ − y₁)).

    >>> mos = jnp.array([10.0, 50.0, 20.0, 90.0])
    >>> float(ranking_triplets(mos, mos)), float(ranking_triplets(0 * mos, mos))
    (0.0, 110.0)
    """
    order = jnp.argsort(mos)
    low, second, last, high = order[0], order[1], order[-2], order[-1]

    def triplet(anchor: Array, near: Array, far: Array, margin: Array) -> Array:
        p = predictions
        return jax.nn.relu(jnp.abs(p[anchor] - p[near]) - jnp.abs(p[anchor] - p[far]) + margin)

    return triplet(low, second, high, mos[high] - mos[second]) + triplet(high, last, low, mos[last] - mos[low])
