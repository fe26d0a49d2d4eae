"""The contract of every purifier of the registry."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import every

from jaxiqa.data.synthetic.scenes import scene
from jaxiqa.defenses import bpda
from jaxiqa.defenses.purify import PRESETS, PURIFIERS, make

KEY = jax.random.key(3)


def darker(x):
    return 0.9 * x + 0.02


def silent(x, t):
    return jnp.zeros((*x.shape[:3], 6))


QUICK = {
    "crop": {"size": 6},
    "mprnet": {"network": darker},
    "real_esrgan": {"network": lambda x: darker(x).repeat(4, 1).repeat(4, 2)},
    "diffpure": {"network": silent, "steps": 2, "size": None},
    "disco": {"network": lambda x, size: jax.image.resize(darker(x), (len(x), *size, 3), "nearest")},
    "fcn": {"network": darker},
    "dncnn": {"network": darker},
}
"""Options for small images; for a learned purifier, a small network."""
MINIMUM = {"crop": 6, "gaussian_blur": 2, "median_blur": 2, "unsharp": 2}
"""Smallest side of an image in pixels, with these options."""
NO_GRADIENT = {"jpeg"}
"""Purifiers that refuse differentiation."""
SIZES = [(9, 14), (17, 8)]


def make_images(size=SIZES[0], count=3, seed=0):
    return jax.random.uniform(jax.random.key(seed), (count, *size, 3))


def a_purifier(name, **options):
    return make(name, **QUICK.get(name, {}) | options)


@pytest.mark.slow
@pytest.mark.parametrize("name", every(2, PURIFIERS))
def test_the_contract(name):
    purify = a_purifier(name)
    for size in SIZES:
        images = make_images(size)
        purified = purify(images, KEY)
        assert purified.shape == images.shape
        assert purified.dtype == images.dtype
        assert float(purified.min()) >= 0
        assert float(purified.max()) <= 1
        np.testing.assert_array_equal(purified, purify(images, KEY))
        np.testing.assert_allclose(jax.jit(purify)(images, KEY), purified, atol=1e-5)
        for i in range(len(images)):
            np.testing.assert_allclose(purify(images[i : i + 1], KEY)[0], purified[i], atol=1e-5)


@pytest.mark.parametrize("name", PURIFIERS)
def test_only_random_purifiers_depend_on_the_key(name):
    purify, images = a_purifier(name), make_images()
    if purify.random:
        outputs = jax.vmap(purify, (None, 0))(images, jax.random.split(KEY, 4))
        assert (outputs != outputs[0]).any()
        for key in (None, jax.random.split(KEY, 3)):
            with pytest.raises(Exception, match="key"):
                purify(images, key)
    else:
        np.testing.assert_array_equal(purify(images), purify(images, KEY))


@pytest.mark.slow
@pytest.mark.parametrize("name", PURIFIERS)
def test_the_gradient_is_finite_or_refused_and_then_a_surrogate_has_one(name):
    purify, images = a_purifier(name), make_images()
    if name in NO_GRADIENT:
        with pytest.raises(ValueError, match="has no gradient"):
            jax.grad(lambda x: purify(x, KEY).sum())(images)
    else:
        gradient = jax.grad(lambda x: (purify(x, KEY) ** 2).sum())(images)
        assert np.isfinite(gradient).all()
        assert purify.surrogate is not None or float(jnp.abs(gradient).max()) > 1e-3
    if purify.surrogate is not None:
        adaptive = bpda(purify, purify.surrogate)
        np.testing.assert_allclose(adaptive(images, KEY), purify(images, KEY), atol=1e-6)
        gradient = jax.grad(lambda x: (adaptive(x, KEY) ** 2).sum())(images)
        assert np.isfinite(gradient).all()
        assert float(jnp.abs(gradient).max()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", every(2, PURIFIERS))
def test_the_output_of_flat_black_and_white_is_in_range_with_a_finite_gradient(name):
    purify = a_purifier(name)
    images = jnp.stack([jnp.zeros((12, 9, 3)), jnp.ones((12, 9, 3))])
    purified = purify(images, KEY)
    assert float(purified.min()) >= 0
    assert float(purified.max()) <= 1
    if name not in NO_GRADIENT:
        assert np.isfinite(jax.grad(lambda x: purify(x, KEY).sum())(images)).all()


@pytest.mark.parametrize("name", PURIFIERS)
@pytest.mark.parametrize("size", [pytest.param((1, 1), marks=pytest.mark.slow), (2, 5)])
def test_tiny_images_are_purified_or_refused_clearly(name, size):
    images = make_images(size, count=1)
    if min(size) < MINIMUM.get(name, 1):
        with pytest.raises(ValueError, match=f"at least {MINIMUM[name]} pixels"):
            a_purifier(name)(images, KEY)
        return
    purified = a_purifier(name)(images, KEY)
    assert purified.shape == images.shape
    assert np.isfinite(purified).all()


BAD = {
    "0-255": (jnp.full((1, 9, 9, 3), 255.0), r"images has values in \[255.0, 255.0\]"),
    "negative": (jnp.full((1, 9, 9, 3), -0.1), "images has values"),
    "nan": (jnp.full((1, 9, 9, 3), jnp.nan), "images has values"),
    "grey": (jnp.zeros((1, 9, 9, 1)), "expected 3 channels"),
    "alpha": (jnp.zeros((1, 9, 9, 4)), "expected 3 channels"),
    "none": (jnp.zeros((0, 9, 9, 3)), "at least one image"),
    "one": (jnp.zeros((9, 9, 3)), "b h w c"),
    "bytes": (jnp.zeros((1, 9, 9, 3), jnp.uint8), "images"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", PURIFIERS)
def test_images_of_the_wrong_kind_are_refused(name, kind):
    images, message = BAD[kind]
    with pytest.raises(Exception, match=message):
        a_purifier(name)(images, KEY)


@pytest.mark.parametrize("name", PURIFIERS)
def test_a_purifier_is_a_pytree_whose_strength_may_be_traced(name):
    purify, images = a_purifier(name), make_images()
    again = jax.jit(lambda purify, x: purify(x, KEY))(purify, images)
    np.testing.assert_allclose(again, purify(images, KEY), atol=1e-5)


def natural_images():
    random = np.random.default_rng(5)
    return jnp.asarray(np.stack([scene(random, (300, 320)) for _ in range(2)]), jnp.float32).clip(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", PURIFIERS)
def test_the_weakest_preset_changes_a_natural_image_less_than_the_strongest(name):
    images, network = natural_images(), {k: v for k, v in QUICK.get(name, {}).items() if name != "crop"}
    keys = jax.random.split(KEY, 8) if PURIFIERS[name].random else KEY[None]
    changes = [
        np.mean([((make(name, **network | preset)(images, key) - images) ** 2).mean() for key in keys])
        for preset in PRESETS[name]
    ]
    assert all(change > 0 for change in changes)
    assert changes[0] < changes[-1] or len(changes) == 1


def test_every_purifier_has_presets_of_its_own_options():
    assert set(PRESETS) == set(PURIFIERS)
    for name, presets in PRESETS.items():
        fields = {field.name for field in dataclasses.fields(PURIFIERS[name])}
        assert len(presets) in (1, 5)
        assert all(set(preset) <= fields for preset in presets)


def test_the_presets_are_the_published_ones(shared):
    import json

    published = json.loads((shared / "oracles/benchmark_presets/defence_presets.json").read_text())
    ours = {"random-rotate": "rotate", "random-crop": "crop"}
    for name, entry in published.items():
        presets = PRESETS.get(ours.get(name, name.replace("-", "_")))
        if entry["presets"] and presets is not None:
            values = sorted(value for preset in presets for value in preset.values())
            assert values == sorted(entry["presets"].values())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jepg", {}, "'jpeg'"),
        ("jpeg", {"q": 50}, "'quality'"),
        ("jpeg", {"quality": 0}, "quality"),
        ("jpeg", {"variant": "torch"}, "variant"),
        ("diffjpeg", {"quality": 101}, "quality"),
        ("color_quantization", {"levels": 1}, "levels"),
        ("resize", {"scale": 0.0}, "scale"),
        ("upscale", {"scale": 1.5}, "scale"),
        ("rotate", {"limit": -1.0}, "limit"),
        ("crop", {"size": 0}, "size"),
        ("gaussian_blur", {"kernel_size": 4}, "kernel_size"),
        ("gaussian_blur", {"sigma": 0.0}, "sigma"),
        ("median_blur", {"kernel_size": 2}, "kernel_size"),
        ("unsharp", {"amount": -1.0}, "amount"),
        ("random_noise", {"sigma": float("nan")}, "sigma"),
    ],
)
def test_errors_name_the_bad_option(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)
