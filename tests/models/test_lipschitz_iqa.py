"""The certified metric: the report confirms its constant, and no attack exceeds it, before and after training."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from quick import every

from jaxiqa import attacks, models
from jaxiqa.lipschitz import report
from jaxiqa.models import LipschitzIQA
from jaxiqa.nn.lipschitz_net import LipschitzNet
from jaxiqa.train.manifold import on_manifold

SIZES = [(16, 24), (13, 22), (31, 9), (40, 40)]


def metric(*, channels=(8, 20), depth=(1, 2), seed=0, **options):
    """Return a calibrated metric; its second level drops directions."""
    model = LipschitzIQA(channels=channels, depth=depth, rngs=nnx.Rngs(seed), **options)
    model.calibrate(k=40.0, b=3.0, score_range=(0.0, 100.0))
    return model


def steeper(model, steps=30, size=(24, 32)):
    """Train the metric to separate images from their noisy copies, which makes it as steep as it can be."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    x = jax.random.uniform(jax.random.key(0), (4, *size, 3))
    noisy = jnp.clip(x + 0.2 * jax.random.normal(jax.random.key(1), x.shape), 0, 1)
    optimizer = on_manifold(0.03)

    @jax.jit
    def step(params, state):
        def loss(params):
            model = nnx.merge(graphdef, params, rest)
            return jnp.mean(model.raw(noisy) - model.raw(x))

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return nnx.merge(graphdef, params, rest)


@pytest.mark.slow
@pytest.mark.parametrize("size", every(2, SIZES))
@pytest.mark.parametrize("trained", every(2, [False, True]))
def test_the_report_confirms_the_constant_within_one_percent(size, trained):
    model = metric(slope=0.05)
    model = steeper(model, steps=5) if trained else model
    found = report(model, (*size, 3))
    assert found.bound == pytest.approx(model.constant(size), rel=0.01)
    assert model.constant(size) == pytest.approx(40 * 0.05 * 256 / math.sqrt(math.prod(size)), rel=1e-4)


@pytest.mark.slow
def test_the_report_confirms_the_constant_of_the_published_size():
    model = LipschitzIQA(slope=0.03, rngs=nnx.Rngs(0))
    assert report(model, (256, 256, 3)).bound == pytest.approx(0.03, rel=0.01)
    resized = LipschitzIQA(slope=0.03, input_size=(192, 256), rngs=nnx.Rngs(0))
    assert report(resized, (250, 300, 3)).bound == pytest.approx(resized.constant((250, 300)), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("size", every(2, [(16, 24), (31, 9)]))
def test_no_attack_exceeds_the_certificate(size):
    """Of a metric that was trained to be steep; the strongest reaches a good part of it."""
    model = steeper(metric(slope=0.05), size=size)
    score = models.score_fn(model, size)
    images = jax.random.uniform(jax.random.key(5), (3, *size, 3), minval=0.2, maxval=0.8)
    clean, best = np.asarray(score(images)), 0.0
    for name, options in {
        "pgd": {"epsilon": 4 / 255, "steps": 20},
        "apgd": {"epsilon": 4 / 255, "steps": 20},
        "square": {"epsilon": 4 / 255, "queries": 200},
    }.items():
        attacked = attacks.make(name, **options)(score, images, jax.random.key(0))
        gains = np.asarray(score(attacked)) - clean
        best = max(best, gains.max())
        assert (np.abs(gains) <= model.certificate(4 / 255, size) + 1e-4).all()
        low, high = model.certified_interval(images, 4 / 255)
        assert ((np.asarray(low) - 1e-4 <= score(attacked)) & (score(attacked) <= np.asarray(high) + 1e-4)).all()
    assert best > 0.05 * model.certificate(4 / 255, size)


@pytest.mark.slow
def test_slopes_between_random_images_stay_below_the_constant():
    model = steeper(metric(slope=0.05))
    x = jax.random.uniform(jax.random.key(2), (12, 24, 32, 3))
    y = jnp.clip(x + jax.random.normal(jax.random.key(3), x.shape) * jnp.logspace(-4, 0, 12)[:, None, None, None], 0, 1)
    slopes = jnp.abs(model(x) - model(y)) / jnp.linalg.norm((x - y).reshape(12, -1), axis=1)
    assert slopes.max() <= model.constant((24, 32)) * (1 + 1e-4)
    gradients = jax.vmap(jax.grad(lambda x: model(x[None])[0]))(x)
    steepest = jnp.linalg.norm(gradients.reshape(12, -1), axis=1).max()
    assert 0.2 * model.constant((24, 32)) < steepest <= model.constant((24, 32)) * (1 + 1e-4)


@pytest.mark.slow
def test_the_constant_holds_for_matrices_that_are_not_orthogonal():
    """As another optimiser would leave them: the report and the constant both see it."""
    model = metric(slope=0.05)
    layer = model.net.mix[0][0]
    layer.orthogonal_matrix = nnx.Param(layer.orthogonal_matrix[...] * 1.7)
    assert model.constant((16, 24)) == pytest.approx(1.7 * metric(slope=0.05).constant((16, 24)), rel=1e-4)
    assert report(model, (16, 24, 3)).bound == pytest.approx(model.constant((16, 24)), rel=0.01)


@pytest.mark.slow
def test_certificates_by_hand():
    model = metric(slope=0.01)
    constant = 40 * 0.01 * 256 / math.sqrt(16 * 24)
    assert model.certificate(0.5, (16, 24), norm="l2") == pytest.approx(0.5 * constant, rel=1e-5)
    assert model.certificate(2 / 255, (16, 24)) == pytest.approx(2 / 255 * math.sqrt(3 * 16 * 24) * constant, rel=1e-5)
    assert model.certificate(0.0, (16, 24)) == 0
    low, high = model.certified_interval(jnp.full((2, 16, 24, 3), 0.3), 0.25, norm="l2")
    np.testing.assert_allclose((high - low) / 2, 0.25 * constant, rtol=1e-4)
    np.testing.assert_allclose((high + low) / 2, model(jnp.full((2, 16, 24, 3), 0.3)), rtol=1e-5)


@pytest.mark.slow
def test_the_linf_certificate_does_not_depend_on_the_size():
    model = metric(slope=0.01)
    expected = 2 / 255 * math.sqrt(3) * 256 * 40 * 0.01
    for size in SIZES:
        assert model.certificate(2 / 255, size) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_score_of_a_pattern_does_not_depend_on_how_often_it_is_repeated():
    """Even sides, circular shifts and full groups of cells: energies grow exactly as √n, and biases with them."""
    model = metric(slope=0.5)
    tile = jax.random.uniform(jax.random.key(0), (1, 32, 16, 3))
    once = model(tile)
    for number, layer in enumerate([model.net.reduce, *model.net.head]):
        layer.bias = nnx.Param(3 * jax.random.normal(jax.random.key(number), layer.bias.shape))
    assert abs(float((model(tile) - once)[0])) > 0.1
    np.testing.assert_allclose(model(jnp.tile(tile, (1, 3, 2, 1))), model(tile), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("slope", [None, 0.02])
def test_the_slope_is_trained_or_fixed(slope):
    model = metric(slope=slope)
    gradient = nnx.grad(lambda model: model(jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))).sum())(model)
    assert ("log_slope" in gradient and bool(jnp.any(gradient.log_slope[...]))) == (slope is None)
    assert float(model.slope) == pytest.approx(slope or 0.03, rel=1e-6)


@pytest.mark.slow
def test_it_is_saved_and_loaded_with_its_constant(tmp_path):
    model = steeper(metric(slope=0.05), steps=3)
    models.save(model, tmp_path / "m")
    loaded = (
        models.load_run(tmp_path / "m")
        if (tmp_path / "m" / "model.json").exists()
        else models.load("lipschitz_iqa", tmp_path / "m")
    )
    x = jax.random.uniform(jax.random.key(0), (2, 16, 24, 3))
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.constant((16, 24)) == model.constant((16, 24))


@pytest.mark.slow
def test_levels_keep_the_norm_and_dropped_directions_only_lower_it():
    x = jax.random.normal(jax.random.key(0), (1, 16, 8, 3))
    whole = LipschitzNet(channels=(12, 48), depth=(2, 1), rngs=nnx.Rngs(0))
    for _, layer in nnx.iter_modules(whole):
        if getattr(layer, "bias", None) is not None:
            layer.bias = nnx.Param(jnp.zeros_like(layer.bias[...]))
    for level in whole.levels(x):
        assert float(jnp.linalg.norm(level)) == pytest.approx(float(jnp.linalg.norm(x)), rel=1e-5)
    fewer = LipschitzNet(channels=(12, 7), depth=(1, 1), rngs=nnx.Rngs(0))
    assert jnp.linalg.norm(fewer.levels(x)[1]) < jnp.linalg.norm(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": ()}, "a level"),
        ({"channels": (8, 0)}, "channels=0"),
        ({"channels": (8,), "depth": (1, 1)}, "one number per level"),
        ({"slope": 0.0}, "slope=0"),
        ({"input_size": (0, 4)}, "input_size=0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        metric(**options)


@pytest.mark.slow
def test_wrong_radii_are_refused():
    with pytest.raises(ValueError, match=r"norm='l1'.*l2"):
        metric().certificate(0.1, (8, 8), norm="l1")
    with pytest.raises(ValueError, match="epsilon=-"):
        metric().certificate(-0.1, (8, 8))
    with pytest.raises(ValueError, match=r"epsilon=None is not allowed"):
        inspect.unwrap(LipschitzIQA.certificate)(metric(), None, (8, 8))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"input_size": (16, 24)}])
@pytest.mark.parametrize("size", [(256, 256, 3), (256,), (-256, -256), (8.5, 8), 256])
def test_what_is_no_size_is_refused(size, options):
    model = metric(**options)
    with pytest.raises(ValueError, match=r"image_size=.*is not allowed"):
        inspect.unwrap(LipschitzIQA.constant)(model, size)
    with pytest.raises(Exception, match=r"input_size"):  # or that of the type checks of the tests
        metric(input_size=size)
    assert inspect.unwrap(LipschitzIQA.constant)(model, [32, 40]) == model.constant((32, 40))
