"""The start of the certified network: exact wavelets, orthonormal at all channel counts; energies near typical ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa import data
from jaxiqa.layers import space_to_depth
from jaxiqa.nn.lipschitz_net import COLOURS, LipschitzNet, typical_energies, wavelets


@pytest.mark.parametrize(("cin", "cout"), [(3, 12), (3, 5), (3, 20), (8, 32), (8, 20), (1, 4), (2, 1)])
def test_wavelets_are_orthonormal(cin, cout):
    matrix = wavelets(cin, cout)
    assert matrix.shape == (cout, 4 * cin)
    small = matrix @ matrix.T if cout <= 4 * cin else matrix.T @ matrix
    np.testing.assert_allclose(small, np.eye(min(cout, 4 * cin)), atol=1e-12)


def test_levels_of_wavelets_are_the_walsh_hadamard_transform():
    """Of blocks of 4×4 pixels of grey images; SciPy has the matrix."""
    from scipy.linalg import hadamard

    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 1)) * jnp.ones(3)
    for cin in (3, 12):
        x = space_to_depth(x, 2) @ jnp.asarray(wavelets(cin, 4 * cin).T, jnp.float32)
    grey = np.asarray(x[0, 0, 0])
    pixels = np.asarray(jax.random.normal(jax.random.key(0), (4, 4)))
    transform = hadamard(4) / 2
    expected = np.sqrt(3) * transform @ pixels @ transform.T
    np.testing.assert_allclose(
        np.sort(np.abs(grey[np.abs(grey) > 1e-5])), np.sort(np.abs(expected.ravel())), rtol=1e-5, atol=2e-6
    )
    assert np.allclose(COLOURS @ COLOURS.T, np.eye(3))


@pytest.mark.slow
def test_a_new_network_keeps_the_energy_of_the_image():
    """Wavelets, shifts and absolute values lose nothing if no level drops channels."""
    net = LipschitzNet(channels=(12, 48), depth=(1, 2), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 12, 20, 3))
    np.testing.assert_allclose(jnp.linalg.norm(net.levels(x)[-1].reshape(2, -1), axis=1), global_norm(x), rtol=1e-5)
    found = net.energies(x) + net.typical[...] * np.sqrt(12 * 20)
    np.testing.assert_allclose(jnp.linalg.norm(found.reshape(2, -1), axis=1), global_norm(x), rtol=1e-5)


def global_norm(x):
    return jnp.linalg.norm(x.reshape(len(x), -1), axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 128), (75, 50)])
def test_typical_energies_are_most_of_those_of_images(size):
    split = data.load("builtin", size=size, train=8, val=1, test=1)["train"]
    x = jnp.asarray(np.stack([split.read(i) for i in range(8)]), jnp.float32) / 255 - 0.45
    net = LipschitzNet(channels=(12, 48, 192), depth=(0, 0, 1), rngs=nnx.Rngs(0))
    left = np.linalg.norm(np.mean(net.energies(x), 0))
    typical = np.sqrt(size[0] * size[1]) * net.typical[...]
    assert left < 0.7 * np.linalg.norm(np.mean(net.energies(x) + typical, 0))
    np.testing.assert_allclose(net.typical[...], typical_energies((12, 48, 192), cell=2, ranks=8), rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"channels": (), "depth": ()}, {"depth": (1,)}, {"depth": (-1, 0)}, {"cell": 0}, {"ranks": 0}, {"reduced": 0}],
)
def test_bad_options_are_named(options):
    usual = {"channels": (4, 8), "depth": (0, 1), "rngs": nnx.Rngs(0)}
    with pytest.raises(ValueError, match=next(iter(options))):
        LipschitzNet(**usual | options)
