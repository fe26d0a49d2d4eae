"""Pruned models, their compact copies compared with them, and small networks made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxiqa.models.metric import Metric
from jaxiqa.nn.compact import compact
from jaxiqa.nn.conv import conv
from jaxiqa.nn.stages import Stages
from jaxiqa.train.pruning import apply_masks, make_masks

SIZE = (80, 96)
X = jax.random.uniform(jax.random.key(0), (2, *SIZE, 3))


def pruned(model, amount):
    """Set the weakest filters of every convolution to zero, in place."""
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    nnx.update(model, apply_masks(params, make_masks(params, amount=amount)))
    return model


def cost_and_scores(model, x, call=lambda model, x: model(x)):
    graphdef, state = nnx.split(model)
    compiled = jax.jit(lambda state, x: call(nnx.merge(graphdef, state), x)).lower(state, x).compile()
    return compiled.cost_analysis()["flops"], np.asarray(compiled(state, x))


def check(model, x, *, share=1.0, call=lambda model, x: model(x), size=SIZE):
    small = compact(model, size=size)
    assert type(small) is type(model)
    (before, expected), (after, found) = (cost_and_scores(each, x, call) for each in (model, small))
    scale = max(float(np.abs(expected).max()), 1e-3)
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale)
    assert after < share * before
    return small


def relative(found, expected):
    return float(jnp.abs(found - expected).max() / jnp.abs(expected).max())


class Net(Metric):
    """One stage; the score is its mean, and ``maps`` gives its output."""

    def __init__(self, stage, *, channels=4):
        self.backbone = Stages({"a": (stage, channels)})

    def __call__(self, x):
        return self.maps(x).mean((1, 2, 3))

    def maps(self, x):
        return self.backbone.run(x)[0]


class Chain(nnx.Module):
    """``second(activation(norm(first(x))))``"""

    def __init__(self, first, norm, activation, second):
        self.first, self.norm, self.activation, self.second = first, norm, activation, second

    def __call__(self, x):
        return self.second(self.activation(self.norm(self.first(x))))


def noise(*layers, seed=0):
    """Fill layers with random numbers, also biases and statistics; return them."""
    random = np.random.default_rng(seed)
    for layer in layers:
        for name in ("kernel", "bias", "scale", "mean", "var"):
            if getattr(layer, name, None) is not None:
                variable = getattr(layer, name)
                value = random.normal(size=variable.shape)
                variable[...] = jnp.asarray(np.abs(value) + 0.5 if name == "var" else value, jnp.float32)
    return layers


def cut(layer, filters):
    layer.kernel[...] = layer.kernel[...].at[..., jnp.array(filters)].set(0)


def norm(channels):
    return nnx.BatchNorm(channels, use_running_average=True, rngs=nnx.Rngs(0))


def make(cin, cout, size=3, **options):
    return conv(cin, cout, size, rngs=nnx.Rngs(0), **options)


Y = jax.random.normal(jax.random.key(2), (2, 7, 9, 3))


def same_maps(model, small, x=Y):
    before, after = model.maps(x), small.maps(x)
    np.testing.assert_allclose(after, before, atol=2e-5 * float(jnp.abs(before).max()))
