"""Slopes of a score at given images, besides the bounds that hold for all images.

Every function takes a batch and returns one number per image. Images must be RGB, ``b h w 3``, in [0, 1]. A slope in
"linf" is the score's change per unit of the largest pixel change, so it is the l1 norm of the gradient. Scores and
gradients are computed in at least float32: in half precision, the rounding of the scores would add to the slopes.
float64 stays float64.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.keys import image_keys
from jaxiqa.core.pytrees import as_pytree
from jaxiqa.core.types import Images, PRNGKey, ScoreFn, Scores
from jaxiqa.layers.linear_algebra import full
from jaxiqa.lipschitz.extreme_value import fit_reverse_weibull
from jaxiqa.lipschitz.rows import Report
from jaxiqa.lipschitz.spectral import power_iteration

NORMS = ("l2", "linf")


def distance(change: Images, norm: str = "l2") -> Scores:
    """Return the length of each image's change, in ``"l2"`` or ``"linf"``."""
    check_choice("norm", norm, NORMS)
    flat = _rows(change)
    return jnp.linalg.norm(flat, axis=1) if norm == "l2" else jnp.abs(flat).max(1)


def _rows(x: Images) -> Float[Array, "b n"]:
    """Return one row per image, in at least float32."""
    x = full(jnp.asarray(x))
    return x.reshape(len(x), -1)


def _scores(score_fn: ScoreFn, images: Images) -> Scores:
    scores = score_fn(images)
    if jnp.shape(scores) != (len(images),):
        raise ValueError(f"score_fn gave shape {jnp.shape(scores)}; expected one score per image, ({len(images)},)")
    return scores


def gradients(score_fn: ScoreFn, images: Images) -> Images:
    """Return the gradient of each image's score by its pixels; images are scored independently.

    Raises:
        ValueError: bad images.

    >>> images = jnp.full((1, 1, 2, 3), 0.5)
    >>> gradients(lambda x: (x**2).sum((1, 2, 3)), images).shape
    (1, 1, 2, 3)
    """
    check_unit_images(images)
    return jax.grad(lambda x: _scores(score_fn, x).sum())(full(jnp.asarray(images)))


def gradient_norms(score_fn: ScoreFn, images: Images, norm: str = "l2") -> Scores:
    """Return the slope of the score at each image, for changes measured in ``norm``: the dual norm of its gradient.

    Raises:
        ValueError: bad images, or an unknown norm.

    >>> images = jnp.full((1, 2, 2, 3), 0.5)
    >>> gradient_norms(lambda x: x.sum((1, 2, 3)), images, "linf").tolist()
    [12.0]
    """
    check_choice("norm", norm, NORMS)
    flat = _rows(gradients(score_fn, images))
    return jnp.linalg.norm(flat, axis=1) if norm == "l2" else jnp.abs(flat).sum(1)


def jacobian_norms(
    function: Callable[[Float[Array, "b ..."]], Float[Array, "b ..."]],
    inputs: Float[Array, "b ..."],
    key: PRNGKey,
    *,
    steps: int = 30,
) -> Float[Array, " b"]:
    """Return a lower bound, usually close, of ‖J‖₂ at each input, for any function of a batch, such as a network stage.

    It uses power iteration under vmap; the Jacobian is never formed. Reverse mode is enough: functions with a custom
    derivative in reverse mode only (`jax.custom_vjp`) work too. No function of jaxiqa is one of them.

    Args:
        function: acts on each entry of the batch independently.
        inputs: images, or the input of a stage: floats of any range.
        key: random key.
        steps: of the iteration, at least 1.

    Raises:
        ValueError: ``inputs`` is not a batch of floats, or ``steps`` < 1.

    >>> double = lambda x: 2 * x
    >>> jacobian_norms(double, jnp.ones((2, 3, 3, 1)), jax.random.key(0)).round(4).tolist()
    [2.0, 2.0]
    """
    check_number("steps", steps, 1)
    inputs = jnp.asarray(inputs)
    if not (inputs.ndim and len(inputs) and jnp.issubdtype(inputs.dtype, jnp.inexact)):
        raise ValueError(f"inputs has shape {inputs.shape} and dtype {inputs.dtype}; expected a batch of floats, b ...")
    inputs = full(inputs)
    one = lambda x, key: power_iteration(lambda x: function(x[None])[0], x, key, steps=steps)  # noqa: E731
    return jax.vmap(one)(inputs, image_keys(key, len(inputs)))


def largest_slope(score_fn: ScoreFn, images: Images, attacked: Any, norm: str = "l2") -> Scores:
    """Return |f(x′) − f(x)| / ‖x′ − x‖ for attacked images x′; 0 if x′ = x.

    It is a lower bound of the Lipschitz constant on any ball around x that contains x′. Run an attack that raises the
    score and one that lowers it, and take the larger value.

    Raises:
        ValueError: bad images, an unknown norm, or ``attacked`` of another shape than ``images``.

    >>> images = jnp.full((1, 2, 2, 3), 0.5)
    >>> largest_slope(lambda x: 3 * x.sum((1, 2, 3)), images, images + 0.1, "linf").round(3).tolist()
    [36.0]
    """
    check_unit_images(images)
    check_unit_images(attacked, name="attacked")
    if attacked.shape != images.shape:
        raise ValueError(f"attacked has shape {tuple(attacked.shape)}; images has {tuple(images.shape)}")
    images, attacked = full(jnp.asarray(images)), full(jnp.asarray(attacked))
    length = distance(attacked - images, norm)
    moved = jnp.abs(_scores(score_fn, attacked) - _scores(score_fn, images))
    return jnp.where(length > 0, moved / jnp.where(length > 0, length, 1), 0)


@dataclass(frozen=True)
class Clever:
    """A CLEVER **estimate** of the local Lipschitz constant, per image; it can be below the true value.

    Attributes:
        estimate: the location of the fitted reverse Weibull distribution; at least ``sampled`` and at most ``limit``
            times it. If the fit failed, it is ``sampled``, which is a lower bound.
        sampled: the largest gradient norm among all samples.
        p_value: of the Kolmogorov–Smirnov test of the fit; small means that the distribution does not fit. NaN if the
            fit failed.
        fitted: whether the fit found an end point of the distribution below the limit.
    """

    estimate: Float[np.ndarray, " b"]
    sampled: Float[np.ndarray, " b"]
    p_value: Float[np.ndarray, " b"]
    fitted: Bool[np.ndarray, " b"]


def clever(
    score_fn: ScoreFn,
    images: Images,
    key: PRNGKey,
    *,
    radius: float,
    norm: str = "l2",
    batches: int = 50,
    samples: int = 32,
    limit: float = 2.0,
) -> Clever:
    """Extrapolate the largest gradient norm in a ball from ``batches`` maxima, each over ``samples`` random points.

    Args:
        score_fn: the score. Functions of the same structure share a compiled program, which is kept between calls.
        images: centres; points are clipped to [0, 1].
        key: random key.
        radius: of the ball, in ``norm``.
        norm: ``"l2"`` or ``"linf"``.
        batches: number of maxima for the fit, ≥ 5.
        samples: number of points for each maximum.
        limit: largest allowed ratio of the estimate to the largest sample, > 1. A fit beyond it has found no end point
            of the distribution: it has failed, and a warning names the images.

    Raises:
        ValueError: bad images or options, or a gradient that is not finite; the message names the images.

    >>> images = jnp.full((1, 2, 2, 3), 0.5)
    >>> found = clever(lambda x: (x**2).sum((1, 2, 3)), images, jax.random.key(0), radius=0.1, batches=8, samples=4)
    >>> bool(found.estimate[0] >= found.sampled[0] > 3.4)
    True

    Reference: Weng et al., "Evaluating the Robustness of Neural Networks: An Extreme Value Theory Approach",
    arXiv:1801.10578, for a score instead of a margin.
    **Differs from the paper**: the fit is bounded (shape ≥ 1, location ≤ ``limit`` · largest sample) and global in the
    location; an unbounded fit can diverge to locations of a million.
    """
    check_choice("norm", norm, NORMS)
    check_number("radius", radius, 0.0, open_low=True)
    check_number("batches", batches, 5)
    check_number("samples", samples, 1)
    check_number("limit", limit, 1.0, open_low=True)
    check_unit_images(images)
    keys, traced = jax.random.split(key, batches), as_pytree(score_fn)
    images = full(jnp.asarray(images))
    maxima = np.stack([np.asarray(_largest(traced, images, k, radius, norm, samples), np.float64) for k in keys])
    broken = np.flatnonzero(~np.isfinite(maxima).all(0))
    if len(broken):
        raise ValueError(f"the gradient is not finite near images {broken.tolist()}")
    fits = [fit_reverse_weibull(column, limit=limit) for column in maxima.T]
    fitted = np.array([fit.found for fit in fits])
    if not fitted.all():
        warnings.warn(
            f"clever: the fit failed for images {np.flatnonzero(~fitted).tolist()} (no end point below {limit} times "
            "the largest sample); their estimate is the largest sample. Increase batches and samples.",
            stacklevel=2,
        )
    sampled = maxima.max(0)
    estimate = np.where(fitted, [fit.location for fit in fits], sampled)
    return Clever(estimate, sampled, np.array([fit.p_value for fit in fits]), fitted)


@partial(jax.jit, static_argnames=("norm", "samples"))
def _largest(score_fn: Any, images: Images, key: PRNGKey, radius: Any, norm: str, samples: int) -> Scores:
    """Return the largest gradient norm among random points around each image."""

    def norms(key: PRNGKey) -> Scores:
        points = jnp.clip(images + _in_ball(key, images.shape, radius, norm).astype(images.dtype), 0, 1)
        return gradient_norms(score_fn, points, norm)

    return jax.lax.map(norms, jax.random.split(key, samples)).max(0)


def _in_ball(key: PRNGKey, shape: tuple[int, ...], radius: Any, norm: str) -> Images:
    """Draw uniformly from the ball around zero, for every image of a batch."""
    if norm == "linf":
        return jax.random.uniform(key, shape, minval=-radius, maxval=radius)
    direction_key, length_key = jax.random.split(key)
    flat = jax.random.normal(direction_key, (shape[0], int(np.prod(shape[1:]))))
    flat = flat / jnp.linalg.norm(flat, axis=1, keepdims=True)
    length = radius * jax.random.uniform(length_key, (shape[0], 1)) ** (1 / flat.shape[1])
    return (length * flat).reshape(shape)


def certified_interval(
    score_fn: ScoreFn, images: Images, epsilon: float, bound: float | Report, norm: str = "l2"
) -> tuple[Scores, Scores]:
    """Return the range of scores for any change of length ``epsilon``: f(x) ± bound·ε (l2), ± bound·ε·√(h·w·c) (linf).

    Args:
        score_fn: the score.
        images: ``b h w c``.
        epsilon: length of the change, in ``norm``.
        bound: an upper bound of the Lipschitz constant in l2 for images of this size; or the result of
            `jaxiqa.lipschitz.report`, whose image size is then checked.
        norm: ``"l2"`` or ``"linf"``.

    Returns:
        The lowest and the highest score, per image; infinite if the bound is. They hold in exact arithmetic; the
        rounding of the scores is not included.

    Raises:
        ValueError: a report for images of another size, or an argument outside its range.

    >>> low, high = certified_interval(lambda x: x.mean((1, 2, 3)), jnp.full((1, 2, 2, 3), 0.5), 0.1, 0.5)
    >>> [round(float(x[0]), 4) for x in (low, high)]
    [0.45, 0.55]
    """
    check_choice("norm", norm, NORMS)
    check_number("epsilon", epsilon, 0.0)
    check_unit_images(images)
    if isinstance(bound, Report):
        if bound.image_shape != tuple(images.shape[1:]):
            raise ValueError(
                f"bound is a report for images of {bound.image_shape}; these are {tuple(images.shape[1:])}"
            )
        bound = bound.bound
    check_number("bound", bound, 0.0)
    length = epsilon * float(np.sqrt(np.prod(images.shape[1:]))) if norm == "linf" else epsilon
    reach = bound * length if bound and length else 0.0  # a change of length 0 has no effect, whatever the bound
    scores = _scores(score_fn, full(jnp.asarray(images)))
    return scores - reach, scores + reach
