"""k-means with a random key, compiled. For one set of points; vmap for several."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxiqa.core.precision import at_least_float32
from jaxiqa.core.types import PRNGKey


@at_least_float32
def kmeans(
    points: Float[Array, "n d"], key: PRNGKey, clusters: int, *, steps: int = 30
) -> tuple[Int[Array, " n"], Float[Array, "clusters d"]]:
    """Run Lloyd's algorithm from a k-means++ start: a local minimum of Σ_i min_k ‖x_i − c_k‖².

    Args:
        points: the points to cluster.
        key: of the start: each next centre is a point drawn by its squared distance to the previous centres.
        clusters: number of centres, ≥ 1. With fewer distinct points, some centres have no points.
        steps: number of rounds of assigning points and moving centres.

    Returns:
        Each point's nearest centre, and the centres.

    >>> points = jnp.array([[0.0], [0.1], [5.0], [5.1], [9.0]])
    >>> labels, centres = kmeans(points, jax.random.key(0), 3)
    >>> [f"{centre:.2f}" for centre in jnp.sort(centres[:, 0])], bool(labels[0] == labels[1])
    (['0.05', '5.05', '9.00'], True)

    Reference: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.
    """
    keys = jax.random.split(key, clusters)
    first = points[jax.random.randint(keys[0], (), 0, len(points))]

    def add(k, state):
        centres, nearest = state
        centre = points[jax.random.categorical(keys[k], jnp.log(nearest))]
        return centres.at[k].set(centre), jnp.minimum(nearest, _squared(points, centre))

    start = (jnp.broadcast_to(first, (clusters, points.shape[1])), _squared(points, first))
    centres, _ = jax.lax.fori_loop(1, clusters, add, start)

    def move(_, centres):
        member = (_labels(points, centres)[:, None] == jnp.arange(clusters)).astype(points.dtype)
        count = member.sum(0)[:, None]
        # Not a matrix product, which accelerators round to 10 bits.
        means = (member[:, :, None] * points[:, None]).sum(0) / jnp.maximum(count, 1)
        return jnp.where(count > 0, means, centres)

    centres = jax.lax.fori_loop(0, steps, move, centres)
    return _labels(points, centres), centres


def _squared(points, centre):
    return ((points - centre) ** 2).sum(-1)


def _labels(points, centres):
    return _squared(points[:, None], centres).argmin(1)
