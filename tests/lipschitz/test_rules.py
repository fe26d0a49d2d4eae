"""Every rule bounds the dense Jacobian in float64 inside its domain, and gives no bound outside.

Complex numbers count as two real ones.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense_maps import COMPLEX, KNOWN, ROW, SIZE, dense
from quick import only

from jaxiqa.layers import householder, l2_pool, max_min
from jaxiqa.layers.fourier import from_frequencies, to_frequencies
from jaxiqa.layers.shrinkage import soft_threshold
from jaxiqa.lipschitz import report
from jaxiqa.nn.kernels.depthwise import depthwise_conv
from jaxiqa.nn.kernels.grouped import grouped_conv
from jaxiqa.nn.kernels.wide import wide_conv


def spectrum(change, size=SIZE):
    return lambda x: from_frequencies(change(to_frequencies(x)), size[:2])


FINITE = {
    "split": (lambda x: jnp.split(x, 3, -1)[1], 1.001),
    "split unevenly, joined": (lambda x: jnp.concatenate(jnp.split(x, [1, 3], 1)[::-1], 1), 1.74),
    "tile": (lambda x: jnp.tile(x, (2, 1, 3, 1)), 1.001),
    "cumulative sum": (lambda x: jnp.cumsum(x, 1), 1.001),
    "cumulative sum from the end": (lambda x: jax.lax.cumsum(x, 2, reverse=True), 1.001),
    "cumulative largest": (lambda x: jax.lax.cummax(x, 1), 1.001),
    "cumulative smallest": (lambda x: jax.lax.cummin(x, 2, reverse=True), 1.001),
    "cumulative log-sum-exp": (lambda x: jax.lax.cumlogsumexp(8 * x, 1), 1.1),
    "cumulative sum over two axes": (lambda x: jnp.cumsum(jnp.cumsum(x, 1), 2), 1.001),
    "cumulative sum of all": (jnp.cumsum, 1.001),
    "unstacked, one": (lambda x: jnp.unstack(x, axis=2)[3], 1.001),
    "repeated": (lambda x: jnp.repeat(x, 3, 1), 1.001),
    "repeated unevenly": (lambda x: jnp.repeat(x, np.array([1, 2, 5]), 3, total_repeat_length=8), 1.001),
    "flipped": (lambda x: jnp.flip(x, (1, 3)), 1.001),
    "taken": (lambda x: jnp.take(x, jnp.array([0, 0, 2, 0]), axis=3), 1.001),
    "norm": (jnp.linalg.norm, 1.001),
    "norms of pixels": (lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True), 1.001),
    "norms of maps": (lambda x: jnp.linalg.norm(x, axis=(1, 2)), 1.001),
    "norm of one vector": (lambda x: jnp.linalg.norm(x[0, 0, 0]), 1.001),
    "sum of absolute values": (lambda x: jnp.linalg.norm(x.ravel(), 1), 1.001),
    "largest absolute value": (lambda x: jnp.linalg.norm(x.ravel(), jnp.inf), 1.001),
    "top k": (lambda x: jax.lax.top_k(x, 2)[0], 1.001),
    "a slice at a known place": (lambda x: jax.lax.dynamic_slice_in_dim(x, 2, 3, 1), 1.001),
    "written into a constant": (lambda x: jnp.zeros((1, 9, 9, 3), x.dtype).at[:, :8, 1:].set(x), 1.001),
    "a constant written into it": (lambda x: x.at[:, jnp.array([1, 3])].set(0.5), 1.001),
    "added at one place": (lambda x: jnp.zeros((2, 3), x.dtype).at[jnp.array([1, 1, 0, 1])].add(x[0, 0, :4]), 1.001),
    "written into another": (lambda x: (3 * x).at[:, 2].set(x[:, 0]), 1.1),
    "updated by itself": (lambda x: jax.lax.dynamic_update_slice_in_dim(x, 2 * x[:, :2], 3, 1), 1.1),
    "chosen by a known mask": (lambda x: jnp.where(KNOWN > 0, x, 2 * x), 1.2),
    "arctangent": (jnp.arctan, 1.001),
    "arsinh": (jnp.arcsinh, 1.001),
    "complementary error function": (jax.scipy.special.erfc, 1.001),
    "barrier": (lambda x: sum(jax.lax.optimization_barrier((x, 2 * x))), 1.001),
    "leaky relu by default": (jax.nn.leaky_relu, 1.001),
    "complex product": (lambda x: (x + 1j * x[..., ::-1]) @ (ROW[:3, :3] + 1j * ROW[3:6, :3]), 2.0),
    "complex convolution": (
        lambda x: jax.lax.conv_general_dilated(
            x[..., :1] + 0j,
            jnp.asarray(COMPLEX, (x + 0j).dtype),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        1.3,
    ),
    "complex factors": (lambda x: x * jnp.asarray(COMPLEX[0, :, 0, :1].repeat(3, 1)[0], (x + 0j).dtype), 1.001),
    "one by one depthwise": (lambda x: depthwise_conv(x, x_kernel(1, 1, x), stride=(1, 1), padding=NONE), 1.001),
    "one by one depthwise, strided": (
        lambda x: depthwise_conv(x, x_kernel(1, 1, x), stride=(2, 2), padding=NONE),
        1.001,
    ),
    "depthwise of one row": (lambda x: depthwise_conv(x, x_kernel(1, 3, x), stride=(2, 1), padding=NONE), 1.3),
    "depthwise as large as the map": (lambda x: depthwise_conv(x, x_kernel(8, 8, x), stride=(2, 2), padding=NONE), 8),
    "one by one in groups": (
        lambda x: grouped_conv(x, x_kernel(1, 1, x)[:, :, None], stride=(1, 1), padding=NONE),
        1.001,
    ),
    "depthwise, batched": (
        lambda x: jax.vmap(lambda x: depthwise_conv(x, x_kernel(3, 3, x), stride=(1, 1), padding=PAD))(x[None]),
        1.3,
    ),
    "depthwise, transposed": (
        lambda x: jax.vjp(lambda y: depthwise_conv(y, x_kernel(3, 3, x), stride=(2, 1), padding=PAD), 0 * x)[1](
            x[:, ::2]
        )[0],
        1.3,
    ),
    "wide, batched": (
        lambda x: jax.vmap(lambda x: wide_conv(x, x_kernel(3, 3, x)[..., None, :], padding=PAD))(x[None, ..., :1]),
        40,
    ),
    "there and back": (spectrum(lambda z: z), 1.001),
    "a scaled spectrum": (spectrum(lambda z: z * jnp.arange(15, dtype=jnp.float32).reshape(5, 3)), 1.001),
    "a spectrum padded on the right": (lambda x: from_frequencies(to_frequencies(x), (8, 14)), 1.001),
    "a spectrum cut": (lambda x: from_frequencies(to_frequencies(x), (8, 5)), 1.42),
    "a spectrum flipped": (spectrum(lambda z: z[:, :, ::-1]), 1.001),
    "a spectrum rolled": (spectrum(lambda z: jnp.roll(z, 1, 2)), 2.1),
    "a spectrum of copies": (spectrum(lambda z: jnp.concatenate([z[:, :, :1]] * 5, 2)), 1.2),
    "a spectrum added to its conjugate": (spectrum(lambda z: z + 1j * jnp.conj(z)), 1.5),
    "jnp, there and back": (lambda x: jnp.fft.irfft2(jnp.fft.rfft2(x, axes=(1, 2)), axes=(1, 2)), 1.001),
    "jnp, padded": (lambda x: jnp.fft.irfft(jnp.fft.rfft(x, axis=1), n=12, axis=1), 1.001),
    "thresholds": (lambda x: soft_threshold(x + 1j * x[:, ::-1], jnp.array([0.1, 0.2, 0.3], x.dtype)), 1.5),
}


NONE, PAD = ((0, 0), (0, 0)), ((1, 1), (1, 1))


def x_kernel(kh, kw, x):
    return jnp.asarray(np.random.default_rng(1).normal(size=(kh, kw, 3)), x.dtype)


LARGE = {"depthwise as large as the map"}


@pytest.mark.parametrize("name", only(set(list(FINITE)[::4]) - LARGE, FINITE))
def test_a_finite_bound_is_above_the_dense_norm_and_close(name):
    function, loose = FINITE[name]
    found, truth = report(function, SIZE), dense(function)
    assert truth <= found.bound * (1 + 1e-6) <= loose * truth * (1 + 1e-5)
    assert all(row.lower <= row.upper * (1 + 1e-6) for row in found.rows)


def test_padding_a_spectrum_between_the_transforms_multiplies_the_bound_by_root_two():
    padded = report(lambda x: from_frequencies(to_frequencies(x), (4, 8)), (4, 4, 1)).bound
    assert padded == pytest.approx(math.sqrt(2), rel=1e-6)
    assert report(lambda x: from_frequencies(to_frequencies(x), (4, 4)), (4, 4, 1)).bound == 1


def scalar(x):
    return x.reshape(-1)[0]


INFINITE = {
    "complex sine": lambda x: jnp.abs(jnp.sin(5j * x)),
    "complex cosine": lambda x: jnp.cos(x + 1j * x).real,
    "complex tanh": lambda x: jnp.tanh(1.5j * x).imag,
    "complex logistic": lambda x: jax.nn.sigmoid(3j * x).real,
    "complex silu": lambda x: jax.nn.silu(3j * x).real,
    "complex arctangent": lambda x: jnp.arctan(1j * x).real,
    "complex sort": lambda x: jnp.sort(1j * x + x[..., ::-1]).real,
    "complex largest": lambda x: jnp.maximum(1j * x + x[..., ::-1], 0.5).imag,
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "round": jnp.round,
    "sign": jnp.sign,
    "remainder": lambda x: x % 0.25,
    "argmax": lambda x: jnp.argmax(x, -1) * 1.0,
    "order": lambda x: jnp.argsort(x, -1) * 1.0,
    "sorted with another": lambda x: jax.lax.sort((x, x[..., ::-1]), num_keys=1)[1],
    "place of the largest": lambda x: jax.lax.top_k(x, 1)[1] * 1.0,
    "comparison": lambda x: (x > x.mean()).astype(jnp.float32),
    "is finite": lambda x: jnp.isfinite(x) * 1.0,
    "cast to int8": lambda x: (255 * x).astype(jnp.int8) * jnp.int8(-128),
    "cast to int4": lambda x: (7 * x).astype(jnp.int4).astype(jnp.float32),
    "cast to truth values": lambda x: x.astype(bool).astype(jnp.float32),
    "cast to bfloat16": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
    "cast to float16": lambda x: x.astype(jnp.float16).astype(jnp.float32),
    "cast to float8": lambda x: x.astype(jnp.float8_e4m3fn).astype(jnp.float32),
    "product in bfloat16": lambda x: jnp.dot(x, jnp.ones((3, 2)), preferred_element_type=jnp.bfloat16) * 1.0,
    "fewer bits": lambda x: jax.lax.reduce_precision(x, 8, 3),
    "bits read as integers": lambda x: jax.lax.bitcast_convert_type(x, jnp.int32) * 1e-9,
    "gather": lambda x: jnp.take(x, (7 * scalar(x)).astype(jnp.int32), axis=1),
    "gather of constants": lambda x: jnp.arange(9.0)[(7 * x).astype(jnp.int32)],
    "slice": lambda x: jax.lax.dynamic_slice_in_dim(x, (7 * scalar(x)).astype(jnp.int32), 1, 1),
    "function of entries": lambda x: x.at[:, 0].apply(lambda t: 3 * t),
    "rounding of entries": lambda x: x.at[:, 0].apply(jnp.round),
    "write": lambda x: x.at[:, (7 * scalar(x)).astype(jnp.int32)].set(2.0),
    "addition": lambda x: x.at[:, (7 * scalar(x)).astype(jnp.int32)].add(2.0),
    "choice": lambda x: jnp.where(x > 0.5, x, x + 1),
    "choice of constants": lambda x: jax.lax.select_n(x > 0.5, KNOWN[None], 2 * KNOWN[None]),
    "cond": lambda x: jax.lax.cond(scalar(x) > 0.5, lambda x: x, lambda x: x + 1, x),
    "known cond": lambda x: jax.lax.cond(jnp.array(True), lambda x: 3 * x, lambda x: x, x),
    "switch": lambda x: jax.lax.switch((3 * scalar(x)).astype(jnp.int32), [jnp.sin, jnp.cos, jnp.tanh], x),
    "while": lambda x: jax.lax.while_loop(lambda y: y.max() > 0.1, lambda y: y / 2, x),
    "scan": lambda x: jax.lax.scan(lambda c, row: (c + row, c), x[0, 0], x[0])[1],
    "a loop": lambda x: jax.lax.fori_loop(0, 3, lambda _, y: 2 * y, x),
    "callback": lambda x: jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
    "pads with itself and more": lambda x: jax.lax.pad(x, scalar(x), [(0, 0, 0), (1, 1, 0), (0, 0, 0), (0, 0, 0)]),
    "a negative threshold": lambda x: soft_threshold(x + 0j, jnp.array([-0.1, 0.2, 0.3])).real,
    "a threshold that moves": lambda x: soft_threshold(jnp.ones((1, 3)) + 0j, x[0, 0, 0]).real,
    "a product with itself": lambda x: x * x[..., ::-1],
    "a quotient with itself": lambda x: x / (1 + x[..., ::-1]),
    "a power": lambda x: x**3,
    "CELU of a negative number": lambda x: jax.nn.celu(x, -1.0),
    "squareplus of a negative number": lambda x: jax.nn.squareplus(x, -1.0),
    "an ELU whose slope moves": lambda x: jax.nn.elu(x, scalar(x)),
    "complex norm": lambda x: jnp.linalg.norm(x + 1j * x * x),
    "GELU": jax.nn.gelu,
    "GELU by the error function": lambda x: jax.nn.gelu(x, approximate=False),
}


@pytest.mark.parametrize("name", INFINITE)
def test_discontinuous_functions_and_inputs_outside_a_rules_domain_have_no_bound(name):
    found = report(INFINITE[name], SIZE)
    assert found.bound == math.inf
    assert any(row.upper == math.inf and row.method for row in found.rows)


def derivative(function, *known):
    """Return the derivative that JAX builds and names like the function."""
    return lambda x: jax.vjp(lambda y: function(y, *known), x)[1](jnp.ones_like(function(x, *known)))[0]


DERIVED = {
    "silu": derivative(jax.nn.silu),
    "softplus": derivative(jax.nn.softplus),
    "leaky relu": derivative(jax.nn.leaky_relu),
    "l2 pool": derivative(lambda x: l2_pool(x, 2)),
    "max min": derivative(lambda x: max_min(x[..., :2])),
    "householder": derivative(lambda x: householder(x[..., :2], jnp.array([0.7]))),
    "soft threshold": derivative(lambda x: soft_threshold(x + 0j, jnp.full(3, 0.2)).real),
    "second derivative": lambda x: jax.vmap(jax.grad(jax.grad(jax.nn.softplus)))(x.ravel()),
    "tangent": lambda x: jax.jvp(jax.nn.silu, (x,), (jnp.ones_like(x),))[1],
}


@pytest.mark.parametrize("name", DERIVED)
def test_a_derivative_does_not_get_the_rule_of_its_function(name):
    assert report(DERIVED[name], (4, 4, 3)).bound == math.inf


@pytest.mark.slow
def test_the_transpose_of_a_known_function_stays_below_its_bound():
    """Linear parts of derivatives have the same names: their bound is infinite, or correct."""

    def transposed(function, like, cotangent):
        return lambda x: jax.vjp(function, like(x))[1](cotangent(x))[0]

    for function in (
        transposed(jax.nn.leaky_relu, lambda x: -jnp.ones_like(x), lambda x: x),
        transposed(to_frequencies, jnp.zeros_like, lambda x: x[:, :, :3] * jnp.asarray(1 + 2j, (x + 0j).dtype)),
        transposed(lambda z: from_frequencies(z, (4, 4)), lambda x: 0j * x[:, :, :3], lambda x: x),
        transposed(
            lambda y: depthwise_conv(y, x_kernel(3, 3, y), stride=(2, 2), padding=PAD),
            jnp.zeros_like,
            lambda x: x[:, ::2, ::2],
        ),
    ):
        bound = report(function, (4, 4, 3)).bound
        assert dense(function, (4, 4, 3)) <= bound * (1 + 1e-6)


def test_constants_are_computed_through_loops_and_functions():
    factor = lambda: jax.lax.fori_loop(0, 3, lambda _, y: 2 * y, jnp.ones(3))  # noqa: E731
    assert report(lambda x: x * factor(), SIZE).bound == 8
    assert report(lambda x: x * jax.nn.silu(jnp.full(3, 20.0)), SIZE).bound == pytest.approx(20, rel=1e-6)
    assert report(lambda x: x**1, SIZE).bound == 1


@pytest.mark.parametrize(
    ("image_shape", "message"),
    [
        ((48, 48), r"image_shape is \(48, 48\); expected \(height, width, channels\), such as \(48, 64, 3\)"),
        ((1, 48, 48, 3), r"expected \(height, width, channels\)"),
        (48, "expected"),
        ("48x48", "expected"),
        ((48.0, 48, 3), "expected"),
        ((True, 48, 3), "expected"),
        (np.zeros((1, 48, 48, 3)), r"an array of shape \(1, 48, 48, 3\)"),
        ((0, 48, 3), "at least 1"),
        ((48, -1, 3), "at least 1"),
        ((3, 48, 64), "channels come last"),
        ((4, 5, 2), r"does not take images of image_shape=\(4, 5, 2\)"),
    ],
)
def test_a_bad_image_shape_is_refused(image_shape, message):
    with pytest.raises(ValueError, match=message):
        report(lambda x: x @ jnp.ones((3, 2)), image_shape)


def test_a_bad_model_is_refused():
    with pytest.raises(TypeError, match="model is a str"):
        report("resnet18", SIZE)
    with pytest.raises(TypeError, match="cannot be traced by JAX"):
        report(lambda x: jnp.asarray(np.asarray(x).mean()), SIZE)
    with pytest.raises(TypeError, match="cannot be traced by JAX"):
        report(lambda x: x if x.sum() > 0 else -x, SIZE)
    with pytest.raises(ValueError, match="steps=0"):
        report(lambda x: x, SIZE, steps=0)
