"""Functions that return a wrong shape are refused, and never broadcast."""

import jax
import jax.numpy as jnp
import pytest

from jaxiqa.defenses import adversarial_batch, eot
from jaxiqa.defenses.purify import make
from jaxiqa.defenses.smoothing import DDRS

IMAGES, KEY = jnp.full((2, 12, 12, 3), 0.5), jax.random.key(0)


def mean(x):
    return x.mean((1, 2, 3))


@pytest.mark.parametrize("wrong", [lambda x: x.mean(), lambda x: x.mean((1, 2)), lambda x: mean(x)[:, None]])
@pytest.mark.parametrize("draws", [1, 3])
def test_a_defended_metric_has_one_score_per_image(wrong, draws):
    defended = eot(wrong, make("random_noise"), jax.random.split(KEY, draws))
    with pytest.raises(ValueError, match="one score per image"):
        defended(IMAGES)


@pytest.mark.parametrize("last", [3, 4, 12])
@pytest.mark.parametrize("batch", [1, None])
def test_a_diffusion_network_returns_six_channels_per_pixel(last, batch):
    network = lambda x, t: jnp.zeros((batch or len(x), *x.shape[1:3], last))  # noqa: E731
    with pytest.raises(ValueError, match="network returned shape"):
        make("diffpure", network=network, steps=1, size=None)(IMAGES, KEY)
    with pytest.raises(ValueError, match="network returned shape"):
        DDRS(network, score_range=(0.0, 1.0), n0=4, n=12, size=8)(mean, IMAGES, KEY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": lambda x, y: jnp.float32(0.5)}, r"distance returned shape \(\)"),
        ({"distance": lambda x, y: jnp.zeros((2, 1))}, r"distance returned shape \(2, 1\)"),
        ({"attack": lambda f, x, k: x[:1]}, "attack returned shape"),
        ({"mos": jnp.ones((2, 1))}, "one label per image|mos"),
        ({"images": 255 * IMAGES}, "images has values"),
        ({"low": 100.0, "high": 0.0}, "low < high"),
    ],
)
def test_adversarial_batches_are_checked(options, message):
    given = {"attack": lambda f, x, k: x, "images": IMAGES, "mos": jnp.array([10.0, 90.0]), "low": 0.0, "high": 100.0}
    given |= options
    attack, images, mos = given.pop("attack"), given.pop("images"), given.pop("mos")
    with pytest.raises(Exception, match=message):  # ValueError, or the type checker's error if it comes first
        adversarial_batch(attack, mean, images, mos, KEY, **given)
