"""PGD against known optima of linear scores, and projections against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_metric import KEY, make_images, score

from jaxiqa.attacks import PGD
from jaxiqa.attacks.engine.threat_model import project_l2, project_linf


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_linf_pgd_reaches_the_optimum_of_a_linear_score_with_active_bounds(steps):
    images = make_images((2, 6, 5, 3))
    images = images.at[0].set(jnp.round(images[0]))  # pixels that are already at 0 or 1
    direction = jax.random.normal(jax.random.key(1), images.shape[1:])
    attacked = PGD(0.1, steps=steps, random_start=False)(lambda x: (x * direction).sum((1, 2, 3)), images, KEY)
    np.testing.assert_allclose(attacked, jnp.clip(images + 0.1 * jnp.sign(direction), 0, 1), atol=1e-6)


def best_in_l2_ball(clean, direction, epsilon):
    """Return the maximum of a linear score over ball and box, by Lagrange conditions and bisection in float64."""
    clean, direction = np.asarray(clean, np.float64), np.asarray(direction, np.float64)
    low, high = 0.0, 1e6
    for _ in range(200):
        scale = (low + high) / 2
        length = np.linalg.norm(np.clip(clean + scale * direction, 0, 1) - clean)
        low, high = (scale, high) if length <= epsilon else (low, scale)
    return np.clip(clean + low * direction, 0, 1)


@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_l2_pgd_reaches_the_optimum_of_a_linear_score_with_active_bounds(epsilon):
    images = make_images((2, 6, 5, 3))
    direction = jax.random.normal(jax.random.key(1), images.shape[1:])
    attack = PGD(epsilon, steps=60, norm="l2", random_start=False, step_size=epsilon)
    attacked = attack(lambda x: (x * direction).sum((1, 2, 3)), images, KEY)
    for clean, found in zip(images, attacked, strict=True):
        best = best_in_l2_ball(clean, direction, epsilon)
        assert np.linalg.norm(np.asarray(found, np.float64) - clean) <= epsilon + 1e-6
        assert float((found * direction).sum()) >= (best * np.asarray(direction)).sum() - 1e-3


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_steps_raise_the_score_and_the_key_decides_the_random_start(norm):
    epsilon = 8 / 255 if norm == "linf" else 0.5
    images = make_images()
    clean = score(images)
    for steps in (1, 10):
        assert (score(PGD(epsilon, steps=steps, norm=norm)(score, images, KEY)) > clean).all()
    one, ten = (score(PGD(epsilon, steps=s, norm=norm, random_start=False)(score, images, KEY)).mean() for s in (1, 10))
    assert float(ten) >= float(one)
    first, second = (PGD(epsilon, steps=1, norm=norm)(score, images, jax.random.key(k)) for k in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize("epsilon", [0.05, 0.4])
def test_projections_are_the_nearest_points(epsilon):
    """Compare with SciPy's constrained minimiser, on a box whose lower bound is not zero."""
    from scipy.optimize import minimize

    random = np.random.default_rng(0)
    clean, x = random.uniform(0.2, 0.9, 6), random.normal(size=6)
    ball = {"type": "ineq", "fun": lambda y: epsilon**2 - np.sum((y - clean) ** 2)}
    exact = minimize(lambda y: np.sum((y - x) ** 2), clean, bounds=[(0.2, 0.9)] * 6, constraints=ball, tol=1e-14).x
    image = lambda v: jnp.asarray(v, jnp.float32).reshape(1, 2, 3)  # noqa: E731
    found = project_l2(image(x), image(clean), epsilon, low=0.2, high=0.9)
    np.testing.assert_allclose(found.ravel(), exact, atol=2e-4)
    box = np.clip(x, np.maximum(clean - epsilon, 0.2), np.minimum(clean + epsilon, 0.9))
    np.testing.assert_allclose(project_linf(image(x), image(clean), epsilon, low=0.2, high=0.9).ravel(), box, atol=1e-6)
