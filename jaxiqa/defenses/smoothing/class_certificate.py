"""Certificates of a class: noisy copies vote, and the share of the winning class gives the radius."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from jaxiqa.core.checks import check_chunk, check_count, check_option
from jaxiqa.core.types import Certificate, Images, ScoreFn
from jaxiqa.defenses.smoothing.bounds import (
    check_share,
    clopper_pearson,
    clopper_pearson_upper,
    radius,
    refuse_few,
    stopping_schedule,
)
from jaxiqa.defenses.smoothing.sampling import Progress, sampler


@runtime_checkable
class Voting(Protocol):
    """The options that RS, DRS, DDRS and DensePure share.

    Fields:
        score_range: (low, high) of the metric, ``model.score_range``; it is divided into classes.
        sigma: standard deviation of the noise, > 0, in [0, 1] pixel units.
        n0: number of samples that choose the class, >= 1.
        n: number of other samples, which bound the probability of the class.
        alpha: probability, in (0, 1), that a radius is too large.
        classes: number of classes, >= 3: one below the range, equal bins of the range, one above it.
        target: None: all n samples are used. A radius >= 0: sampling of an image stops when the bounds decide whether
            it has a class, and whether its radius is above ``target``; see `jaxiqa.defenses.smoothing.bounds`.
        chunk: noisy copies scored at once on each device; None: chosen automatically. The samples do not depend on it.
    """

    score_range: tuple[float, float]
    sigma: float
    n0: int
    n: int
    alpha: float
    classes: int
    target: float | None
    chunk: int | None


def check_voting(options: Voting) -> None:
    """Check that options are in range and that n equal votes can certify a radius; else raise ``ValueError``."""
    class_edges(options.score_range, options.classes)
    check_option("sigma", options.sigma, open_low=True)
    check_count("n0", options.n0, 1)
    check_count("n", options.n, 1)
    check_share("alpha", options.alpha)
    check_chunk(options.chunk)
    if options.target is not None:
        check_option("target", options.target)
    needed = special.ndtr((options.target or 0.0) / options.sigma)

    def enough(n):
        size, share = stopping_schedule(n, options.alpha, early=options.target is not None)[-1]
        best = share ** (1 / size)
        return best > 0.5 and best >= needed

    goal = f"no radius of {options.target}" if options.target else "no radius"
    refuse_few(options.n, enough, f"at alpha={options.alpha}, sigma={options.sigma} {goal}")


def certify_class(
    options: Voting, view: Any, score_fn: ScoreFn, images: Images, key: Any, progress: Progress, **space: Any
) -> Certificate:
    """Certify the majority class of ``n0`` noisy copies and the radius within which it stays the majority.

        radius = σ Φ⁻¹(p),  p: Clopper-Pearson lower bound of the share of the class among ``n`` other copies;
        abstention if p < 1/2

    Args:
        options: see `Voting`.
        view: makes noisy copies, see `jaxiqa.defenses.smoothing.noisy_copies`; with several votes, the majority of the
            votes is the class of a copy.
        score_fn: ``b h w 3 -> b``.
        images: ``b h w 3`` in [0, 1].
        key: random key, or one per image.
        progress: called as ``progress(done, total)`` in samples after every chunk; it starts from 0 again at every
            size of the early-stopping schedule.
        **space: ``resize`` and ``resize_norm``, if the noise is added to a resized image.

    Reference: Cohen et al., "Certified Adversarial Robustness via Randomized Smoothing", arXiv:1902.02918, algorithm
    Certify.
    """
    resize, norm = space.get("resize"), space.get("resize_norm", 1.0)
    sampled = sampler(view, score_fn, images, key, options.n0 + options.n, options.chunk, resize)
    edges = class_edges(options.score_range, options.classes)
    plan = stopping_schedule(options.n, options.alpha, early=options.target is not None)
    needed = None if options.target is None else special.ndtr(options.target / options.sigma)

    label = successes = None
    n, lower = np.zeros(len(images), int), np.zeros(len(images))
    active, before = np.arange(len(images)), 0
    for size, share in plan:
        first = 0 if label is None else options.n0 + before
        votes = _votes(sampled.scores(active, first, options.n0 + size, progress), edges)
        if label is None:
            label = _most(votes[:, : options.n0], options.classes)
            successes, votes = np.zeros(len(images), int), votes[:, options.n0 :]
        successes[active] += (votes == label[active, None]).sum(1)
        lower[active] = np.maximum(lower[active], clopper_pearson(successes[active], size, share))
        n[active], before = size, size
        if needed is not None:
            upper = clopper_pearson_upper(successes[active], size, share)
            open_radius = (lower[active] < needed) & (upper >= needed)
            open_class = (lower[active] < 0.5) & (upper >= 0.5)
            active = active[open_radius | open_class]
            if not len(active):
                break
    abstained = lower < 0.5
    return Certificate(
        radius=radius(lower, options.sigma),
        abstained=abstained,
        n=n,
        sigma=float(options.sigma),
        alpha=float(options.alpha),
        noise="gaussian",
        size=tuple(sampled.images.shape[1:3]),
        resize_norm=norm,
        label=np.where(abstained, -1, label),
        edges=edges,
    )


def _votes(scores, edges) -> Int[np.ndarray, "k n"]:
    """Return the class of each copy: the majority of its votes."""
    classes = classify(scores.astype(np.float64), edges)
    return classes[..., 0] if classes.shape[-1] == 1 else _most(classes, len(edges) + 1)


def _most(classes, count) -> Int[np.ndarray, "*b"]:
    """Return the most frequent entry along the last axis; of equally frequent entries, the lowest."""
    return np.stack([(classes == one).sum(-1) for one in range(count)], -1).argmax(-1)


def class_edges(score_range: tuple[float, float], classes: int) -> Float[np.ndarray, " edges"]:
    """Return the borders of ``classes`` classes: one below the range, one above it, equal bins between.

    They are computed as a cumulative sum, as in the defense benchmark: the last border may differ from ``high`` by
    rounding.

    Args:
        score_range: lowest and highest typical score.
        classes: number of classes, >= 3.

    Raises:
        ValueError: the range is empty or not finite, or there are fewer than 3 classes.

    >>> print(class_edges((0.0, 1.0), 4))
    [0.  0.5 1. ]
    """
    try:
        low, high = map(float, score_range)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"score_range={score_range!r} is not allowed; expected finite (low, high) with low < high")
    check_count("classes", classes, 3)
    return np.cumsum([low] + [(high - low) / (classes - 2)] * (classes - 2))


def classify(scores: Float[np.ndarray, "*b"], edges: Float[np.ndarray, " k"]) -> Int[np.ndarray, "*b"]:
    """Return the class of each score: the number of edges below it. A score on an edge belongs to the class below.

    >>> classify(np.array([-1.0, 0.0, 0.1, 0.5, 1.0, 1.1]), class_edges((0.0, 1.0), 4)).tolist()
    [0, 0, 1, 1, 2, 3]
    """
    return np.searchsorted(edges, scores)
