"""Auto-PGD: optima of a linear score, the paper's algorithm in NumPy, restarts, refused options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.attacks.apgd import APGD, windows
from jaxiqa.core.keys import image_keys

KEY = jax.random.key(3)


def make_images(shape=(2, 6, 5, 3), seed=0):
    return jax.random.uniform(jax.random.key(seed), shape)


def linear(images):
    return (images * jax.random.normal(jax.random.key(1), images.shape[1:])).sum((1, 2, 3))


def wavy(images):
    """A score with many maxima; `wavy_numpy` computes its gradient."""
    a, b, c = wave(images.shape[1:])
    return (a * jnp.sin(b * images + c)).sum((1, 2, 3))


def wave(shape):
    random = np.random.default_rng(7)
    return tuple(np.float32(random.uniform(low, high, shape)) for low, high in ((0.5, 2), (20, 60), (0, 6)))


def wavy_numpy(image):
    a, b, c = (np.float64(array) for array in wave(image.shape))
    return (a * np.sin(b * image + c)).sum(), a * b * np.cos(b * image + c)


@pytest.mark.slow
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("steps", [1, 12])
def test_linf_reaches_the_optimum_of_a_linear_score_with_active_bounds(steps, random_start):
    images = make_images()
    images = images.at[0].set(jnp.round(images[0]))  # pixels that are already at 0 or 1
    gradient = jax.grad(lambda x: linear(x).sum())(images)
    attacked = APGD(0.1, steps=steps, random_start=random_start)(linear, images, KEY)
    np.testing.assert_allclose(attacked, jnp.clip(images + 0.1 * jnp.sign(gradient), 0, 1), atol=1e-6)


def largest_in_l2_ball(clean, direction, epsilon):
    """Return the maximum of a linear score over ball and box, by the Lagrange conditions in float64."""
    from scipy.optimize import brentq

    move = lambda scale: np.clip(clean + scale * direction, 0, 1) - clean  # noqa: E731
    scale = brentq(lambda scale: np.linalg.norm(move(scale)) - epsilon, 0, 1e3)
    return (direction * (clean + move(scale))).sum()


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_l2_reaches_the_optimum_of_a_linear_score_with_active_bounds(epsilon):
    images = make_images()
    attacked = np.float64(APGD(epsilon, steps=60, norm="l2")(linear, images, KEY))
    clean, direction = np.float64(images), np.float64(jax.grad(lambda x: linear(x).sum())(images)[0])
    for before, after in zip(clean, attacked, strict=True):
        assert np.linalg.norm(after - before) <= epsilon + 1e-6
        assert (after * direction).sum() >= largest_in_l2_ball(before, direction, epsilon) - 1e-3
        assert 0 <= after.min() <= after.max() <= 1


def apgd_in_numpy(clean, epsilon, steps, norm):
    """Run Algorithm 1 of arXiv:2003.01690 for one image away from 0 and 1; also count the halvings of the step."""

    def project(x):
        offset = x - clean
        if norm == "linf":
            return clean + np.clip(offset, -epsilon, epsilon)
        return clean + offset * min(1, epsilon / max(np.linalg.norm(offset), 1e-12))

    def unit(g):
        return np.sign(g) if norm == "linf" else g / np.linalg.norm(g)

    ends = np.flatnonzero(windows(steps))
    eta, x, previous, share = 2 * epsilon, clean, clean, 1.0
    value, gradient = wavy_numpy(x)
    best = (value, x, gradient)
    begin, best_then, rises, halved, halvings = 0, value, 0, False, []
    for k in range(1, steps + 1):
        z = project(x + eta * unit(gradient))
        x, previous = project(x + share * (z - x) + (1 - share) * (x - previous)), x
        share = 0.75
        last, (value, gradient) = value, wavy_numpy(x)
        rises += value > last
        best = max(best, (value, x, gradient), key=lambda found: found[0])
        if k in ends:
            halve = rises < 0.75 * (k - begin) or (not halved and best[0] == best_then)
            if halve:
                eta /= 2
                value, x, gradient = best
            begin, best_then, rises, halved = k, best[0], 0, halve
            halvings.append(halve)
    return best[1], halvings


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.3)])
def test_steps_on_a_score_with_many_maxima_equal_the_papers_algorithm(norm, epsilon):
    images = 0.3 + 0.4 * make_images()
    attacked = APGD(epsilon, steps=40, norm=norm, random_start=False)(wavy, images, KEY)
    for clean, found in zip(images, attacked, strict=True):
        expected, halvings = apgd_in_numpy(np.float64(clean), epsilon, 40, norm)
        assert sum(halvings) >= 2  # so that the restarts from the best point matter
        np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 37])
def test_windows_cover_any_number_of_steps_without_gaps(steps):
    lengths = windows(steps)
    ends = np.flatnonzero(lengths)
    np.testing.assert_array_equal(np.cumsum(lengths[ends]), ends)
    assert ends[-1] <= steps


@pytest.mark.slow
def test_restarts_keep_the_best_and_a_batch_equals_its_images():
    images = 0.3 + 0.4 * make_images((3, 4, 5, 3))
    once, thrice = (APGD(0.1, steps=5, restarts=count)(wavy, images, KEY) for count in (1, 3))
    assert (wavy(thrice) >= wavy(once)).all()
    assert (wavy(thrice) > wavy(once)).any()
    alone = APGD(0.1, steps=5, restarts=3)(wavy, images[1:2], image_keys(KEY, 3)[1:2])
    np.testing.assert_allclose(alone[0], thrice[1], atol=1e-5)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_score_that_becomes_nan_during_the_attack_is_reported(bad):
    def breaks(images):  # finite at the clean images, NaN on the way of the second
        scores = images.mean((1, 2, 3))
        return jnp.where((jnp.arange(len(images)) == 1) & (scores > 0.55), bad, scores)

    with pytest.raises(ValueError, match="images 1 of 2"):
        APGD(0.1, steps=5, random_start=False)(breaks, jnp.full((2, 4, 4, 3), 0.5), KEY)


@pytest.mark.parametrize("options", [{"restarts": 0}, {"restarts": 2, "random_start": False}])
def test_bad_numbers_of_restarts_are_refused(options):
    with pytest.raises(ValueError, match="restarts"):
        APGD(0.1, **options)
