"""Purifiers with a network: sizes, ranges, keys, gradients and errors, on networks with known outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.core.images import check_unit_images
from jaxiqa.defenses.diffusion import ask, denoise_step, linear_schedule
from jaxiqa.defenses.purify.diffpure import DiffPure
from jaxiqa.defenses.purify.disco import DISCO
from jaxiqa.defenses.purify.filter import Filter
from jaxiqa.defenses.purify.mprnet import MPRNet
from jaxiqa.defenses.purify.real_esrgan import RealESRGAN


def partial(function):
    """Return a pytree function with a weight, like a network."""
    return jax.tree_util.Partial(function, jnp.float32(0.9))


def filter_(weight, x):
    return weight * x + 0.08 * (x[:, ::-1] - x)


def enlarged(weight, x):
    return (weight * x).repeat(4, 1).repeat(4, 2)


def drawn(weight, x, size):
    return jax.image.resize(weight * x, (len(x), *size, 3), "bilinear")


def diffusion(weight, x, t):
    return jnp.concatenate([jnp.tanh(weight * x + t[:, None, None, None] / 100), jnp.zeros_like(x)], -1)


PURIFIERS = {
    "fcn": Filter(partial(filter_)),
    "mprnet": MPRNet(partial(filter_)),
    "real_esrgan": RealESRGAN(partial(enlarged)),
    "disco": DISCO(partial(drawn)),
    "diffpure": DiffPure(partial(diffusion), steps=2, size=(8, 8)),
}
NAMES = sorted(PURIFIERS)


def make_images(size=(9, 14), count=2):
    return jax.random.uniform(jax.random.key(7), (count, *size, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_purifier_keeps_shape_range_type_and_key(name):
    """Check shape, range, type and key; image by image, batched and compiled results; a finite, nonzero gradient."""
    purify, images, key = PURIFIERS[name], make_images(), jax.random.key(0)
    given = None if not purify.random else key
    out = purify(images, given)
    assert out.shape == images.shape
    assert out.dtype == jnp.float32
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    np.testing.assert_array_equal(out, purify(images, given))
    for i in range(len(images)):
        np.testing.assert_allclose(purify(images[i : i + 1], given)[0], out[i], atol=1e-6)
    compiled = jax.jit(lambda purify, x, key: purify(x, key))
    np.testing.assert_allclose(compiled(purify, images, given), out, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda x: (purify(x, given) ** 2).sum()))(images)
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).max((1, 2, 3)) > 0).all()
    if purify.random:
        assert np.abs(purify(images, jax.random.key(1)) - out).max() > 1e-3
        each = jax.vmap(lambda key: purify(images, key))(jax.random.split(key, 2))
        np.testing.assert_allclose(each[1], purify(images, jax.random.split(key, 2)[1]), atol=1e-6)
    assert purify.surrogate is None


@pytest.mark.parametrize("name", NAMES)
def test_errors_name_the_bad_input(name):
    purify, key = PURIFIERS[name], jax.random.key(0)
    for images, message in (
        (255 * make_images(), r"images has values in \[.*\]; expected \[0, 1\]"),
        (make_images().at[0, 0, 0, 0].set(jnp.nan), r"images has values in \[nan, nan\]; expected \[0, 1\]"),
        (make_images()[..., :1], r"images has shape \(2, 9, 14, 1\); expected 3 channels"),
        (make_images()[:0], r"images has shape \(0, 9, 14, 3\); expected at least one image"),
    ):
        with pytest.raises(ValueError, match=message):
            purify(images, key)


def test_other_arrays_are_refused_without_type_checks():
    with pytest.raises(ValueError, match=r"images has shape \(9, 14, 3\); expected four axes"):
        check_unit_images(make_images()[0])
    with pytest.raises(ValueError, match="images has dtype uint8"):
        check_unit_images(np.zeros((1, 4, 4, 3), np.uint8))


def test_networks_that_return_another_shape_are_refused():
    images = make_images()
    for purify in (Filter(lambda x: x[:, 1:]), Filter(lambda x: x[..., :1]), MPRNet(lambda x: x[:1])):
        with pytest.raises(ValueError, match="network returned shape"):
            purify(images)
    with pytest.raises(ValueError, match="expected a multiple of both sides"):
        RealESRGAN(lambda x: x.repeat(2, 1))(images)
    with pytest.raises(ValueError, match=r"network returned shape .* and size \(9, 14\)"):
        DISCO(lambda x, size: x[:, 1:])(images)


def test_mprnet_pads_by_reflection_and_crops_the_result():
    seen = []

    def network(x):
        seen.append(x.shape)
        return x.at[:, 9:].set(jnp.nan).at[:, :, 14:].set(jnp.nan) if x.shape[1] == 16 else x

    images = make_images()
    np.testing.assert_array_equal(MPRNet(network)(images), images)
    assert seen == [(2, 16, 16, 3)]
    padded = []
    MPRNet(lambda x: jax.debug.callback(padded.append, x) or x)(images)
    jax.effects_barrier()
    expected = np.pad(images, ((0, 0), (0, 7), (0, 2), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(padded[0], expected)
    for size in ((1, 1), (1, 5), (8, 16)):
        np.testing.assert_array_equal(MPRNet(lambda x: x)(make_images(size)), make_images(size))


def test_real_esrgan_restores_the_size_by_default():
    images = make_images()
    np.testing.assert_allclose(
        RealESRGAN(lambda x: x.repeat(4, 1).repeat(4, 2))(images).mean(), images.mean(), rtol=0.01
    )
    for options in ({"keep_size": False}, {"variant": "benchmark"}):
        large = RealESRGAN(partial(enlarged), **options)(images)
        assert large.shape == (2, 36, 56, 3)
        np.testing.assert_allclose(large[:, ::4, ::4], 0.9 * images, rtol=1e-6)
    with pytest.raises(ValueError, match="variant='original' is not allowed"):
        RealESRGAN(partial(enlarged), variant="original")


def test_disco_draws_at_any_size():
    images, asked = make_images(), []

    def network(x, size):
        asked.append(size)
        return jnp.zeros((len(x), *size, 3))

    shapes = [
        DISCO(network, **options)(images).shape[1:3]
        for options in ({}, {"size": (5, 6)}, {"size": (5, 6), "keep_size": False}, {"variant": "benchmark"})
    ]
    assert shapes == [(9, 14), (9, 14), (5, 6), (299, 299)]
    assert asked == [(9, 14), (5, 6), (5, 6), (299, 299)]
    with pytest.raises(ValueError, match="size=0 is outside"):
        DISCO(network, size=(0, 5))


@pytest.mark.slow
def test_diffpure_equals_noise_and_reverse_steps_by_hand():
    purify, images, key = DiffPure(partial(diffusion), steps=3, size=None), make_images((8, 6)), jax.random.key(3)
    schedule = linear_schedule()

    def by_hand(images):
        forth, back = jax.random.split(key)
        x = schedule.signal[2] * (2 * images - 1) + schedule.spread[2] * jax.random.normal(forth, (8, 6, 3))
        for t in (2, 1, 0):
            drawn = jax.random.normal(jax.random.fold_in(back, t), (8, 6, 3))
            x = denoise_step(schedule, x, t, ask(schedule, partial(diffusion), x, t), drawn)
        return jnp.clip((x + 1) / 2, 0, 1)

    np.testing.assert_allclose(purify(images, key), by_hand(images), atol=1e-6)
    ours, theirs = (jax.grad(lambda x: (f(x) ** 2).sum())(images) for f in (lambda x: purify(x, key), by_hand))  # noqa: B023
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
    more = [
        float(jnp.abs(DiffPure(partial(diffusion), steps=t, size=None)(images, key) - images).mean()) for t in (1, 9)
    ]
    assert more[0] < more[1]


@pytest.mark.slow
def test_diffpure_works_at_the_networks_size_and_smooths_first_unless_as_in_the_benchmark():
    seen = []

    def network(x, t):
        seen.append(x.shape)
        return jnp.zeros((*x.shape[:3], 6))

    white = jnp.zeros((1, 16, 16, 3)).at[:, 1::4, 1::4].set(1)  # one of the four pixels of a bilinear sample
    smooth, as_run = (
        DiffPure(network, steps=1, size=(4, 4), variant=variant)(white, jax.random.key(0))
        for variant in ("paper", "benchmark")
    )
    assert seen == [(1, 4, 4, 3)]  # both share one program
    assert smooth.shape == as_run.shape == white.shape
    resized = [jax.image.resize(white, (1, 4, 4, 3), "bilinear", antialias=antialias) for antialias in (True, False)]
    assert abs(float(as_run.mean() - smooth.mean())) > 0.1
    for purified, expected in zip((smooth, as_run), resized, strict=True):
        np.testing.assert_allclose(purified.mean(), expected.mean(), atol=0.01)
    with pytest.raises(ValueError, match=r"diffpure needs one key.*got None"):
        DiffPure(network)(white, None)
    with pytest.raises(ValueError, match="steps=1001 is outside"):
        DiffPure(network, steps=1001, size=None)(white, jax.random.key(0))
    with pytest.raises(ValueError, match="steps=0 is outside"):
        DiffPure(network, steps=0)
