"""Certificates against scores with an exactly known smoothed value everywhere in the ball."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import every
from scipy import special, stats

from jaxiqa.defenses.smoothing import DMS, MS, RS

COUNT, ALPHA, SIGMA = 200, 0.1, 0.05
KEY = jax.random.key(8)
ALLOWED = stats.binom.ppf(0.9999, COUNT, ALPHA)
SHAPES = {
    "line": lambda p: p,
    "stairs": lambda p: jnp.floor(4 * p) / 4,
    "step": lambda p: (p > 0.3) * 1.0,
    "valley": lambda p: jnp.abs(p - 0.2),
    "waves": lambda p: jnp.sin(9 * p),
}
"""Scores of the projection p = w · x, ‖w‖ = 1: p is Gaussian under noise, and changes by at most ε within ε of x."""


@dataclasses.dataclass(frozen=True)
class Case:
    images: jax.Array
    score: object
    points: np.ndarray  # p of every image
    shape: object


def case(name):
    w = jax.random.normal(jax.random.key(1), (3, 4, 3))
    w = w / jnp.linalg.norm(w)
    centre = jnp.full((3, 4, 3), 0.5)
    offsets = jnp.linspace(-0.3, 0.3, COUNT)[:, None, None, None]
    images = centre + offsets * w  # far from the borders of [0, 1], so that no noise is clipped
    score = jax.tree_util.Partial(lambda w, x: SHAPES[name](((x - 0.5) * w).sum((1, 2, 3)) + 0.2), w)
    return Case(images, score, np.linspace(-0.3, 0.3, COUNT) + 0.2, SHAPES[name])


QUANTILES = special.ndtri((np.arange(4001) + 0.5) / 4001)


def smoothed(shape, points):
    """Return the scores on a dense, equally likely grid of the noise around each point, ``points grid``."""
    return np.asarray(shape(points[..., None] + SIGMA * QUANTILES))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("target", every(2, [None, 1e-6, 0.02, 0.2]))
@pytest.mark.parametrize("epsilon", [0.08, pytest.param(0.02, marks=pytest.mark.slow)])
def test_no_image_of_the_ball_has_a_median_outside_the_bounds(name, target, epsilon):
    known = case(name)
    found = MS(epsilon=epsilon, sigma=SIGMA, n=160, alpha=ALPHA, target=target, chunk=800)(
        known.score, known.images, KEY
    )
    assert np.isfinite(found.lower).all()
    assert np.isfinite(found.upper).all()
    assert not found.abstained.any()
    assert ((found.lower <= found.score) & (found.score <= found.upper)).all()
    moves = np.linspace(-epsilon, epsilon, 21)
    medians = np.median(smoothed(known.shape, known.points[:, None] + moves), -1)  # 4001 is odd: no mean of two
    slack = 1e-3  # of the grid
    missed = (found.lower > medians.min(1) + slack).sum(), (found.upper < medians.max(1) - slack).sum()
    assert max(missed) <= ALLOWED


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("target", every(2, [None, 0.0, 0.02, 0.06]))
def test_no_image_within_the_radius_has_another_class(name, target):
    known = case(name)
    certify = RS(score_range=(-0.2, 0.6), sigma=SIGMA, n0=15, n=160, alpha=ALPHA, classes=5, target=target, chunk=800)
    found = certify(known.score, known.images, KEY)
    np.testing.assert_array_equal(found.abstained, found.label == -1)
    kept = ~found.abstained
    assert kept.mean() > 0.3
    moves = np.linspace(-0.999, 0.999, 21) * found.radius[kept, None]
    scores = smoothed(known.shape, known.points[kept, None] + moves)
    share = (np.searchsorted(found.edges, scores) == found.label[kept, None, None]).mean(-1)
    assert (share < 0.5 - 2e-3).any(1).sum() <= ALLOWED


@pytest.mark.parametrize("variant", ["paper", "benchmark"])
@pytest.mark.parametrize("options", [{}, {"denoise": lambda x: 0.5 * x + 0.25}])
@pytest.mark.parametrize(("epsilon", "n"), [(0.1, 300), (0.15, 300), (0.2, 300), (0.25, 1000)])
def test_no_image_stops_before_its_bounds_are_finite(variant, options, epsilon, n):
    """If ε > σ, the inner ranks, which show that an interval is wide, exist before the ranks of its bounds."""
    certify = (DMS if options else MS)(epsilon=epsilon, n=n, target=1e-5, variant=variant, chunk=2000, **options)
    found = certify(lambda x: x.mean((1, 2, 3)), jax.random.uniform(KEY, (4, 3, 5, 3)), KEY)
    assert np.isfinite(found.lower).all()
    assert np.isfinite(found.upper).all()
    assert (found.lower < found.score).all()
    assert not found.abstained.any()


def test_bounds_of_several_looks_always_contain_the_score():
    """With a large alpha the best bounds of five looks sometimes exclude the last median."""
    certify = MS(epsilon=1e-4, sigma=SIGMA, n=48, alpha=0.95, target=1e-9, chunk=800)
    found = certify(case("line").score, case("line").images, KEY)
    assert ((found.lower <= found.score) & (found.score <= found.upper)).all()


def test_early_stopping_never_makes_an_image_abstain():
    """The radius is clearly on one side of the target at once; the class must be tested all the same."""
    known = case("line")
    options = {"score_range": (-0.2, 0.6), "sigma": SIGMA, "n0": 15, "n": 640, "classes": 5, "chunk": 800}
    full = RS(**options)(known.score, known.images, KEY)
    early = RS(**options, target=0.1)(known.score, known.images, KEY)
    assert early.n.mean() < 640
    clear = np.asarray(full.radius) > 0.01
    assert clear.sum() > 50
    assert not early.abstained[clear].any()
