"""Purifiers and certifiers with half and double precision images, and with options of a wrong type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_purifiers_contract import KEY, a_purifier, make_images
from test_smoothing import NAMES, a_certifier, score

from jaxiqa.defenses.purify import PURIFIERS, make
from jaxiqa.defenses.smoothing import make as make_certifier

ROUNDING = {"float16": 2e-3, "bfloat16": 1e-2}


@pytest.mark.parametrize("kind", ROUNDING)
@pytest.mark.parametrize("name", PURIFIERS)
def test_a_purifier_of_half_precision_images_computes_in_float32_and_rounds_once(name, kind):
    images, purify = make_images().astype(kind), a_purifier(name)
    purified = purify(images, KEY)
    assert purified.dtype == images.dtype
    assert 0 <= float(purified.min()) <= float(purified.max()) <= 1
    exact = purify(images.astype(jnp.float32), KEY)
    np.testing.assert_array_equal(purified, exact.astype(kind))


@pytest.mark.parametrize("name", PURIFIERS)
def test_a_purifier_keeps_double_precision(name):
    with jax.enable_x64(True):
        images = jnp.asarray(np.random.default_rng(0).random((2, 9, 14, 3)))
        purified = a_purifier(name)(images, KEY)
        assert purified.dtype == jnp.float64
        assert 0 <= float(purified.min()) <= float(purified.max()) <= 1


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize(
    "name", [name if name in ("rs", "ms") else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_a_certifier_adds_its_noise_in_float32_for_any_type(name, kind):
    images = make_images().astype(jnp.bfloat16).astype(jnp.float32)  # values that all types represent
    images = (images * 64).round() / 64
    expected = a_certifier(name)(score, images, KEY)
    with jax.enable_x64(kind == "float64"):
        found = a_certifier(name)(score, jnp.asarray(images, kind), KEY)
    answer = "label" if expected.score is None else "score"
    np.testing.assert_allclose(getattr(found, answer), getattr(expected, answer), atol=1e-5)
    np.testing.assert_allclose(found.radius, expected.radius, atol=1e-5)


def test_scores_of_double_precision_are_not_rounded_before_they_are_compared():
    """A score just above a border is in the class above."""
    with jax.enable_x64(True):
        above = lambda x: jnp.full(len(x), 0.5 + 1e-12, jnp.float64)  # noqa: E731
        found = a_certifier("rs", score_range=(0.0, 1.0), classes=4)(above, jnp.full((1, 4, 4, 3), 0.5), KEY)
        assert found.label.tolist() == [2]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jpeg", {"quality": "50"}, "quality"),
        ("jpeg", {"quality": np.float32(200)}, "quality"),
        ("jpeg", {"quality": jnp.array([50, 500])}, "quality=500"),
        ("jpeg", {"quality": 50.5}, "whole number"),
        ("jpeg", {"quality": True}, "quality"),
        ("diffjpeg", {"quality": np.float64(0)}, "quality"),
        ("color_quantization", {"levels": 2.5}, "whole number"),
        ("color_quantization", {"levels": jnp.array(1)}, "levels=1 is outside"),
        ("random_noise", {"sigma": np.float32(-0.1)}, "sigma"),
        ("random_noise", {"sigma": "2/255"}, "sigma"),
        ("gaussian_blur", {"sigma": np.float32(0)}, "sigma"),
        ("unsharp", {"amount": np.float32(-1)}, "amount"),
        ("rotate", {"limit": np.float32(400)}, "limit"),
        ("crop", {"size": 2.5}, "size"),
        ("resize", {"scale": "half"}, "scale"),
        ("diffpure", {"network": len, "steps": 2.5}, "steps"),
        ("diffpure", {"network": len, "size": 256}, "size"),
        ("disco", {"network": len, "size": (256,)}, "size"),
    ],
)
def test_options_of_a_wrong_type_or_value_are_refused_when_a_purifier_is_made(name, options, message):
    with pytest.raises(Exception, match=message):  # ValueError, or the type checker's error if it comes first
        make(name, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": "0.1"}, "sigma"),
        ({"sigma": float("inf")}, "sigma"),
        ({"alpha": "0.1"}, "alpha"),
        ({"chunk": 0}, "chunk"),
        ({"chunk": 2.5}, "chunk"),
        ({"classes": 12.5}, "classes"),
        ({"target": "0.1"}, "target"),
        ({"score_range": (0.0, 1.0, 2.0)}, "score_range"),
        ({"score_range": "mos"}, "score_range"),
    ],
)
def test_options_of_a_wrong_type_or_value_are_refused_when_a_certifier_is_made(options, message):
    with pytest.raises(Exception, match=message):
        make_certifier("rs", **{"score_range": (0.0, 1.0)} | options)
