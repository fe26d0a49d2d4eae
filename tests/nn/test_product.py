"""The product of pixels and a matrix equals einsum's: values, derivatives of both orders and modes, batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bilinear_cases import check_derivatives_equal, check_mapped
from quick import every

from jaxiqa import lipschitz
from jaxiqa.nn.conv import pointwise
from jaxiqa.nn.kernels.product import is_widening, widening_product


def plain(x, kernel):
    return jnp.einsum("bhwi,io->bhwo", x, kernel)


def arrays(cin=3, cout=5):
    random = np.random.default_rng(0)
    return random.normal(size=(2, 6, 4, cin)), random.normal(size=(cin, cout))


@pytest.mark.parametrize(("cin", "cout"), [(3, 5), (1, 4), (6, 2)])
def test_values_and_derivatives_of_both_orders_and_modes(cin, cout):
    check_derivatives_equal(widening_product, plain, *arrays(cin, cout), tolerance=1e-12)


@pytest.mark.parametrize("axes", every(2, [(0, None), (None, 0), (1, 1), (0, 0), (None, -1), (3, None)]))
def test_a_mapped_function_and_its_mapped_derivatives_are_those_of_each_element(axes):
    check_mapped(widening_product, *arrays(), axes, count=3)


@pytest.mark.parametrize(("cin", "cout", "wide"), [(3, 5, True), (5, 5, False), (5, 3, False)])
def test_a_1x1_convolution_uses_it_where_the_result_is_wider(cin, cout, wide):
    x, kernel = (jnp.asarray(each, jnp.float32) for each in arrays(cin, cout))
    assert is_widening(x, kernel) == (wide and jax.default_backend() == "cpu")
    assert not is_widening(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    found = pointwise(x, kernel[None, None], (2, 1), "VALID", precision=None)
    np.testing.assert_allclose(found, plain(x[:, ::2], kernel), rtol=1e-6, atol=1e-6)


def test_xla_transposes_the_narrow_factor_for_the_gradient_of_the_matrix():
    x, kernel = jnp.ones((2, 16, 16, 4)), jnp.ones((4, 24))
    program = jax.jit(jax.grad(lambda k: jnp.sum(jnp.sin(widening_product(x, k)))))
    text = program.lower(kernel).compile().as_text()
    assert "f32[24,512]" not in text
    assert "f32[24,2,16,16]" not in text


def test_its_lipschitz_constant_is_the_largest_singular_value():
    x, kernel = (jnp.asarray(each, jnp.float32) for each in arrays())
    both = lambda x: widening_product(x, kernel)  # noqa: E731
    back = lambda y: jax.vjp(both, x[:1])[1](y)[0]  # noqa: E731
    largest = np.linalg.svd(np.asarray(kernel), compute_uv=False)[0]
    for function, shape in ((both, (6, 4, 3)), (back, (6, 4, 5))):
        found = lipschitz.report(function, shape)
        assert found.bound == pytest.approx(largest, rel=1e-5)
        assert found.bound >= largest * (1 - 1e-7)


def test_a_program_for_any_size_of_images():
    b, h, w = jax.export.symbolic_shape("b, h, w", constraints=["h >= 2", "w >= 2"])
    kernel = jnp.asarray(arrays()[1], jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: widening_product(x, kernel)))(
        jax.ShapeDtypeStruct((b, h, w, 3), jnp.float32)
    )
    x = jnp.asarray(arrays()[0], jnp.float32)
    np.testing.assert_allclose(exported.call(x), plain(x, kernel), rtol=1e-6, atol=1e-6)
