"""Intervals and radii of smoothing have the stated coverage on scores whose truth is known."""

import dataclasses

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
from scipy import special, stats

from jaxiqa.defenses.smoothing import MS, RS

KEY = jax.random.key(5)


def linear(weight):
    return jax.tree_util.Partial(lambda w, x: (x * w).sum((1, 2, 3)), weight)


@dataclasses.dataclass(frozen=True)
class Truth:
    """A linear score of grey images under noise that stays inside [0, 1]: exactly Gaussian."""

    images: jax.Array
    weight: jax.Array
    mean: np.ndarray
    deviation: float
    norm: float


def truth(count, sigma):
    weight = 0.1 + jax.random.normal(jax.random.key(1), (5, 7, 3)) / 30
    images = jnp.linspace(0.4, 0.6, count)[:, None, None, None] * jnp.ones((count, 5, 7, 3))
    norm = float(jnp.linalg.norm(weight))
    return Truth(images, weight, np.asarray(linear(weight)(images), np.float64), sigma * norm, norm)


def test_the_interval_of_the_median_has_the_stated_coverage():
    """For a linear score h(x + δ) = h(x) + w·δ: over all δ of norm ε it spans ± ε‖w‖."""
    alpha, count = 0.1, 200
    known = truth(count, 0.05)
    certify = MS(epsilon=0.03, sigma=0.05, n=80, alpha=alpha, chunk=400)
    found = certify(linear(known.weight), known.images, KEY)
    spread = 0.03 * known.norm
    allowed = stats.binom.ppf(0.9999, count, alpha)
    missed = (found.lower > known.mean - spread).sum(), (found.upper < known.mean + spread).sum()
    assert max(missed) <= allowed
    # The interval is not too wide: the next ranks inwards would fail too often.
    assert sum(missed) > 0
    np.testing.assert_allclose(found.score, known.mean, atol=5 * 1.2533 * known.deviation / np.sqrt(80))


def share(known, found, push=0.0):
    """Return the true probability of the label, with the score moved by ``push``."""
    borders = np.concatenate([[-np.inf], found.edges, [np.inf]])
    between = [
        (border - known.mean - push) / known.deviation for border in (borders[found.label], borders[found.label + 1])
    ]
    return special.ndtr(between[1]) - special.ndtr(between[0])


def test_the_radius_has_the_stated_coverage():
    """The class changes where the score crosses either edge, at a distance of |edge - score| / ‖w‖."""
    alpha, count = 0.1, 200
    known = truth(count, 0.05)
    low, high = float(known.mean.min()), float(known.mean.max())
    certify = RS(score_range=(low, high), sigma=0.05, n0=20, n=60, alpha=alpha, classes=4, chunk=400)
    found = certify(linear(known.weight), known.images, KEY)
    kept = ~found.abstained
    assert 0.5 < kept.mean() < 1
    wrong = found.radius[kept] > 0.05 * special.ndtri(share(known, found)[kept])
    assert wrong.sum() <= stats.binom.ppf(0.9999, count, alpha)
    assert wrong.sum() > 0
    # Where the bound is correct, the class stays if the score moves by the radius towards either edge.
    for push in (-found.radius * known.norm, found.radius * known.norm):
        assert (share(known, found, push)[kept][~wrong] >= 0.5 - 1e-9).all()


def test_early_stopping_gives_the_same_decisions_with_fewer_samples():
    known = truth(60, 0.05)
    low, high = float(known.mean.min()), float(known.mean.max())
    options = {"score_range": (low, high), "sigma": 0.05, "n0": 20, "n": 320, "classes": 4, "chunk": 400}
    run = lambda **more: RS(**options, **more)(linear(known.weight), known.images, KEY)  # noqa: E731
    full, early, far = run(), run(target=0.0), run(target=0.04)
    assert early.n.max() == 320
    assert early.n.mean() < 160
    assert set(early.n) <= {20, 40, 80, 160, 320}
    done = early.n < 320
    np.testing.assert_array_equal(early.label[done], full.label[done])
    decided = far.n < 320
    assert decided.mean() > 0.5
    np.testing.assert_array_equal(far.radius[decided] >= 0.04, full.radius[decided] >= 0.04)
    for found in (early, far):  # alpha = 0.001 of 60
        assert (found.radius > 0.05 * special.ndtri(np.maximum(share(known, found), 0.5)))[~found.abstained].sum() <= 1
    median = {"epsilon": 0.03, "sigma": 0.05, "n": 320, "chunk": 400}
    width = 2 * 0.03 * known.norm
    for target, reached in ((0.1 * width, False), (4 * width, True)):
        found = MS(**median, target=target)(linear(known.weight), known.images, KEY)
        assert found.n.max() < 320
        assert ((found.width <= target) == reached).all()
        assert (found.lower < found.upper).all()
