"""What can be done with the compact copy of a metric, and what is refused."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from compacting import SIZE, X, check, pruned, relative
from flax import nnx

from jaxiqa import models
from jaxiqa.nn.compact import compact
from jaxiqa.nn.kernels.pick import pick, spread
from jaxiqa.train.pruning import apply_masks, make_masks


@pytest.fixture(scope="module")
def lite():
    return pruned(tiny.metric("efficientnet_lite0", taps=("block0", "block2")), 0.3)


@pytest.mark.slow
def test_compact_then_score_fn_and_fold_then_compact_and_both_leave_the_model(lite):
    before = nnx.to_pure_dict(nnx.state(nnx.clone(lite)))
    expected = lite(X)
    small = compact(lite, size=SIZE)
    score = models.score_fn(small)
    norms = [
        sum(isinstance(part, nnx.BatchNorm) for _, part in nnx.iter_modules(folded.module()))
        for folded in (score, models.score_fn(lite))
    ]
    assert norms[0] == norms[1]  # those of blocks that no score reads
    assert relative(score(X), expected) < 1e-5
    folded = compact(models.fold_batch_norm(lite, SIZE), size=SIZE)
    assert relative(folded(X), expected) < 1e-5
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(lite)), before)
    exported = models.export(lambda images: score(images), "2, 80, 96, 3", platforms=("cpu",))
    assert relative(exported.call(X), expected) < 1e-5


@pytest.mark.slow
def test_input_gradients_are_the_same_in_both_modes(lite):
    small = compact(lite, size=SIZE)
    x, direction = X[:1], jax.random.normal(jax.random.key(3), X[:1].shape)
    expected, found = (jax.grad(lambda x, model=model: model(x).sum())(x) for model in (lite, small))
    assert float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)) < 1e-4
    along = jax.jvp(small, (x,), (direction,))[1]
    np.testing.assert_allclose(along[0], jnp.vdot(expected, direction), rtol=1e-3)


def test_picking_and_spreading_are_transposes_of_every_order():
    x, kept = jnp.arange(5.0), (1, 4)
    np.testing.assert_array_equal(jax.jacrev(lambda x: pick(x, kept))(x), jnp.eye(5)[jnp.array(kept)])
    np.testing.assert_array_equal(jax.jacfwd(lambda y: spread(y, kept, 5))(x[:2]), jnp.eye(5)[:, jnp.array(kept)])
    cubes = lambda x: (pick(x, kept) ** 3).sum()  # noqa: E731
    np.testing.assert_array_equal(jnp.diag(jax.hessian(cubes)(x)), [0, 6, 0, 0, 24])
    np.testing.assert_array_equal(jax.vmap(lambda x: spread(pick(x, kept), kept, 5))(x[None])[0], [0, 1, 0, 0, 4])


@pytest.mark.slow
def test_a_hardened_metric_is_compacted_and_its_orthogonal_maps_are_computed_once():
    model = tiny.metric("resnet18")
    models.harden(model, "after:layer2", mid=4, rngs=nnx.Rngs(1))
    models.harden(model, "after:layer3", "bottleneck", mid=6, rngs=nnx.Rngs(2))
    pruned(model, 0.5)
    small = check(model, X)
    assert small.backbone.order == model.backbone.order
    assert relative(models.score_fn(small, SIZE)(X), model(X)) < 1e-5
    assert small.backbone.stage["bottleneck"].expand.layer.in_features < 6
    models.harden(small, "after:layer1", "bottleneck", mid=4, rngs=nnx.Rngs(3))
    assert small(X).shape == (2,)


@pytest.mark.slow
def test_bfloat16_scores_of_the_copy_are_close(lite):
    exact = lite(X)
    found = models.score_fn(compact(lite, size=SIZE), compute_dtype="bfloat16")(X)
    assert relative(found, exact) < 0.1


@pytest.mark.slow
def test_a_metric_with_smooth_activations_is_compacted():
    model = pruned(tiny.metric("resnet18"), 0.5)
    models.swap_activation(model, "silu")
    small = check(model, X, share=0.6)
    assert small.backbone.stage["layer1.0"].activation == "silu"


@pytest.mark.slow
def test_what_cannot_be_compacted_is_refused_with_what_to_do(tmp_path):
    model = tiny.metric("resnet18", taps=("layer1", "layer2"))
    with pytest.raises(ValueError, match=r"no convolution of this Linearity has a filter of zeros.*whole filters"):
        compact(model, size=SIZE)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    nnx.update(model, apply_masks(params, make_masks(params, amount=0.1, criterion="l1")))
    with pytest.raises(ValueError, match="l1 removes single weights"):
        compact(model, size=SIZE)
    with pytest.raises(TypeError, match=r"model is a ScoreModel; expected a metric: call compact first, then score_fn"):
        inspect.unwrap(compact)(models.score_fn(model), size=SIZE)  # without the tests' own check of types
    model = pruned(model, 0.5)
    model.calibrate(k=1.0, b=0.0, score_range=(0.0, 1.0))
    with pytest.raises(ValueError, match="could not be loaded again; save it before it is folded, compacted or"):
        models.save(compact(model, size=SIZE), tmp_path)
    models.save(model, tmp_path)
    assert relative(compact(models.load_run(tmp_path), size=SIZE)(X), model(X)) < 1e-5
