"""Certificates of a class: noisy copies vote, and the share of the winning class gives the radius."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from jaxiqa.core.checks import check_count, check_option
from jaxiqa.core.types import Certificate, Images, ScoreFn
from jaxiqa.defenses.smoothing.bounds import (
    clopper_pearson,
    clopper_pearson_upper,
    radius,
    refuse_few,
    stopping_schedule,
)
from jaxiqa.defenses.smoothing.sampling import Progress, Sampling, sampler


@dataclass(frozen=True, kw_only=True)
class ClassSampling(Sampling):
    """The options that the certifiers of a class share: those of `Sampling`, and three more.

    Args:
        score_range: (low, high) of the metric, such as ``model.score_range``, which the classes divide.
        n0: samples that choose the class, >= 1; ``n`` others bound its probability.
        classes: how many, >= 3: one below the range, equal bins of it, one above.
        target: a radius >= 0, or None. An image is also done once the bounds say that there is no class.

    Raises:
        ValueError: an option is out of range, or not even n equal votes certify a radius.

    >>> ClassSampling(score_range=(0.0, 1.0), n=9)
    Traceback (most recent call last):
    ValueError: n=9 is too small: at alpha=0.001, sigma=0.12 no radius can be certified with fewer than n=10
    """

    score_range: tuple[float, float]
    n0: int = 100
    classes: int = 12

    def __post_init__(self):
        super().__post_init__()
        class_edges(self.score_range, self.classes)
        check_count("n0", self.n0, 1)
        if self.target is not None:
            check_option("target", self.target)
        needed = special.ndtr((self.target or 0.0) / self.sigma)

        def enough(n):
            size, share = stopping_schedule(n, self.alpha, early=self.target is not None)[-1]
            best = share ** (1 / size)
            return best > 0.5 and best >= needed

        goal = f"no radius of {self.target}" if self.target else "no radius"
        refuse_few(self.n, enough, f"at alpha={self.alpha}, sigma={self.sigma} {goal}")


def certify_class(
    options: ClassSampling, view: Any, score_fn: ScoreFn, images: Images, key: Any, progress: Progress, **space: Any
) -> Certificate:
    """Certify the majority class of ``n0`` noisy copies and the radius within which it stays the majority.

        radius = σ Φ⁻¹(p),  p: Clopper-Pearson lower bound of the share of the class among ``n`` other copies;
        abstention if p < 1/2

    Args:
        options: see `ClassSampling`.
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

    label, successes = None, np.zeros(len(images), int)
    n, lower = np.zeros(len(images), int), np.zeros(len(images))
    active, before = np.arange(len(images)), 0
    for size, share in plan:
        first = 0 if label is None else options.n0 + before
        votes = _votes(sampled.scores(active, first, options.n0 + size, progress), edges)
        if label is None:
            label = _most(votes[:, : options.n0], options.classes)
            votes = votes[:, options.n0 :]
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
        size=(sampled.images.shape[1], sampled.images.shape[2]),
        resize_norm=norm,
        label=np.where(abstained, -1, label),
        edges=edges,
    )


def _votes(scores: np.ndarray, edges: np.ndarray) -> Int[np.ndarray, "k n"]:
    """Return the class of each copy: the majority of its votes."""
    classes = classify(scores.astype(np.float64), edges)
    return classes[..., 0] if classes.shape[-1] == 1 else _most(classes, len(edges) + 1)


def _most(classes: np.ndarray, count: int) -> Int[np.ndarray, "*b"]:
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
