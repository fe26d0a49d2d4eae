"""The noise of smoothing, and how its samples are drawn and scored."""

from functools import partial

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxiqa.core.keys import image_keys
from jaxiqa.defenses.smoothing import MS, noise
from jaxiqa.defenses.smoothing.noisy_copies import Noisy
from jaxiqa.defenses.smoothing.sampling import fitting_chunk, sampler

KEY = jax.random.key(5)
gaussian = jax.jit(noise.gaussian, static_argnames="shape")
stream, threefry = jax.jit(noise.stream), jax.jit(noise.threefry)


def score(images):
    """Score images of any size smoothly; every pixel counts."""
    return jnp.tanh(4 * (images - 0.45)).mean((1, 2)) @ jnp.array([1.0, -0.5, 0.7])


def make_images(shape=(3, 9, 14, 3), seed=0):
    return jax.random.uniform(jax.random.key(seed), shape)


def test_threefry_equals_that_of_jax():
    key, counters = jnp.array([123, 456], jnp.uint32), jnp.arange(14, dtype=jnp.uint32)
    mine = jnp.concatenate(threefry((key[0], key[1]), (counters[:7], counters[7:])))
    np.testing.assert_array_equal(mine, jax.extend.random.threefry_2x32(key, counters))


@pytest.mark.slow
def test_the_noise_is_gaussian_and_independent():
    words = jax.random.key_data(jax.random.split(KEY, 2))
    drawn = np.asarray(gaussian(jnp.repeat(words, 40, 0), jnp.tile(jnp.arange(40), 2), (51, 67, 3)), np.float64)
    flat = drawn.reshape(80, -1)
    assert stats.kstest(flat.ravel(), "norm").pvalue > 0.01
    assert abs(stats.kurtosis(flat.ravel())) < 5 * np.sqrt(24 / flat.size)
    tail = (np.abs(flat) > 4).sum()
    assert abs(tail - flat.size * 2 * stats.norm.sf(4)) < 4 * np.sqrt(flat.size * 2 * stats.norm.sf(4))
    off = np.corrcoef(flat)[~np.eye(80, dtype=bool)]  # between samples, and between keys
    assert np.abs(off).max() < 5.5 / np.sqrt(flat.shape[1])
    for step in (1, 3, flat.shape[1] // 2):  # between pixels, channels, and the two words of a block
        assert abs((flat[:, :-step] * flat[:, step:]).mean()) < 5 / np.sqrt(80 * (flat.shape[1] - step))
    np.testing.assert_array_equal(np.float32(drawn[45]), gaussian(words[1:], jnp.array([5]), (51, 67, 3))[0])
    other = gaussian(stream(words, jnp.array([0, 0])), jnp.array([5, 5]), (51, 67, 3))
    assert abs(np.corrcoef(np.asarray(other).reshape(2, -1)[1], flat[45])[0, 1]) < 5 / np.sqrt(flat.shape[1])


def test_the_extreme_values_of_the_noise_are_finite():
    """The words of the smallest and largest values, by the formula of the docstring."""
    signed = jnp.array([-(2**23), -1, 0, 2**23 - 1], jnp.int32)
    values = jnp.sqrt(2.0) * jax.lax.erf_inv((signed.astype(jnp.float32) + 0.5) * jnp.float32(2**-23))
    exact = special.ndtri((np.asarray(signed, np.float64) + 0.5) / 2**24 + 0.5)
    np.testing.assert_allclose(values, exact, rtol=3e-5)
    assert 5.4 < float(values[-1]) < 5.43


@pytest.mark.slow
def test_samples_do_not_depend_on_chunk_and_devices():
    images = make_images()
    first = lambda x: x[:, 2, 3, 1]  # noqa: E731
    every = [
        sampler(Noisy(0.12), first, images, KEY, 40, chunk).scores(np.arange(3), 0, 40) for chunk in (1, 8, 40, 64)
    ]
    for other in every[1:]:
        np.testing.assert_array_equal(every[0], other)
    words = jax.random.key_data(image_keys(KEY, 3))
    drawn = gaussian(jnp.repeat(words, 40, 0), jnp.tile(jnp.arange(40), 3), (9, 14, 3))
    noisy = jnp.clip(jnp.repeat(images, 40, 0) + 0.12 * drawn, 0, 1)
    np.testing.assert_allclose(every[0].ravel(), first(noisy), rtol=0, atol=1e-7)
    part = sampler(Noisy(0.12), first, images, KEY, 40, 8).scores(np.array([2, 0]), 10, 25)
    np.testing.assert_array_equal(part, every[0][[2, 0], 10:25])


def test_a_model_is_compiled_once_for_all_batches_strengths_and_weights():
    traces = []

    def traced(w, x):
        traces.append(None)
        return (x * w).mean((1, 2, 3))

    for number, count in enumerate((3, 1, 2)):
        certify = MS(n=60, sigma=0.1 + 0.01 * number, chunk=16)
        certify(jax.tree_util.Partial(traced, jnp.float32(number)), make_images()[:count], KEY)
    assert len(traces) == 1


def test_the_chunk_fits_in_memory_and_pads_little():
    held = sampler(Noisy(0.12), score, make_images((1, 16, 16, 3)), KEY, 1000, None)
    devices = held.divided.num_devices
    assert held.chunk == 25 * devices if devices == 1 else 1000 % held.chunk <= held.chunk
    assert -(-1000 // held.chunk) * held.chunk <= 1000 + devices * 2
    shape = (16, 16, 3)
    fit = partial(fitting_chunk, held.view, held.score_fn, shape, 1000, held.divided)
    assert fit(available=10**9) == held.chunk
    assert devices <= fit(available=60_000) < held.chunk
    with pytest.raises(ValueError, match="MiB"):
        fit(available=100)
