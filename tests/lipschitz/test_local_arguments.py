"""Slopes around images: images, bounds and scores that are refused, with the error."""

import inspect
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.lipschitz import certified_interval, clever, gradient_norms, jacobian_norms, largest_slope, report

WEIGHTS = jax.random.normal(jax.random.key(0), (5, 4, 3))
IMAGES = jax.random.uniform(jax.random.key(1), (3, 5, 4, 3), minval=0.1, maxval=0.9)


def linear(images):
    return jnp.einsum("bhwc,hwc->b", images, WEIGHTS)


CALLS = {
    "gradient_norms": lambda x: gradient_norms(linear, x),
    "largest_slope": lambda x: largest_slope(linear, x, x),
    "largest_slope of attacked": lambda x: largest_slope(linear, IMAGES, x),
    "clever": lambda x: clever(linear, x, jax.random.key(0), radius=0.1, batches=5, samples=1),
    "certified_interval": lambda x: certified_interval(linear, x, 0.1, 1.0),
}
WRONG = {
    "0 to 255": (255 * IMAGES, r"values in \[.*expected \[0, 1\]"),
    "channels first": (IMAGES.transpose(0, 3, 1, 2), "channels last"),
    "alpha": (jnp.concatenate([IMAGES, IMAGES[..., :1]], -1), "RGBA"),
    "grey": (IMAGES[..., :1], "grey"),
    "one image": (IMAGES[0], "four axes|violates|Expected type"),
    "not a number": (IMAGES.at[0, 0, 0, 0].set(jnp.nan), "values in"),
    "no image": (IMAGES[:0], "at least one image"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("call", CALLS)
def test_images_of_another_range_or_layout_are_refused(call, wrong):
    images, message = WRONG[wrong]
    with pytest.raises((ValueError, TypeError), match=message):
        CALLS[call](images)


@pytest.mark.slow
def test_lists_and_paths_are_refused_without_type_checks():
    """Type checks are off, as for users: in the other tests they come first."""
    program = """
import jax
from jaxiqa import lipschitz
score, key = (lambda x: x.mean((1, 2, 3))), jax.random.key(0)
for given in ([1.0], "a.png"):
    for function in (
        lambda x: lipschitz.gradient_norms(score, x),
        lambda x: lipschitz.largest_slope(score, x, x),
        lambda x: lipschitz.clever(score, x, key, radius=0.1),
        lambda x: lipschitz.certified_interval(score, x, 0.1, 1.0),
    ):
        try:
            function(given)
        except TypeError as error:
            assert f"images is a {type(given).__name__}; expected a NumPy or JAX array" in str(error), error
        else:
            raise AssertionError(given)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("name", ["epsilon", "bound"])
@pytest.mark.parametrize("value", [None, "2/255", -0.1, np.nan])
def test_no_number_is_no_certificate(name, value):
    given = {"epsilon": 0.1, "bound": 1.0, name: value}
    with pytest.raises(ValueError, match=f"{name}="):
        inspect.unwrap(certified_interval)(linear, IMAGES, **given)  # without the type checks of the tests


def test_certified_intervals_check_their_bound():
    found = report(linear, (5, 4, 3))
    np.testing.assert_array_equal(
        certified_interval(linear, IMAGES, 0.1, found), certified_interval(linear, IMAGES, 0.1, found.bound)
    )
    with pytest.raises(ValueError, match=r"report for images of \(5, 4, 3\)"):
        certified_interval(lambda x: x.mean((1, 2, 3)), jnp.full((1, 6, 4, 3), 0.5), 0.1, found)
    low, high = certified_interval(linear, IMAGES, 0.0, float("inf"))
    np.testing.assert_array_equal(low, high)
    for bad in ({"epsilon": -0.1, "bound": 1.0}, {"epsilon": 0.1, "bound": float("nan")}):
        with pytest.raises(ValueError, match="is outside"):
            certified_interval(linear, IMAGES, **bad)


def test_a_score_of_a_wrong_shape_is_refused():
    for call in (
        lambda f: gradient_norms(f, IMAGES),
        lambda f: largest_slope(f, IMAGES, IMAGES),
        lambda f: certified_interval(f, IMAGES, 0.1, 1.0),
    ):
        with pytest.raises(ValueError, match="one score per image"):
            call(lambda x: linear(x)[:, None])


def test_jacobian_norms_check_their_arguments():
    for inputs, options, message in (
        (IMAGES[:0], {}, "inputs has shape"),
        (jnp.zeros((2, 3), jnp.int32), {}, "int32|violates|Expected type"),
        (IMAGES, {"steps": 0}, "steps=0"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            jacobian_norms(lambda x: x, inputs, jax.random.key(0), **options)
