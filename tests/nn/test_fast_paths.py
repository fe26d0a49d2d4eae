from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa.nn.kernels.grouped import grouped_conv
from jaxiqa.nn.kernels.max_pool import max_pool
from jaxiqa.nn.kernels.resampling import doubling_conv, halving_conv
from jaxiqa.nn.kernels.wide import wide_conv


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "window", "stride", "padding"),
    [
        pytest.param((9, 12), 3, 2, ((1, 1), (1, 1)), marks=pytest.mark.slow),
        ((8, 7), 3, 2, ((0, 1), (0, 0))),
        pytest.param((10, 11), 2, 2, ((0, 0), (0, 0)), marks=pytest.mark.slow),
        ((11, 13), 2, 3, ((0, 0), (1, 0))),  # stride over the window
        pytest.param((5, 6), 3, 1, ((1, 1), (1, 1)), marks=pytest.mark.slow),
    ],
)
def test_values_and_gradients_of_pooling_equal_those_of_xla_with_ties(size, window, stride, padding):
    x = jnp.round(3 * jax.random.normal(jax.random.key(0), (2, *size, 3))) / 3  # many ties
    ours = lambda x: max_pool(x, window, stride, padding)  # noqa: E731
    xla = lambda x: nnx.max_pool(x, (window, window), strides=(stride, stride), padding=padding)  # noqa: E731
    y, pull = jax.vjp(ours, x)
    expected, pull_expected = jax.vjp(xla, x)
    np.testing.assert_array_equal(ours(x), expected)
    np.testing.assert_array_equal(y, expected)
    g = jax.random.normal(jax.random.key(1), y.shape)
    np.testing.assert_allclose(pull(g)[0], pull_expected(g)[0], atol=1e-6)
    tangent = jax.random.normal(jax.random.key(2), x.shape)
    forward = jax.jvp(ours, (x,), (tangent,))[1]
    np.testing.assert_allclose(jnp.vdot(forward, g), jnp.vdot(tangent, pull(g)[0]), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cin", "cout", "groups", "stride"), [(12, 6, 3, 1), (64, 128, 16, 2), (10, 10, 1, 1), (66, 66, 2, 1)]
)
@pytest.mark.parametrize("backend", ["cpu", "tpu", "gpu"])
def test_a_grouped_convolution_equals_xlas_in_values_and_gradients(cin, cout, groups, stride, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    jax.clear_caches()  # a compiled function does not ask again
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, cin))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, cin // groups, cout))
    options = {
        "padding": ((1, 1), (0, 1)),
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        "feature_group_count": groups,
    }
    theirs = lambda x, k: jax.lax.conv_general_dilated(x, k, (stride, stride), **options)  # noqa: E731
    ours = lambda x, k: grouped_conv(x, k, stride=(stride, stride), padding=((1, 1), (0, 1)))  # noqa: E731
    y, pull = jax.vjp(ours, x, kernel)
    expected, pull_expected = jax.vjp(theirs, x, kernel)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    for found, wanted in zip(pull(expected), pull_expected(expected), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-3)


@pytest.mark.parametrize(("backend", "width"), [("cpu", 32), ("tpu", 128), ("gpu", 8)])
def test_groups_are_joined_to_the_width_of_a_devices_products(backend, width, monkeypatch):
    """256 channels in 32 groups. XLA joins all groups of a program for a TPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    jax.clear_caches()
    x, kernel = jnp.ones((1, 5, 5, 256), jnp.bfloat16), jnp.ones((3, 3, 8, 256), jnp.bfloat16)
    program = jax.make_jaxpr(partial(grouped_conv, stride=(1, 1), padding=((1, 1), (1, 1))))(x, kernel)
    found = [e for e in program.eqns[0].params["jaxpr"].eqns if e.primitive.name == "conv_general_dilated"]
    assert {e.invars[1].aval.shape[2] for e in found} == {width}
    assert len(found) == (1 if backend == "gpu" else 256 // width)
    assert {e.invars[0].aval.dtype for e in found} == {jnp.dtype("float32" if backend == "cpu" else "bfloat16")}


@pytest.mark.parametrize(("shape", "kernel"), [((2, 5, 4, 3), (3, 3, 3, 7)), ((1, 4, 6, 2), (5, 3, 2, 2))])
@pytest.mark.parametrize("gathered", [0, 2**20])
def test_a_wide_convolution_equals_xlas(shape, kernel, gathered, monkeypatch):
    monkeypatch.setattr("jaxiqa.nn.kernels.wide.GATHERED", gathered)
    x, k = jax.random.normal(jax.random.key(0), shape), jax.random.normal(jax.random.key(1), kernel)
    padding = ((2, 0), (1, 1))
    expected = jax.lax.conv_general_dilated(x, k, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(wide_conv(x, k, padding=padding), expected, atol=1e-5)


def check_gradients(ours, theirs, *arguments):
    y, pull = jax.vjp(ours, *arguments)
    expected, pull_expected = jax.vjp(theirs, *arguments)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    for found, wanted in zip(pull(expected), pull_expected(expected), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-3)


LAYOUT = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize(
    ("size", "sides", "padding"),
    [((6, 8), (4, 4), ((1, 1), (1, 1))), ((5, 8), (2, 4), ((0, 1), (2, 0))), ((2, 2), (4, 4), ((1, 1), (1, 1)))],
)
def test_halving_by_blocks_equals_a_convolution_of_stride_2(size, sides, padding):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    kernel = jax.random.normal(jax.random.key(1), (*sides, 3, 5))
    theirs = lambda x, k: jax.lax.conv_general_dilated(x, k, (2, 2), padding, dimension_numbers=LAYOUT)  # noqa: E731
    check_gradients(lambda x, k: halving_conv(x, k, padding=padding), theirs, x, kernel)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(5, 4), (1, 1)])
def test_doubling_by_parities_equals_a_transposed_convolution(size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    kernel = jax.random.normal(jax.random.key(1), (4, 4, 3, 5))
    pads = [(2, 2), (2, 2)]
    theirs = lambda x, k: jax.lax.conv_transpose(x, k, (2, 2), pads, dimension_numbers=LAYOUT)  # noqa: E731
    check_gradients(doubling_conv, theirs, x, kernel)
