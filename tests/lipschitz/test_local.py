import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick import every

from jaxiqa import models
from jaxiqa.lipschitz import certified_interval, clever, gradient_norms, jacobian_norms, largest_slope, local, report
from jaxiqa.lipschitz.extreme_value import fit_reverse_weibull
from jaxiqa.nn.transformer import attend
from jaxiqa.ops.resize import resize_bilinear

WEIGHTS = jax.random.normal(jax.random.key(0), (5, 4, 3))
IMAGES = jax.random.uniform(jax.random.key(1), (3, 5, 4, 3), minval=0.1, maxval=0.9)


def linear(images):
    return jnp.einsum("bhwc,hwc->b", images, WEIGHTS)


def curved(images):
    return jnp.sin(3 * linear(images)) + images[:, 0, 0, 0] ** 2


@pytest.mark.slow
def test_gradient_norms_equal_those_of_single_images():
    np.testing.assert_allclose(gradient_norms(linear, IMAGES), jnp.linalg.norm(WEIGHTS), rtol=1e-5)
    np.testing.assert_allclose(gradient_norms(linear, IMAGES, "linf"), jnp.abs(WEIGHTS).sum(), rtol=1e-5)
    with jax.enable_x64(True):  # one of the slopes is a small difference of large numbers
        images = jnp.asarray(IMAGES, jnp.float64)
        for norm in ("l2", "linf"):
            together = gradient_norms(curved, images, norm)
            alone = jnp.concatenate([gradient_norms(curved, image[None], norm) for image in images])
            np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_errors_name_the_bad_argument():
    for call in (
        lambda: gradient_norms(linear, IMAGES, "l1"),
        lambda: certified_interval(linear, IMAGES, 0.1, 1.0, "l1"),
        lambda: largest_slope(linear, IMAGES, IMAGES, "l1"),
    ):
        with pytest.raises(ValueError, match="'l2', 'linf'"):
            call()
    with pytest.raises(ValueError, match="radius"):
        clever(linear, IMAGES, jax.random.key(0), radius=0.0)


@jax.custom_vjp
def doubled(x):
    """A function with a derivative in reverse mode only."""
    return jnp.sin(2 * x)


doubled.defvjp(lambda x: (doubled(x), x), lambda x, cotangent: (2 * jnp.cos(2 * x) * cotangent,))

FUNCTIONS = {
    "reverse mode only": lambda x: jnp.einsum("bhwc,hwck->bk", doubled(x), jnp.stack([WEIGHTS, WEIGHTS**2], -1)),
    "forward mode too": lambda x: jnp.einsum("bhwc,hwck->bk", jnp.sin(2 * x), jnp.stack([WEIGHTS, WEIGHTS**2], -1)),
    "resized": lambda x: resize_bilinear(x, (7, 3)) ** 2,
    "attention": lambda x: attend(*(x.reshape(len(x), -1, 3) * n for n in (1, 2, 3)), heads=1),
    "complex": lambda x: jnp.fft.rfft(x, axis=1) * (1 + 2j) + 1j * x[:, :3] ** 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", every(2, FUNCTIONS))
def test_jacobian_norms_use_reverse_mode_if_forward_mode_fails(name):
    """Reverse mode twice gives the same as forward over reverse; complex values count as two numbers."""
    function = FUNCTIONS[name]

    def flat(x):
        y = function(x[None]).ravel()
        return jnp.concatenate([y.real, y.imag]) if jnp.iscomplexobj(y) else y

    jacobians = np.asarray(jax.vmap(jax.jacrev(flat))(IMAGES)).reshape(3, -1, WEIGHTS.size)
    found = jax.jit(lambda x: jacobian_norms(function, x, jax.random.key(0), steps=200))(IMAGES)
    np.testing.assert_allclose(found, np.linalg.norm(jacobians, 2, axis=(1, 2)), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", pytest.param("maniqa", marks=pytest.mark.release)])
def test_jacobian_norms_of_metrics_with_and_without_attention_equal_gradient_norms(name):
    """A score is one number, so its Jacobian is its gradient."""
    if name == "resnet18":
        metric, side = models.build(name, width=8), 48
    else:
        metric, side = models.MODELS[name].build(width=24, protocol="resize", rngs=nnx.Rngs(0)), 224
    score = models.score_fn(metric, (side, side))
    images = jax.random.uniform(jax.random.key(3), (1, side, side, 3))
    found = jacobian_norms(lambda x: score(x)[:, None], images, jax.random.key(0), steps=2)
    np.testing.assert_allclose(found, gradient_norms(score, images), rtol=1e-3)


def noisy(images):
    """A score whose largest gradients look like draws of an unbounded distribution."""
    return jnp.sin(40 * linear(images)) * images[:, 0, 0, 0] + images.mean((1, 2, 3))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:clever")
@pytest.mark.parametrize("seed", every(4, range(4)))
@pytest.mark.parametrize("score", [linear, curved, noisy])
def test_clever_stays_between_the_largest_sample_and_its_limit(score, seed):
    for limit in (1.2, 2.0, 5.0):
        options = {"radius": 0.3, "batches": 6, "samples": 2, "limit": limit}
        found = clever(score, IMAGES, jax.random.key(seed), **options)
        assert (found.sampled <= found.estimate).all()
        assert (found.estimate <= limit * found.sampled * (1 + 1e-9)).all()
        assert np.isfinite(found.estimate).all()
        np.testing.assert_array_equal(found.estimate[~found.fitted], found.sampled[~found.fitted])
        np.testing.assert_array_equal(np.isnan(found.p_value), ~found.fitted)


def test_a_failed_fit_is_reported(recwarn):
    gumbel = np.random.default_rng(0).gumbel(10, 1, 400)  # the maxima of normal numbers are unbounded
    assert not fit_reverse_weibull(gumbel, limit=1.5).found
    score = lambda x: jnp.exp(3 * x.mean((1, 2, 3)))  # noqa: E731
    found = None
    for seed in range(20):
        recwarn.clear()
        found = clever(score, IMAGES, jax.random.key(seed), radius=0.3, batches=5, samples=1, limit=1.05)
        if not found.fitted.all():
            break
    assert found is not None
    assert not found.fitted.all()
    failed = np.flatnonzero(~found.fitted).tolist()
    assert str(failed) in str(recwarn.pop(UserWarning).message)


@pytest.mark.parametrize(("shape", "end"), [(1.0, 5.0), (2.0, 3.0), (4.0, 3.0)])
def test_the_fit_finds_the_end_of_the_distribution(shape, end):
    draws = end - 0.3 * np.random.default_rng(1).weibull(shape, 2000)
    fit = fit_reverse_weibull(draws)
    assert fit.found
    assert fit.location == pytest.approx(end, rel=0.03)
    assert fit.shape == pytest.approx(shape, rel=0.3)
    assert fit.p_value > 0.01


@pytest.mark.slow
def test_the_fit_is_stable_for_samples_that_once_made_it_diverge():
    """Few, skewed maxima, as of a network: an unconstrained fit gave an end point of 3.6e6."""
    from scipy import stats

    random = np.random.default_rng(0)
    worst = 0.0
    for _ in range(12):
        maxima = 26 + random.gamma(0.5, 4, 6)
        fit = fit_reverse_weibull(maxima)
        assert maxima.max() <= fit.location <= 2 * maxima.max() * (1 + 1e-9)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            scaled = (maxima - maxima.max()) / maxima.std()
            worst = max(worst, stats.weibull_max.fit(scaled, loc=0.1, scale=1.0)[1] * maxima.std() + maxima.max())
    assert worst > 1e3


def test_clever_compiles_once():
    options = {"radius": 0.1, "batches": 5, "samples": 2}
    clever(curved, IMAGES, jax.random.key(0), **options)
    compiled = local._largest._cache_size()
    for seed, radius in ((1, 0.1), (2, 0.2)):
        clever(curved, IMAGES, jax.random.key(seed), **(options | {"radius": radius}))
    assert local._largest._cache_size() == compiled


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_types_of_images(dtype):
    """Gradients have the type of the images; norms are summed in float32, without loss of precision."""
    with jax.enable_x64(dtype == "float64"):
        images = jnp.asarray(IMAGES, dtype)
        score = lambda x: (x * 0.5).sum((1, 2, 3))  # noqa: E731
        norms = gradient_norms(score, images)
        assert norms.dtype == ("float64" if dtype == "float64" else "float32")
        np.testing.assert_allclose(norms, 0.5 * np.sqrt(60), rtol=1e-6)
        found = clever(score, images, jax.random.key(0), radius=0.1, batches=5, samples=1)
        np.testing.assert_allclose(found.estimate, 0.5 * np.sqrt(60), rtol=1e-6)
