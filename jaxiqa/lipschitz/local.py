"""How steep a score is around given images: what happens there, beside what could happen anywhere.

Everything takes a batch and gives one number per image. Gradients and norms are of images in [0, 1]; a slope in
"linf" is the score's change per unit of the largest pixel change, so the norm of its gradient is the l1 norm.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.checks import check_choice, check_number
from jaxiqa.lipschitz.spectral import power_iteration
from jaxiqa.types import Images, PRNGKey, ScoreFn, Scores

NORMS = ("l2", "linf")


def distance(change: Images, norm: str = "l2") -> Scores:
    """The length of each image's change, in ``"l2"`` or ``"linf"``."""
    check_choice("norm", norm, NORMS)
    flat = change.reshape(len(change), -1)
    return jnp.linalg.norm(flat, axis=1) if norm == "l2" else jnp.abs(flat).max(1)


def gradients(score_fn: ScoreFn, images: Images) -> Images:
    """The gradient of each image's score by its pixels; images are scored independently."""
    return jax.grad(lambda x: score_fn(x).sum())(images)


def gradient_norms(score_fn: ScoreFn, images: Images, norm: str = "l2") -> Scores:
    """The slope of the score at each image, against changes measured in ``norm``: the dual norm of its gradient.

    >>> images = jnp.full((1, 2, 2, 3), 0.5)
    >>> gradient_norms(lambda x: x.sum((1, 2, 3)), images, "linf").tolist()
    [12.0]
    """
    check_choice("norm", norm, NORMS)
    flat = gradients(score_fn, images).reshape(len(images), -1)
    return jnp.linalg.norm(flat, axis=1) if norm == "l2" else jnp.abs(flat).sum(1)


def jacobian_norms(
    function: Callable[[Float[Array, "b ..."]], Float[Array, "b ..."]],
    inputs: Float[Array, "b ..."],
    key: PRNGKey,
    *,
    steps: int = 30,
) -> Float[Array, " b"]:
    """A lower bound, usually close, of ‖J‖₂ at each input, for any function of a batch, such as a stage of a network.

    By power iteration on JVP after VJP, vmapped; the Jacobian is never formed.

    >>> double = lambda x: 2 * x
    >>> jacobian_norms(double, jnp.ones((2, 3, 3, 1)), jax.random.key(0)).round(4).tolist()
    [2.0, 2.0]
    """
    keys = jax.random.split(key, len(inputs))
    one = lambda x, key: power_iteration(lambda x: function(x[None])[0], x, key, steps=steps)  # noqa: E731
    return jax.vmap(one)(inputs, keys)


def largest_slope(score_fn: ScoreFn, images: Images, attacked: Images, norm: str = "l2") -> Scores:
    """|f(x′) − f(x)| / ‖x′ − x‖ for attacked images x′: a lower bound of the Lipschitz constant on any ball around x
    that holds x′. Run an attack that raises and one that lowers the score, and take the larger; 0 where x′ = x.

    >>> images = jnp.full((1, 2, 2, 3), 0.5)
    >>> largest_slope(lambda x: 3 * x.sum((1, 2, 3)), images, images + 0.1, "linf").round(3).tolist()
    [36.0]
    """
    length = distance(attacked - images, norm)
    moved = jnp.abs(score_fn(attacked) - score_fn(images))
    return jnp.where(length > 0, moved / jnp.where(length > 0, length, 1), 0)


@dataclass(frozen=True)
class Clever:
    """A CLEVER **estimate** of the local Lipschitz constant, per image; it can lie below the truth.

    Attributes:
        estimate: the location of the fitted reverse Weibull distribution; never below ``sampled``.
        sampled: the largest gradient norm among all samples.
        p_value: of the Kolmogorov–Smirnov test of the fit; small means that the distribution does not fit.
    """

    estimate: Float[np.ndarray, " b"]
    sampled: Float[np.ndarray, " b"]
    p_value: Float[np.ndarray, " b"]


def clever(
    score_fn: ScoreFn,
    images: Images,
    key: PRNGKey,
    *,
    radius: float,
    norm: str = "l2",
    batches: int = 50,
    samples: int = 32,
) -> Clever:
    """Extrapolate the largest gradient norm in a ball from the maxima of ``batches`` times ``samples`` random points.

    Args:
        score_fn: the score.
        images: centres; points are kept in [0, 1].
        key: random key.
        radius: of the ball, in ``norm``.
        norm: ``"l2"`` or ``"linf"``.
        batches: maxima that the distribution is fitted to, ≥ 5.
        samples: points that each maximum is taken over.

    >>> images = jnp.full((1, 2, 2, 3), 0.5)
    >>> found = clever(lambda x: (x**2).sum((1, 2, 3)), images, jax.random.key(0), radius=0.1, batches=8, samples=4)
    >>> bool(found.estimate[0] >= found.sampled[0] > 3.4)
    True

    Reference: Weng et al., arXiv:1801.10578, for a score instead of a margin.
    """
    from scipy import stats

    check_choice("norm", norm, NORMS)
    check_number("radius", radius, 0.0, open_low=True)
    check_number("batches", batches, 5)
    check_number("samples", samples, 1)

    @jax.jit
    def maximum(score_fn, images, key):
        points = jax.vmap(lambda key: jnp.clip(images + _in_ball(key, images.shape, radius, norm), 0, 1))
        norms = jax.lax.map(lambda x: gradient_norms(score_fn, x, norm), points(jax.random.split(key, samples)))
        return norms.max(0)

    keys = jax.random.split(key, batches)
    traced = jax.tree_util.Partial(score_fn) if jax.tree_util.all_leaves([score_fn]) else score_fn
    maxima = np.stack([np.asarray(maximum(traced, images, k), np.float64) for k in keys])
    estimates, p_values = [], []
    for column in maxima.T:
        spread = column.std()
        if spread <= 1e-9 * abs(column.max()):  # a linear score: every gradient is the same
            estimates.append(column.max())
            p_values.append(1.0)
            continue
        scaled = (column - column.max()) / spread
        fitted = stats.weibull_max.fit(scaled, loc=0.1, scale=1.0)
        estimates.append(max(column.max(), fitted[1] * spread + column.max()))
        p_values.append(stats.kstest(scaled, "weibull_max", fitted).pvalue)
    return Clever(np.array(estimates), maxima.max(0), np.array(p_values))


def _in_ball(key: PRNGKey, shape: tuple[int, ...], radius: float, norm: str) -> Images:
    """Uniform in the ball around zero, for every image of a batch."""
    if norm == "linf":
        return jax.random.uniform(key, shape, minval=-radius, maxval=radius)
    direction_key, length_key = jax.random.split(key)
    flat = jax.random.normal(direction_key, (shape[0], int(np.prod(shape[1:]))))
    flat = flat / jnp.linalg.norm(flat, axis=1, keepdims=True)
    length = radius * jax.random.uniform(length_key, (shape[0], 1)) ** (1 / flat.shape[1])
    return (length * flat).reshape(shape)


def certified_interval(
    score_fn: ScoreFn, images: Images, epsilon: float, bound: float, norm: str = "l2"
) -> tuple[Scores, Scores]:
    """The scores that no change of length ``epsilon`` can leave: f(x) ± bound·ε, for l2; ± bound·ε·√(h·w·c) for linf.

    Args:
        score_fn: the score.
        images: ``b h w c``.
        epsilon: length of the change, in ``norm``.
        bound: an upper bound of the Lipschitz constant in l2, such as `jaxiqa.lipschitz.report` gives.
        norm: ``"l2"`` or ``"linf"``.

    Returns:
        The lowest and the highest score, per image; infinite where the bound is.

    >>> low, high = certified_interval(lambda x: x.mean((1, 2, 3)), jnp.full((1, 2, 2, 1), 0.5), 0.1, 0.5)
    >>> [round(float(x[0]), 4) for x in (low, high)]
    [0.45, 0.55]
    """
    check_choice("norm", norm, NORMS)
    check_number("epsilon", epsilon, 0.0)
    check_number("bound", bound, 0.0)
    length = epsilon * float(np.sqrt(np.prod(images.shape[1:]))) if norm == "linf" else epsilon
    scores = score_fn(images)
    return scores - bound * length, scores + bound * length
