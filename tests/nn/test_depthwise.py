"""The depthwise convolution of CPUs equals XLA's: values, derivatives of both orders and modes, batches of kernels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bilinear_cases import check_derivatives_equal, check_mapped
from jax.test_util import check_grads
from quick import every

from jaxiqa.nn.kernels.depthwise import grouped_convolution, shifted_products

NONE = ((0, 0), (0, 0))
# stride, padding, size of the map, size of the kernel
CASES = [
    ((1, 1), ((1, 1), (1, 1)), (7, 10), (3, 3)),
    ((1, 1), ((2, 0), (0, 3)), (8, 5), (3, 4)),
    ((1, 1), ((4, 5), (3, 3)), (4, 3), (2, 2)),
    ((2, 2), ((0, 1), (1, 0)), (7, 10), (3, 3)),
    ((2, 2), ((1, 2), (1, 2)), (8, 6), (5, 5)),
    ((2, 1), NONE, (9, 4), (1, 3)),
    ((3, 2), ((0, 1), (2, 0)), (8, 7), (2, 3)),
    ((3, 3), NONE, (8, 8), (1, 1)),
    ((2, 2), NONE, (4, 6), (4, 6)),
]


def arrays(size, taps, channels=3, batch=2):
    random = np.random.default_rng(0)
    return random.normal(size=(batch, *size, channels)), random.normal(size=(*taps, channels))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stride", "padding", "size", "taps"),
    [pytest.param(*case, marks=() if n in (1, 4) else pytest.mark.slow) for n, case in enumerate(CASES)],
)
def test_values_and_derivatives_of_both_orders_and_modes(stride, padding, size, taps):
    options = {"stride": stride, "padding": padding}
    check_derivatives_equal(
        partial(shifted_products, **options), partial(grouped_convolution, **options), *arrays(size, taps)
    )


@pytest.mark.slow
def test_derivatives_are_those_of_finite_differences():
    with jax.enable_x64(True):
        stride, padding, size, taps = CASES[4]
        x, kernel = map(jnp.asarray, arrays(size, taps))
        check_grads(
            lambda x, k: jnp.sin(shifted_products(jnp.asarray(x), jnp.asarray(k), stride, padding)),
            (x, kernel),
            order=2,
        )


@pytest.mark.slow
@pytest.mark.parametrize("case", [CASES[1], CASES[6]])
@pytest.mark.parametrize("axes", every(2, [(0, None), (None, 0), (1, 2), (0, 0), (None, -1), (3, None)]))
def test_a_mapped_function_and_its_mapped_derivatives_are_those_of_each_element(case, axes):
    stride, padding, size, taps = case
    check_mapped(partial(shifted_products, stride=stride, padding=padding), *arrays(size, taps), axes)


@pytest.mark.slow
def test_the_gradient_by_the_kernel_writes_no_shifted_products():
    """A sum over all pixels per tap, as XLA would do it, keeps a shifted map per tap in memory."""
    x, kernel = arrays((64, 64), (5, 5), channels=16, batch=8)
    loss = lambda k: (shifted_products(jnp.asarray(x, jnp.float32), k, (1, 1), ((2, 2), (2, 2))) ** 2).sum()  # noqa: E731
    memory = jax.jit(jax.grad(loss)).lower(jnp.asarray(kernel, jnp.float32)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 6 * x.size * 4


def test_a_program_for_any_size_of_images():
    b, h, w = jax.export.symbolic_shape("b, h, w", constraints=["h >= 4", "w >= 4"])
    kernel = jnp.asarray(arrays((9, 8), (3, 3))[1], jnp.float32)
    method = partial(shifted_products, kernel=kernel, stride=(2, 1), padding=((1, 1), (1, 0)))
    exported = jax.export.export(jax.jit(method))(jax.ShapeDtypeStruct((b, h, w, 3), jnp.float32))
    for size in ((4, 7), (9, 8)):
        x = jnp.asarray(arrays(size, (3, 3))[0], jnp.float32)
        np.testing.assert_allclose(exported.call(x), method(x), rtol=1e-6, atol=1e-6)
