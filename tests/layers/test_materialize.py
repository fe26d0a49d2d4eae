import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick import every

from jaxiqa.layers import OrthogonalConv, OrthogonalDense, RobustBlock, materialize

X = jax.random.normal(jax.random.key(0), (2, 6, 8, 4))
OPTIONS = [{}, {"unitary": "reflection"}, {"groups": 2, "unitary": "cayley"}, {"band": 0.5}, {"stride": 2}, {"cout": 6}]


@pytest.mark.slow
@pytest.mark.parametrize("options", every(2, OPTIONS), ids=str)
def test_a_built_layer_has_the_values_and_gradients_of_the_layer(options):
    layer = OrthogonalConv(4, **{"cout": 4, **options}, rngs=nnx.Rngs(0))
    built = materialize(layer, (6, 8))
    np.testing.assert_allclose(built(X), layer(X), atol=1e-6)
    gradients = [jax.grad(lambda x, f=f: jnp.sum(f(x) ** 3))(X) for f in (layer, built)]
    np.testing.assert_allclose(*gradients, atol=1e-5)


def test_a_built_copy_has_no_parameters_and_does_not_change_with_the_layer():
    layer = OrthogonalConv(4, 4, rngs=nnx.Rngs(0))
    built = materialize(layer, (6, 8))
    before = built(X)
    layer.kernel[...] = 2 * layer.kernel[...]
    assert not jax.tree.leaves(nnx.state(built, nnx.Param))
    np.testing.assert_array_equal(built(X), before)
    assert float(jnp.abs(materialize(layer, (6, 8))(X) - before).max()) > 0.1
    np.testing.assert_allclose(materialize(layer, (6, 8))(X), layer(X), atol=1e-6)


def test_another_size_is_refused():
    built = materialize(OrthogonalConv(4, 4, rngs=nnx.Rngs(0)), (6, 8))
    with pytest.raises(ValueError, match="6x8 and was given one of 8x6"):
        built(X.swapaxes(1, 2))
    with pytest.raises(ValueError, match="stride=2"):
        materialize(OrthogonalConv(4, 4, stride=2, rngs=nnx.Rngs(0)), (5, 8))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"reduce": "orthogonal"}, {"shrink": 0.2, "low_pass": 0.5}], ids=str)
def test_a_block_can_be_materialized(options):
    block = RobustBlock(4, 3, rngs=nnx.Rngs(0), **options)
    built = materialize(block, (6, 8), channels=4)
    np.testing.assert_allclose(built(X), block(X), atol=1e-6)
    kinds = {type(module) for _, module in nnx.iter_modules(built)}
    assert not kinds & {OrthogonalConv, OrthogonalDense}
