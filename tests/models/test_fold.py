import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxiqa.models import MODELS, fold_batch_norm, harden
from jaxiqa.models.convolution import conv
from jaxiqa.models.koncept import KonCept512

STAY = {"koncept512": 3, "paq2piq": 2}  # batch norms with something between them and the layer before


def norms(model: nnx.Module) -> int:
    return sum(isinstance(part, nnx.BatchNorm) for _, part in nnx.iter_modules(model))


def koncept() -> KonCept512:
    return tiny.filled(nnx.eval_shape(lambda: KonCept512(pooling="full", width=2, rngs=nnx.Rngs(0))))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [tiny.metric, lambda: tiny.metric("resnet50"), pytest.param(koncept, marks=pytest.mark.slow)]
)
def test_scores_and_gradients_stay(make):
    with jax.enable_x64(True):  # in float32 the rounding of fifty layers hides what folding changes
        model = make()
        model = nnx.merge(nnx.graphdef(model), jax.tree.map(lambda leaf: leaf.astype(jnp.float64), nnx.state(model)))
        folded = fold_batch_norm(model)
        assert norms(model) > norms(folded)
        x = jax.random.uniform(jax.random.key(0), (2, 97, 120, 3), jnp.float64)
        results = []
        for net in (model, folded):
            graphdef, state = nnx.split(net)
            run = jax.jit(lambda x, graphdef=graphdef, state=state: nnx.merge(graphdef, state)(x).sum())
            results.append(jax.value_and_grad(run)(x))
        np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-10)
        difference = jnp.linalg.norm(results[1][1] - results[0][1])
        assert difference < 1e-10 * jnp.linalg.norm(results[0][1])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_published_model_can_be_folded(name):
    abstract = nnx.eval_shape(lambda: MODELS[name].build(rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(abstract)
    model = nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), state))
    before, after = norms(model), norms(fold_batch_norm(model))
    print(f"{name}: {before} batch norms, {after} stay")
    assert after == STAY.get(name, 0)


@pytest.mark.slow
def test_hardened_models_are_folded_round_the_block():
    model = tiny.metric()
    harden(model, "after:layer3", mid=4, rngs=nnx.Rngs(1))
    folded = fold_batch_norm(model)
    assert norms(folded) == 0
    assert folded.backbone.order == model.backbone.order
    x = jax.random.uniform(jax.random.key(0), (1, 64, 64, 3))
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-5)


class Net(nnx.Module):
    """A convolution and a batch norm, joined by ``join(conv, norm, x)``."""

    def __init__(self, join):
        self.conv = conv(3, 4, 3, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0))
        self.join = join

    def __call__(self, x):
        return self.join(self.conv, self.norm, x)


@pytest.mark.parametrize(
    ("join", "left"),
    [
        (lambda conv, norm, x: norm(conv(x)), 0),
        (lambda conv, norm, x: jax.nn.relu(norm(conv(x))), 0),
        (lambda conv, norm, x: norm(conv(x)) + norm(conv(2 * x)), 0),
        (lambda conv, norm, x: jax.jit(lambda x: norm(conv(x)))(x), 0),
        (lambda conv, norm, x: norm(jax.nn.relu(conv(x))), 1),
        (lambda conv, norm, x: norm(conv(x)) + norm(conv(x) + 1), 1),
        (lambda conv, norm, x: (lambda y: norm(y) + y)(conv(x)), 1),
        (lambda conv, norm, x: (lambda y: (norm(y), y))(conv(x)), 1),
        (lambda conv, norm, x: norm(conv(x)) + conv(x), 1),
        (lambda conv, norm, x: conv(x), 1),
    ],
)
def test_only_a_norm_that_directly_follows_is_folded(join, left):
    net = Net(join)
    net.norm.mean.set_value(jnp.arange(4.0))
    net.norm.scale.set_value(jnp.arange(1.0, 5.0))
    folded = fold_batch_norm(net, (5, 6))
    assert norms(folded) == left
    x = jax.random.normal(jax.random.key(0), (1, 7, 5, 3))
    for mine, theirs in zip(jax.tree.leaves(folded(x)), jax.tree.leaves(net(x)), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_the_model_itself_is_left_alone():
    model = tiny.metric()
    model.set_mode(head="train")
    before = jax.tree.map(np.asarray, nnx.state(model))
    fold_batch_norm(model)
    assert model.dr6.norm[0].use_running_average is False
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))
