"""FACPA with small networks: its perturbation, its training, its files."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa.attacks.facpa import FACPA, fit_facpa, load_facpa, save_facpa
from jaxiqa.attacks.uap import UAP, save_uap
from jaxiqa.networks import Network, UNet

KEY = jax.random.key(2)
EPSILON = 10 / 255


def make_images(count=3, size=(9, 14), seed=0):
    return jax.random.uniform(jax.random.key(seed), (count, *size, 3), minval=0.2, maxval=0.8)


@partial(jax.jit, static_argnames=("seed", "depth"))
def small(seed=0, depth=2) -> Network:
    """Return a narrow network; its kernels are scaled for its few channels."""
    network = Network(*nnx.split(UNet(width=6, depth=depth, rngs=nnx.Rngs(seed))))
    return jax.tree.map(lambda weights: 8 * weights, network)


@jax.jit
def run(network, images):
    return network(images)


def patches(count, size, seed):
    """Images of 4×4 patches, each of one colour."""
    colors = make_images(count, (4, 4), seed)
    return colors.repeat(4, 1).repeat(4, 2)[:, : size[0], : size[1]]


def contrast(images):
    return 1000 * jnp.abs(images - 0.5).mean((1, 2, 3))


@pytest.mark.slow
def test_an_image_is_padded_to_the_multiple_and_the_benchmark_variant_repeats_its_top_left():
    network, images = small(), make_images()
    padded = np.pad(np.asarray(images), ((0, 0), (0, 3), (0, 2), (0, 0)), mode="symmetric")
    drawn = run(network, jnp.asarray(padded))[:, :9, :14]
    attacked = FACPA(network, amplitude=0.5, multiple=4)(None, images, KEY)
    np.testing.assert_allclose(attacked, images + 0.5 * EPSILON * drawn, atol=1e-6)
    assert float(jnp.abs(drawn).max()) > 0.3
    part = np.asarray(run(network, images[:, :8, :12]))
    repeated = part[:, np.arange(9)[:, None] % 8, np.arange(14) % 12]
    attacked = FACPA(network, amplitude=0.8, multiple=4, variant="benchmark")(None, images, KEY)
    np.testing.assert_allclose(attacked, images + 8 / 255 * repeated, atol=1e-6)
    with pytest.raises(ValueError, match="images are 3x14; variant='benchmark' needs sides of at least 4"):
        FACPA(network, multiple=4, variant="benchmark")(None, images[:, :3], KEY)


@pytest.mark.slow
def test_amplitudes_share_a_program_and_images_are_independent():
    network, images, traces = small(), make_images(), []

    @jax.jit
    def attacked(network, amplitude):
        traces.append(None)
        return FACPA(network, amplitude, multiple=4)(None, images, KEY)

    for amplitude in (0.0, 0.5, 2.0):
        whole = FACPA(network, amplitude, multiple=4)(None, images, KEY)
        assert float(jnp.abs(whole - images).max()) <= amplitude * EPSILON + 1e-6
        np.testing.assert_allclose(attacked(network, jnp.float32(amplitude)), whole, atol=1e-6)
        for i in range(len(images)):
            np.testing.assert_allclose(
                FACPA(network, amplitude, multiple=4)(None, images[i : i + 1], KEY)[0], whole[i], atol=1e-5
            )
    assert len(traces) == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (5, 3)])
def test_facpa_accepts_tiny_images(size):
    attacked = FACPA(small(), multiple=4)(None, make_images(1, size), KEY)
    assert attacked.shape == (1, *size, 3)
    assert np.isfinite(attacked).all()


@pytest.mark.slow
def test_a_network_learns_a_perturbation_for_each_image_and_generalises(tmp_path):
    """The best perturbation, ε · sign(x − 0.5), depends on the image: that of another image gains nothing."""
    calls = []
    attack = fit_facpa(
        contrast, patches(16, (12, 16), seed=1), KEY, network=small(), multiple=4, epochs=30, step_size=5e-3,
        progress=lambda *arguments: calls.append(arguments),
    )  # fmt: skip
    assert [call[:2] for call in calls] == [(step, 60) for step in range(1, 61)]
    others = patches(6, (11, 8), seed=2)
    added = attack(None, others, KEY) - others
    best = 1000 * EPSILON
    gains, strange = (contrast(others + change) - contrast(others) for change in (added, jnp.roll(added, 1, 0)))
    print("gains:", gains, "by another image's perturbation:", strange, "largest possible:", best)
    assert float(gains.min()) > 0.3 * best
    assert float(gains.mean()) > 0.4 * best
    assert float(strange.mean()) < 0.25 * best
    path = tmp_path / "facpa.safetensors"
    save_facpa(attack, path)
    template = nnx.eval_shape(lambda: small(seed=7))
    np.testing.assert_array_equal(load_facpa(path, template)(None, others, KEY), attack(None, others, KEY))


def test_errors_name_facpa_files_that_do_not_match(tmp_path):
    path = tmp_path / "facpa.safetensors"
    save_facpa(FACPA(small(), amplitude=0.25, epsilon=0.5, multiple=4, variant="benchmark"), path)
    read = load_facpa(path, small(seed=1))
    assert (read.amplitude, read.epsilon, read.multiple, read.variant) == (0.25, 0.5, 4, "benchmark")
    assert all(map(np.array_equal, jax.tree.leaves(read.network), jax.tree.leaves(small())))
    with pytest.raises(ValueError, match="does not match this network") as caught:
        load_facpa(path, small(depth=3))
    assert "missing" in str(caught.value)
    assert "of another shape" in str(caught.value)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"facpa\.safetensors: damaged file"):
        load_facpa(path, small())
    save_uap(UAP(jnp.zeros((2, 2, 3))), path)
    with pytest.raises(ValueError, match="holds a fitted uap, not a facpa"):
        load_facpa(path, small())


@pytest.mark.slow
def test_facpa_reports_non_finite_scores_and_bad_options():
    images = make_images()
    with pytest.raises(ValueError, match="non-finite scores or gradients at step 1 of 5"):
        fit_facpa(lambda x: jnp.nan * contrast(x), images, KEY, network=small(), multiple=4)
    with pytest.raises(ValueError, match="network returned values that are not finite"):
        FACPA(lambda x: x * jnp.nan, multiple=4)(None, images, KEY)
    with pytest.raises(ValueError, match=r"network returned shape \(3, 12, 16\)"):
        FACPA(lambda x: x.mean(-1), multiple=4)(None, images, KEY)
    for network in (lambda x: x, jax.tree_util.Partial(jnp.multiply, jnp.arange(3))):
        with pytest.raises(ValueError, match="network must be a pytree with leaves to train"):
            fit_facpa(contrast, images, KEY, network=network, multiple=4)
    for options in ({"amplitude": -1.0}, {"epsilon": 2.0}, {"multiple": 0}, {"variant": "bench"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            FACPA(small(), **options)
    with pytest.raises(ValueError, match="images has values in"):
        FACPA(small(), multiple=4)(None, 255 * images, KEY)
