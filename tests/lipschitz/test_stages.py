"""How a change grows from stage to stage, for maps whose norms NumPy computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxiqa import attacks, models
from jaxiqa.lipschitz import growth

IMAGES = jax.random.uniform(jax.random.key(0), (4, 9, 14, 3)) * 0.8 + 0.1
MATRIX = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def features(x):
    return {"pixels": x, "mixed": x @ MATRIX + 7.0, "pooled": x.mean((1, 2)) @ MATRIX}


def test_the_ratios_are_numpys():
    change = 0.05 * jax.random.normal(jax.random.key(1), IMAGES.shape).clip(-1, 1)
    found = growth(features, IMAGES, IMAGES + change)
    for name, maps in features(np.asarray(IMAGES)).items():
        moved = np.asarray(features(np.asarray(IMAGES + change))[name]) - maps
        centred = maps - maps.mean(tuple(range(maps.ndim - 1)))
        assert found[name].change == pytest.approx(np.linalg.norm(moved) / np.linalg.norm(centred), rel=1e-4)
        if maps.ndim == 4:
            pooled = maps.mean((1, 2))
            share = np.linalg.norm(moved.mean((1, 2))) / np.linalg.norm(pooled - pooled.mean(0))
            assert found[name].mean == pytest.approx(share, rel=1e-3)
        else:
            assert found[name].mean == found[name].change


@pytest.mark.slow
def test_an_attacks_change_grows_along_a_network_more_than_noise_of_its_size():
    model = tiny.metric("resnet18")
    names = ("conv1", "layer2", "layer4")
    score = models.score_fn(model)
    images = jax.random.uniform(jax.random.key(2), (4, 48, 64, 3))
    attacked = attacks.PGD(4 / 255, steps=5)(score, images, jax.random.key(3))
    noise = jnp.clip(images + 4 / 255 * jnp.sign(jax.random.normal(jax.random.key(4), images.shape)), 0, 1)
    found, random = (growth(lambda x: model.features(x, names), images, other) for other in (attacked, noise))
    assert found.keys() == set(names)
    assert found["layer4"].mean > 3 * found["conv1"].mean
    assert found["layer4"].mean > 2 * random["layer4"].mean


@pytest.mark.parametrize("attacked", [IMAGES[:2], IMAGES + 2])
def test_bad_images_are_refused(attacked):
    with pytest.raises(ValueError, match="attacked"):
        growth(features, IMAGES, attacked)
    with pytest.raises(ValueError, match="at least two"):
        growth(features, IMAGES[:1], IMAGES[:1])
