import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxiqa.models import MODELS, fold_batch_norm, harden
from jaxiqa.models.koncept import KonCept512
from jaxiqa.nn.conv import conv

STAY = {"koncept512": 3, "paq2piq": 2}  # batch norms that do not directly follow a layer


def norms(model: nnx.Module) -> int:
    return sum(isinstance(part, nnx.BatchNorm) for _, part in nnx.iter_modules(model))


def koncept() -> KonCept512:
    return tiny.filled(nnx.eval_shape(lambda: KonCept512(pooling="full", width=2, rngs=nnx.Rngs(0))))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [tiny.metric, lambda: tiny.metric("resnet50"), pytest.param(koncept, marks=pytest.mark.slow)]
)
def test_folding_keeps_scores_and_gradients(make):
    with jax.enable_x64(True):  # in float32 the rounding of fifty layers would hide an error
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
def test_hardened_models_are_folded_around_the_block():
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


def test_the_model_itself_is_not_changed():
    model = tiny.metric()
    model.train()
    before = jax.tree.map(np.asarray, nnx.state(model))
    fold_batch_norm(model)
    assert model.dr6.norm[0].use_running_average is False
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))


class Own(nnx.Module):
    """Layers made by ``make(rngs)`` and joined by ``join(layers, x)``."""

    def __init__(self, make, join):
        for name, layer in make(nnx.Rngs(0)).items():
            setattr(self, name, layer)
        self.join = join

    def __call__(self, x):
        return self.join(self, x)


class WeightStandardised(nnx.Conv):
    """A convolution whose kernel is divided by its norm when it is used."""

    def __call__(self, x):
        kernel = self.kernel[...] / jnp.linalg.norm(self.kernel[...])
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def tied(rngs, kind=nnx.Linear, size=(3, 3)):
    layers = {"first": kind(*size, rngs=rngs), "second": kind(*size, rngs=rngs)}
    layers["second"].kernel = layers["first"].kernel
    return layers | {"norm": nnx.BatchNorm(size[1], use_running_average=True, rngs=rngs)}


def conv3(*size, rngs):
    return nnx.Conv(*size, (3, 3), rngs=rngs)


def one(rngs, kind=nnx.Linear, **options):
    options = {"use_running_average": True, **options}
    return {"first": kind(3, 3, rngs=rngs), "norm": nnx.BatchNorm(3, rngs=rngs, **options)}


def twice(rngs):
    layers = one(rngs)
    return layers | {"again": layers["first"], "other": nnx.BatchNorm(3, use_running_average=True, rngs=rngs)}


def one_norm_for_two(rngs):
    layers = one(rngs)
    return layers | {"second": nnx.Linear(3, 3, rngs=rngs), "other": layers["norm"]}


SHARED = {
    "kernel of two layers": (tied, lambda net, x: net.norm(net.first(x)) + net.second(x), 0),
    "kernel of two convolutions": (
        lambda rngs: tied(rngs, conv3),
        lambda net, x: net.second(net.norm(net.first(x))),
        0,
    ),
    "both folded": (tied, lambda net, x: net.second(jax.nn.relu(net.norm(net.first(x)))), 0),
    "kernel read by hand": (one, lambda net, x: net.norm(net.first(x)) @ net.first.kernel[...].T, 1),
    "bias read by hand": (one, lambda net, x: net.norm(net.first(x)) + net.first.bias[...], 1),
    "scale read by hand": (one, lambda net, x: net.norm(net.first(x)) * net.norm.scale[...], 1),
    "mean read by hand": (one, lambda net, x: net.norm(net.first(x)) - net.norm.mean[...], 1),
    "a layer in two places": (twice, lambda net, x: net.norm(net.first(x)) + net.other(net.again(x)), 2),
    "a layer in two places, one read": (twice, lambda net, x: net.norm(net.first(x)) + net.again(x), 2),
    "a norm in two places": (one_norm_for_two, lambda net, x: net.norm(net.first(x)) + net.other(net.second(x)), 1),
    "a class of its own": (
        lambda rngs: one(rngs, lambda *size, rngs: WeightStandardised(*size, (3, 3), rngs=rngs)),
        lambda net, x: net.norm(net.first(x)),
        1,
    ),
    "another axis": (lambda rngs: one(rngs, axis=1), lambda net, x: net.norm(net.first(x)), 1),
}


@pytest.mark.parametrize("case", SHARED)
def test_shared_layers_are_not_folded(case):
    make, join, left = SHARED[case]
    net = Own(make, join)
    for _, part in nnx.iter_modules(net):
        if isinstance(part, nnx.BatchNorm):
            part.mean.set_value(jnp.arange(3.0))
            part.scale.set_value(jnp.arange(1.0, 4.0))
            part.var.set_value(jnp.array([0.5, 2.0, 3.0]))
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 3))
    folded = fold_batch_norm(net, (3, 5))
    assert norms(folded) == left
    np.testing.assert_allclose(folded(x), net(x), rtol=1e-5, atol=1e-5)
