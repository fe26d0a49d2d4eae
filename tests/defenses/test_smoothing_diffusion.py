"""Smoothing behind a diffusion model: DDRS and DensePure."""

from functools import partial

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxiqa.core.keys import image_keys
from jaxiqa.defenses import diffusion
from jaxiqa.defenses.smoothing import DDRS, DensePure, noise
from jaxiqa.defenses.smoothing.densepure import Reversed
from jaxiqa.defenses.smoothing.noisy_copies import resize_norm
from jaxiqa.ops.resize import resize_bilinear

KEY = jax.random.key(5)
gaussian = jax.jit(noise.gaussian, static_argnames="shape")
stream = jax.jit(noise.stream)
RANGE = (-0.5, 0.5)


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def score(images):
    """Score images of any size smoothly; every pixel counts."""
    return jnp.tanh(4 * (images - 0.45)).mean((1, 2)) @ jnp.array([1.0, -0.5, 0.7])


def make_images(shape=(3, 9, 14, 3), seed=0):
    return jax.random.uniform(jax.random.key(seed), shape)


def network(x, t):
    """Predict a third of the image as noise, and more at later steps."""
    return jnp.concatenate([x * (0.3 + t[:, None, None, None] / 1000), jnp.tanh(x)], -1)


def knowing(clean, schedule):
    """Return a network that predicts the noise in x exactly, from the clean image; its variance is the smaller one."""

    def tell(clean, x, t):
        index = jnp.searchsorted(jnp.asarray(schedule.timesteps, x.dtype), t)[:, None, None, None]
        signal, spread = (jnp.asarray(table, x.dtype)[index] for table in (schedule.signal, schedule.spread))
        return jnp.concatenate([(x - signal * clean) / spread, -jnp.ones_like(x)], -1)

    return jax.tree_util.Partial(tell, 2 * clean - 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DDRS, DensePure])
def test_an_exact_denoiser_gives_the_largest_radius(kind):
    """x̂₀ is the resized image for any noise: every copy has the same score."""
    images = make_images((1, 12, 10, 3))
    small = resize_bilinear(images, (8, 8))
    certify = kind(knowing(small, diffusion.linear_schedule()), score_range=RANGE, n0=5, n=40, size=8, chunk=8)
    found = certify(lambda x: score(x) - score(small)[0] + 0.25, images, KEY)
    np.testing.assert_allclose(found.radius, 0.12 * special.ndtri(0.001 ** (1 / 40)), rtol=1e-9)
    assert found.label.tolist() == [8]
    np.testing.assert_allclose(found.input_radius, found.radius / resize_norm(12, 10, 8))


@pytest.mark.parametrize("shape", [(20, 4, 8), slow((12, 10, 8)), slow((5, 7, 8))])
def test_the_norm_of_the_resize_equals_that_of_its_matrix(shape):
    h, w, side = shape
    matrix = jax.jacobian(lambda x: resize_bilinear(x.reshape(1, h, w, 1), (side, side)).ravel())(jnp.zeros(h * w))
    exact = np.linalg.norm(np.asarray(matrix, np.float64), 2)
    np.testing.assert_allclose(resize_norm(h, w, side), exact, rtol=1e-5)


@pytest.mark.slow
def test_densepure_visits_its_steps_and_votes_over_reverse_runs():
    certify = DensePure(network, score_range=RANGE)
    assert certify.schedule().timesteps.tolist() == [35, 70]
    images, words = make_images((2, 5, 6, 3)), jax.random.key_data(image_keys(KEY, 2))
    samples = jnp.array([4, 4])
    view = partial(Reversed, network, certify.schedule(), 0.12)
    copies = jax.jit(lambda *a: view(3, "paper")(*a))(images, words, samples).reshape(2, 3, 5, 6, 3)
    assert float(jnp.abs(copies[:, 0] - copies[:, 1]).max()) > 1e-3
    fixed = jax.jit(lambda *a: view(1, "benchmark")(*a))(images, words, samples)
    # By hand, from the formulas of the diffusion: 70 -> 35 -> 0, with the fixed reverse noise.
    x = 2 * (images + 0.12 * gaussian(words, samples, (5, 6, 3))) - 1
    short = certify.schedule()
    x = jnp.float32(short.signal[1]) * x
    for t in (1, 0):
        drawn = gaussian(stream(jnp.zeros((1, 2), jnp.uint32), jnp.array([t])), jnp.zeros(1, int), (5, 6, 3))
        x = diffusion.denoise_step(short, x, t, diffusion.ask(short, network, x, t), drawn)
    np.testing.assert_allclose(fixed, (jnp.clip(x, -1, 1) + 1) / 2, atol=1e-6)


@pytest.mark.slow
def test_more_votes_give_a_larger_radius():
    """The noise of the reverse steps moves the score of one pixel out of its class; votes average that noise."""

    def wavering(x, t):
        return jnp.concatenate([jnp.zeros_like(x), jnp.ones_like(x)], -1)

    options = {"score_range": RANGE, "n0": 20, "n": 200, "alpha": 0.05, "size": None, "classes": 4, "chunk": 50}
    pixel = lambda x: 2 * (x[:, 0, 0, 0] - 0.5) + 0.25  # noqa: E731
    radii = [
        DensePure(wavering, votes=votes, **options)(pixel, jnp.full((1, 5, 7, 3), 0.5), KEY).radius[0]
        for votes in (1, 9)
    ]
    assert radii[1] > radii[0] + 0.01
