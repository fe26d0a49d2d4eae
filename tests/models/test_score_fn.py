import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxiqa.models import harden, load_run, save, score_fn

X = jax.random.uniform(jax.random.key(0), (3, 40, 56, 3))


@pytest.mark.slow
def test_models_of_one_structure_share_the_compiled_program(tmp_path):
    traced = []

    @jax.jit
    def gain(score, images):
        traced.append(images.shape)
        return jax.grad(lambda x: score(x).sum())(images)

    first, second = tiny.metric(), tiny.metric(seed=1)
    first.calibrate(k=2.0, b=1.0, score_range=(0.0, 1.0))
    save(first, tmp_path)
    gradients = [gain(score_fn(model), X) for model in (first, second, load_run(tmp_path))]
    assert len(traced) == 1
    assert not np.allclose(gradients[0], gradients[1])
    assert np.array_equal(gradients[0], gradients[2])
    harden(first, "after:layer3", "bottleneck", mid=4, rngs=nnx.Rngs(1))
    assert score_fn(first).graphdef != score_fn(second).graphdef


def test_batch_equals_its_images_one_by_one_under_vmap_and_jit():
    model = tiny.metric()
    score = score_fn(model)
    together = jax.jit(score)(X)
    assert together.shape == (3,)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(lambda image: score(image[None])[0]))(X), together, rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_scoring_is_in_evaluation_mode_and_does_not_change_the_model():
    model = tiny.metric()
    expected = model(X)
    model.train()
    np.testing.assert_allclose(score_fn(model)(X), expected, rtol=5e-5)  # folding batch norm rounds differently
    assert not model.dr6.norm[0].use_running_average


@pytest.mark.slow
def test_images_of_any_size_are_resized_inside_and_differentiably():
    score = score_fn(tiny.metric(input_size=(40, 56)))
    gradient = jax.jit(jax.grad(lambda x: score(x).sum()))(jnp.full((1, 33, 21, 3), 0.5))
    assert gradient.shape == (1, 33, 21, 3)
    assert np.abs(gradient).min(axis=(0, 3)).max() > 0


@pytest.mark.slow
def test_score_fn_materializes_a_metric_and_saves_operations():
    model = tiny.metric()
    harden(model, "after:layer3", mid=4, rngs=nnx.Rngs(1))
    harden(model, "before:layer1", mid=4, name="early", reduce="orthogonal", rngs=nnx.Rngs(2))
    images = jax.random.uniform(jax.random.key(1), (2, 40, 56, 3))
    live, built = score_fn(model), score_fn(model, (40, 56))
    np.testing.assert_allclose(built(images), live(images), rtol=1e-5, atol=1e-5)
    programs = [str(jax.make_jaxpr(lambda x, f=f: f(x))(images)) for f in (live, built)]
    assert ["matrix_exponential" in program for program in programs] == [True, False]
    with pytest.raises(ValueError, match="materialize the model again"):
        built(images[:, :32])


@pytest.mark.slow
def test_a_model_that_resizes_is_always_materialized_and_accepts_every_size():
    model = tiny.metric(input_size=(40, 56))
    harden(model, "after:layer3", mid=4, rngs=nnx.Rngs(1))
    images = jax.random.uniform(jax.random.key(1), (2, 33, 21, 3))
    np.testing.assert_allclose(score_fn(model)(images), model(images), rtol=1e-5, atol=1e-5)
