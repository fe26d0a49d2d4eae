import jax
import jax.numpy as jnp
import pytest

from jaxiqa import attacks, networks


@pytest.mark.slow
def test_an_attack_can_train_a_fresh_network(tmp_path):
    network = networks.build("facpa_unet", seed=1)
    weights, others = (jax.tree.leaves(net.state) for net in (network, networks.build("facpa_unet", seed=2)))
    assert jnp.any(weights[-1] != others[-1])
    images = jax.random.uniform(jax.random.key(0), (2, 256, 256, 3))
    score = jax.tree_util.Partial(lambda x: x.mean((1, 2, 3)))
    kind = attacks.FITTED["facpa"]
    options = {"network": network, "epsilon": 10 / 255, "epochs": 1, "batch_size": 2}
    kind.save(kind.fit(score, images, jax.random.key(0), **options), tmp_path / "facpa.safetensors")
    loaded = kind.load(tmp_path / "facpa.safetensors", network=network)
    assert jnp.any(loaded(score, images, jax.random.key(0)) != images)
