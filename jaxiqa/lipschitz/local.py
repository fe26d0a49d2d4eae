"""How steep a score is around given images: what happens there, beside what could happen anywhere.

Everything takes a batch and gives one number per image. Images are RGB, ``b h w 3``, in [0, 1], and others are refused;
a slope in "linf" is the score's change per unit of the largest pixel change, so the norm of its gradient is l1.
Images in half precision are widened to float32 first, as attacks widen them: the rounding of a score over the length of
a small change would be a slope that no float32 program has. float64 stays float64.
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

from jaxiqa.arguments import as_pytree, check_pictures, image_keys
from jaxiqa.checks import check_choice, check_number
from jaxiqa.layers.linear_algebra import full
from jaxiqa.lipschitz.extreme_value import fit_reverse_weibull
from jaxiqa.lipschitz.rows import Report
from jaxiqa.lipschitz.spectral import power_iteration
from jaxiqa.types import Images, PRNGKey, ScoreFn, Scores

NORMS = ("l2", "linf")


def distance(change: Images, norm: str = "l2") -> Scores:
    """The length of each image's change, in ``"l2"`` or ``"linf"``."""
    check_choice("norm", norm, NORMS)
    flat = _rows(change)
    return jnp.linalg.norm(flat, axis=1) if norm == "l2" else jnp.abs(flat).max(1)


def _rows(x: Images) -> Float[Array, "b n"]:
    """One row per image, in float32 at least."""
    x = full(jnp.asarray(x))
    return x.reshape(len(x), -1)


def _scores(score_fn: ScoreFn, images: Images) -> Scores:
    scores = score_fn(images)
    if jnp.shape(scores) != (len(images),):
        raise ValueError(f"score_fn gave shape {jnp.shape(scores)}; expected one score per image, ({len(images)},)")
    return scores


def gradients(score_fn: ScoreFn, images: Images) -> Images:
    """The gradient of each image's score by its pixels; images are scored independently."""
    check_pictures(images)
    return jax.grad(lambda x: _scores(score_fn, x).sum())(full(jnp.asarray(images)))


def gradient_norms(score_fn: ScoreFn, images: Images, norm: str = "l2") -> Scores:
    """The slope of the score at each image, against changes measured in ``norm``: the dual norm of its gradient.

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
    """A lower bound, usually close, of ‖J‖₂ at each input, for any function of a batch, such as a stage of a network.

    By power iteration, vmapped; the Jacobian is never formed. Reverse mode is enough: functions with a derivative of
    their own in reverse mode only (`jax.custom_vjp`) are taken too. Nothing in jaxiqa is one of them.

    Args:
        function: acts on each entry of the batch alone.
        inputs: images, or what a stage is given: floats of any range.
        key: random key.
        steps: of the iteration, at least 1.

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
    """|f(x′) − f(x)| / ‖x′ − x‖ for attacked images x′: a lower bound of the Lipschitz constant on any ball around x
    that holds x′. Run an attack that raises and one that lowers the score, and take the larger; 0 where x′ = x.

    >>> images = jnp.full((1, 2, 2, 3), 0.5)
    >>> largest_slope(lambda x: 3 * x.sum((1, 2, 3)), images, images + 0.1, "linf").round(3).tolist()
    [36.0]
    """
    check_pictures(images)
    check_pictures(attacked, name="attacked")
    if attacked.shape != images.shape:
        raise ValueError(f"attacked has shape {tuple(attacked.shape)}; images has {tuple(images.shape)}")
    images, attacked = full(jnp.asarray(images)), full(jnp.asarray(attacked))
    length = distance(attacked - images, norm)
    moved = jnp.abs(_scores(score_fn, attacked) - _scores(score_fn, images))
    return jnp.where(length > 0, moved / jnp.where(length > 0, length, 1), 0)


@dataclass(frozen=True)
class Clever:
    """A CLEVER **estimate** of the local Lipschitz constant, per image; it can lie below the truth.

    Attributes:
        estimate: the location of the fitted reverse Weibull distribution; never below ``sampled`` nor above ``limit``
            times it. Where the fit failed, ``sampled``, which is a lower bound.
        sampled: the largest gradient norm among all samples.
        p_value: of the Kolmogorov–Smirnov test of the fit; small means that the distribution does not fit. NaN where
            the fit failed.
        fitted: whether the fit found an end of the distribution below the limit.
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
    """Extrapolate the largest gradient norm in a ball from the maxima of ``batches`` times ``samples`` random points.

    Args:
        score_fn: the score. Functions of one structure share a compiled program, which is kept between calls.
        images: centres; points are kept in [0, 1].
        key: random key.
        radius: of the ball, in ``norm``.
        norm: ``"l2"`` or ``"linf"``.
        batches: maxima that the distribution is fitted to, ≥ 5.
        samples: points that each maximum is taken over.
        limit: the estimate is at most so many times the largest sample, > 1. A fit that would go further has seen no
            end of the distribution: it has failed, and a warning names the images.

    >>> images = jnp.full((1, 2, 2, 3), 0.5)
    >>> found = clever(lambda x: (x**2).sum((1, 2, 3)), images, jax.random.key(0), radius=0.1, batches=8, samples=4)
    >>> bool(found.estimate[0] >= found.sampled[0] > 3.4)
    True

    Reference: Weng et al., arXiv:1801.10578, for a score instead of a margin.
    **Differs from the paper**: the fit is bounded (shape ≥ 1, location ≤ ``limit`` · largest sample) and global in the
    location; an unbounded one runs away to locations of a million.
    """
    check_choice("norm", norm, NORMS)
    check_number("radius", radius, 0.0, open_low=True)
    check_number("batches", batches, 5)
    check_number("samples", samples, 1)
    check_number("limit", limit, 1.0, open_low=True)
    check_pictures(images)
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
            f"clever: the fit failed for images {np.flatnonzero(~fitted).tolist()} (no end below {limit} times the "
            "largest sample); their estimate is the largest sample. Take more batches and samples.",
            stacklevel=2,
        )
    sampled = maxima.max(0)
    estimate = np.where(fitted, [fit.location for fit in fits], sampled)
    return Clever(estimate, sampled, np.array([fit.p_value for fit in fits]), fitted)


@partial(jax.jit, static_argnames=("norm", "samples"))
def _largest(score_fn: Any, images: Images, key: PRNGKey, radius: Any, norm: str, samples: int) -> Scores:
    """The largest gradient norm among random points around each image."""

    def norms(key: PRNGKey) -> Scores:
        points = jnp.clip(images + _in_ball(key, images.shape, radius, norm).astype(images.dtype), 0, 1)
        return gradient_norms(score_fn, points, norm)

    return jax.lax.map(norms, jax.random.split(key, samples)).max(0)


def _in_ball(key: PRNGKey, shape: tuple[int, ...], radius: Any, norm: str) -> Images:
    """Uniform in the ball around zero, for every image of a batch."""
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
    """The scores that no change of length ``epsilon`` can leave: f(x) ± bound·ε, for l2; ± bound·ε·√(h·w·c) for linf.

    Args:
        score_fn: the score.
        images: ``b h w c``.
        epsilon: length of the change, in ``norm``.
        bound: an upper bound of the Lipschitz constant in l2 for images of this size; or what
            `jaxiqa.lipschitz.report` gives, of which the size is then checked.
        norm: ``"l2"`` or ``"linf"``.

    Returns:
        The lowest and the highest score, per image; infinite where the bound is. They hold in exact arithmetic: the
        rounding of the scores themselves comes on top.

    Raises:
        ValueError: a report for images of another size, or an argument outside its range.

    >>> low, high = certified_interval(lambda x: x.mean((1, 2, 3)), jnp.full((1, 2, 2, 3), 0.5), 0.1, 0.5)
    >>> [round(float(x[0]), 4) for x in (low, high)]
    [0.45, 0.55]
    """
    check_choice("norm", norm, NORMS)
    check_number("epsilon", epsilon, 0.0)
    check_pictures(images)
    if isinstance(bound, Report):
        if bound.image_shape != tuple(images.shape[1:]):
            raise ValueError(
                f"bound is a report for images of {bound.image_shape}; these are {tuple(images.shape[1:])}"
            )
        bound = bound.bound
    check_number("bound", bound, 0.0)
    length = epsilon * float(np.sqrt(np.prod(images.shape[1:]))) if norm == "linf" else epsilon
    reach = bound * length if bound and length else 0.0  # no change moves nothing, whatever the bound
    scores = _scores(score_fn, full(jnp.asarray(images)))
    return scores - reach, scores + reach
