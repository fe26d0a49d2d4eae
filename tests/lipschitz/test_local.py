import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.lipschitz import certified_interval, clever, gradient_norms, jacobian_norms, largest_slope, report

WEIGHTS = jax.random.normal(jax.random.key(0), (5, 4, 3))
IMAGES = jax.random.uniform(jax.random.key(1), (3, 5, 4, 3), minval=0.1, maxval=0.9)


def linear(images):
    return jnp.einsum("bhwc,hwc->b", images, WEIGHTS)


def curved(images):
    return jnp.sin(3 * linear(images)) + images[:, 0, 0, 0] ** 2


def test_gradient_norms_are_those_of_each_image_alone():
    np.testing.assert_allclose(gradient_norms(linear, IMAGES), jnp.linalg.norm(WEIGHTS), rtol=1e-5)
    np.testing.assert_allclose(gradient_norms(linear, IMAGES, "linf"), jnp.abs(WEIGHTS).sum(), rtol=1e-5)
    with jax.enable_x64(True):  # one of the slopes is a small difference of large numbers
        images = jnp.asarray(IMAGES, jnp.float64)
        for norm in ("l2", "linf"):
            together = gradient_norms(curved, images, norm)
            alone = jnp.concatenate([gradient_norms(curved, image[None], norm) for image in images])
            np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_jacobian_norms_equal_dense_ones():
    function = lambda x: jnp.tanh(jnp.einsum("bhwc,hwck->bk", x, jnp.stack([WEIGHTS, WEIGHTS**2], -1)))  # noqa: E731
    found = jacobian_norms(function, IMAGES, jax.random.key(0))
    jacobians = jax.vmap(jax.jacobian(lambda x: function(x[None])[0]))(IMAGES).reshape(3, 2, -1)
    np.testing.assert_allclose(found, np.linalg.norm(jacobians, 2, axis=(1, 2)), rtol=1e-3)


def test_the_largest_slope_is_a_lower_bound_that_the_right_direction_attains():
    steepest = IMAGES + 1e-2 * WEIGHTS / jnp.linalg.norm(WEIGHTS)
    np.testing.assert_allclose(largest_slope(linear, IMAGES, steepest), jnp.linalg.norm(WEIGHTS), rtol=1e-3)
    np.testing.assert_allclose(
        largest_slope(linear, IMAGES, IMAGES + 1e-2 * jnp.sign(WEIGHTS), "linf"), jnp.abs(WEIGHTS).sum(), rtol=1e-3
    )
    np.testing.assert_array_equal(largest_slope(linear, IMAGES, IMAGES), 0)


def test_clever_is_exact_for_a_linear_score_and_close_for_a_quadratic_one():
    found = clever(linear, IMAGES, jax.random.key(0), radius=0.1, batches=5, samples=2)
    np.testing.assert_allclose(found.estimate, float(jnp.linalg.norm(WEIGHTS)), rtol=1e-5)
    centre = jnp.full((1, 1, 1, 3), 0.5)
    quadratic = lambda x: (x**2).sum((1, 2, 3))  # noqa: E731  its slope is 2‖x‖: at most 2(‖centre‖ + radius)
    found = clever(quadratic, centre, jax.random.key(1), radius=0.2, batches=40, samples=64)
    true = 2 * (float(jnp.linalg.norm(centre)) + 0.2)
    assert found.sampled[0] <= true
    assert found.estimate[0] == pytest.approx(true, rel=0.02)


def test_a_certified_interval_holds_under_the_worst_change_and_is_tight_for_a_linear_score():
    bound = report(linear, (5, 4, 3)).bound
    assert bound == pytest.approx(float(jnp.linalg.norm(WEIGHTS)), rel=1e-6)
    for norm, step in (("l2", WEIGHTS / jnp.linalg.norm(WEIGHTS)), ("linf", jnp.sign(WEIGHTS))):
        low, high = certified_interval(linear, IMAGES, 0.05, bound, norm)
        reached = linear(IMAGES + 0.05 * step)
        assert (np.asarray(low) < np.asarray(reached)).all()
        assert (np.asarray(reached) <= np.asarray(high) + 1e-4).all()
    l2_high = certified_interval(linear, IMAGES, 0.05, bound)[1]
    np.testing.assert_allclose(linear(IMAGES + 0.05 * WEIGHTS / jnp.linalg.norm(WEIGHTS)), l2_high, rtol=1e-4)


def test_bad_arguments_are_named():
    for call in (
        lambda: gradient_norms(linear, IMAGES, "l1"),
        lambda: certified_interval(linear, IMAGES, 0.1, 1.0, "l1"),
        lambda: largest_slope(linear, IMAGES, IMAGES, "l1"),
    ):
        with pytest.raises(ValueError, match="'l2', 'linf'"):
            call()
    with pytest.raises(ValueError, match="radius"):
        clever(linear, IMAGES, jax.random.key(0), radius=0.0)
