from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxiqa.models import harden, score_fn
from jaxiqa.nn.conv import conv
from jaxiqa.nn.kernels.depthwise import depthwise_conv
from jaxiqa.nn.precision import set_compute_dtype
from jaxiqa.nn.stages import Stages

X = jax.random.uniform(jax.random.key(0), (2, 40, 56, 3))
HIGHEST = jax.lax.Precision.HIGHEST


def hardened() -> nnx.Module:
    model = tiny.metric()
    options = {"where": "after:layer3", "mid": 4}
    harden(model, **options, name="exponential", shrink=0.1, rngs=nnx.Rngs(1))
    harden(model, **options, name="cayley", unitary="cayley", reduce="orthogonal", rngs=nnx.Rngs(2))
    harden(model, "before:layer1", mid=4, name="reflection", unitary="reflection", rngs=nnx.Rngs(3))
    return model


def equations(jaxpr) -> Iterator[Any]:
    """Yield the equations of a program and its inner programs, except `wide_conv`, which widens and rounds itself."""
    for equation in jaxpr.eqns:
        yield equation
        if equation.params.get("name") == "wide_conv":
            continue
        for inner in jax.tree.leaves(tuple(equation.params.values())):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(getattr(inner, "jaxpr", inner))


def program(score, images) -> list:
    return list(equations(jax.make_jaxpr(jax.grad(lambda x: score(x).sum()))(images).jaxpr))


def types(equation) -> set[str]:
    return {variable.aval.dtype.name for variable in (*equation.invars, *equation.outvars)}


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, pytest.param((40, 56), marks=pytest.mark.slow)])
def test_products_are_in_bfloat16_except_unitary_maps_and_heads(size):
    """Check the traced program of a score and its gradient; unitary maps are built inside it (None) or before."""
    found = program(score_fn(hardened(), size, compute_dtype="bfloat16"), X)
    unitary = [e for e in found if e.primitive.name == "dot_general" and e.params["precision"] == (HIGHEST, HIGHEST)]
    assert len(unitary) > 10
    assert all(types(e) <= {"float32", "complex64"} for e in unitary)
    exact = [e for e in found if e.primitive.name in ("fft", "eigh", "lu", "triangular_solve", "cholesky", "rsqrt")]
    assert {e.primitive.name for e in exact} >= {"fft", "rsqrt"}
    assert all("bfloat16" not in types(e) for e in exact)
    convolutions = [e for e in found if e.primitive.name == "conv_general_dilated"]
    products = [e for e in found if e.params.get("name") == "wide_conv"]  # convolutions too
    assert len(convolutions) + len(products) > 30
    assert all(types(e) == {"bfloat16"} for e in convolutions)
    assert all("bfloat16" in types(e) for e in products)
    others = [e for e in found if e.primitive.name == "dot_general" and not any(e is u for u in unitary)]
    maps, heads = ([e for e in others if (e.outvars[0].aval.ndim == 4) == spatial] for spatial in (True, False))
    assert maps  # the 1×1 convolutions
    assert all(types(e) == {"bfloat16"} for e in maps)
    assert heads
    assert all(types(e) == {"float32"} for e in heads)


@pytest.mark.slow
def test_parameters_scores_and_maps_stay_float32():
    model = hardened()
    score = score_fn(model, compute_dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(score.state)} == {"float32"}
    copy = nnx.merge(score.graphdef, score.state)
    names = [*copy.backbone.order, "f6", "f7"]
    shapes = jax.eval_shape(lambda x: (score(x), copy.features(x, names), copy.trunk(x, "layer2")), X)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}


@pytest.mark.slow
def test_scores_change_little_and_the_default_is_float32():
    """They change by less than 5 % of the spread of scores over noise images, and not by zero, in a narrow network."""
    model = hardened()
    noise = jax.random.uniform(jax.random.key(1), (8, 1, 1, 1)) * jax.random.normal(jax.random.key(2), (8, 40, 56, 3))
    images = jnp.clip(0.5 + noise, 0, 1)
    run = jax.jit(lambda score, x: score(x))
    exact, rounded = (run(score_fn(model, compute_dtype=dtype), images) for dtype in ("float32", "bfloat16"))
    deviation = np.abs(exact - rounded).max() / (exact.max() - exact.min())
    print("deviation over the spread of scores:", deviation)
    assert 0 < deviation < 0.05
    assert score_fn(model).graphdef == score_fn(model, compute_dtype="float32").graphdef
    np.testing.assert_array_equal(run(score_fn(model), images), exact)


class Bottleneck(nnx.Module):
    """``relu(conv1x1(relu(conv3x3(relu(conv1x1(x))))) + x)``, a residual block with folded batch norms."""

    def __init__(self, rngs: nnx.Rngs):
        sizes = ((256, 64, 1), (64, 64, 3), (64, 256, 1))
        self.layers = nnx.List([conv(cin, cout, size, bias=True, rngs=rngs) for cin, cout, size in sizes])

    def __call__(self, x):
        y = x
        for i, layer in enumerate(self.layers):
            y = layer(jax.nn.relu(y) if i else y)
        return jax.nn.relu(x.astype(y.dtype) + y)


class Pooled(nnx.Module):
    """The mean of its map, and nothing else."""

    def __init__(self, rngs: nnx.Rngs):
        self.backbone = Stages({"block": (Bottleneck(rngs), 256)}, inputs=256)

    def __call__(self, x):
        return jnp.mean(self.map(x), (1, 2))

    def map(self, x):
        return self.backbone.run(x)[0]


def test_the_mean_after_a_backbone_equals_the_mean_of_its_map():
    """XLA's CPU compiler has merged the two incorrectly."""
    model = Pooled(nnx.Rngs(0))
    set_compute_dtype(model, "bfloat16")
    graphdef, state = nnx.split(model)
    x = jax.random.normal(jax.random.key(0), (2, 8, 11, 256))
    found = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x)
    expected = jax.jit(lambda state, x: nnx.merge(graphdef, state).map(x))(state, x)
    np.testing.assert_allclose(found, np.mean(expected, (1, 2)), atol=1e-5)


def test_a_depthwise_convolution_in_bfloat16_is_rounded_once():
    x, kernel = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(1, 9, 8, 4), (3, 3, 4)]))
    options = {"stride": (1, 1), "padding": ((1, 1), (1, 1))}
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    found = depthwise_conv(x, kernel, **options)
    expected = depthwise_conv(x.astype(jnp.float32), kernel.astype(jnp.float32), **options)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))


def test_another_type_is_refused():
    with pytest.raises(ValueError, match="compute_dtype='float16' is not allowed; choose from 'float32', 'bfloat16'"):
        score_fn(tiny.metric(), compute_dtype="float16")
