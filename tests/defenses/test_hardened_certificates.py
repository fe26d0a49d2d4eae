"""Certificates of models with materialized layers; their matrices are pytree leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.defenses.smoothing import DDRS, RS
from jaxiqa.layers import unitary_spectrum


def silent(x, t):
    return jnp.zeros((*x.shape[:3], 6))


@pytest.mark.parametrize("unitary", ["expm", "reflection"])
@pytest.mark.parametrize("kind", ["rs", "ddrs"])
def test_a_score_with_built_matrices_is_certified_without_chunks(kind, unitary):
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 3 if unitary == "expm" else 1))
    spectrum = unitary_spectrum(kernel, (8, 8), unitary=unitary)
    score = jax.tree_util.Partial(lambda built, x: jnp.abs(built(x)).mean((1, 2, 3)), spectrum)
    options = {"score_range": (0.0, 1.0), "n": 20, "n0": 10, "chunk": None}
    certify = RS(**options) if kind == "rs" else DDRS(network=silent, size=8, **options)
    found = certify(score, jnp.full((2, 8, 8, 3), 0.4), jax.random.key(0))
    assert found.label.shape == (2,)


@pytest.mark.slow
def test_a_spectrum_works_with_tree_map_and_vmap():
    spectrum = unitary_spectrum(jnp.ones((3, 3, 2, 2)), (4, 5))
    axes = jax.tree.map(lambda _: None, spectrum)
    assert axes.matrices is None
    assert jax.tree.map(jnp.shape, spectrum).matrices == (12, 1, 2, 2)
    stacked = jax.tree.map(lambda a: jnp.stack([a, a]), spectrum)
    x = jnp.ones((2, 1, 4, 5, 2))
    together = jax.vmap(lambda s, x: s(x), in_axes=(0, 0))(stacked, x)
    np.testing.assert_allclose(together[1], spectrum(x[1]), atol=1e-6)
