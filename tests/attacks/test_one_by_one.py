"""Images attacked one by one give the results of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.attacks import PGD, OneByOne, Restarts, make, sweep
from jaxiqa.attacks.engine.objective import Target

KEY = jax.random.key(5)
WEIGHTS = jax.random.normal(jax.random.key(1), (11, 12, 3))


def score(images):
    return jnp.tanh(3 * images * WEIGHTS).mean((1, 2, 3))


def make_images(count=3):
    return jax.random.uniform(jax.random.key(0), (count, 11, 12, 3))


@pytest.mark.slow
@pytest.mark.parametrize("attack", [PGD(8 / 255, steps=4), make("apgd", epsilon=0.1, steps=4), Restarts(PGD(0.1), 2)])
def test_random_attacks_equal_the_batch(attack):
    images = make_images()
    np.testing.assert_allclose(OneByOne(attack)(score, images, KEY), attack(score, images, KEY), atol=1e-6)


def test_a_sweep_equals_the_batch():
    images, epsilons = make_images(), [0.02, 0.05]
    found = sweep(OneByOne(PGD(0.0, steps=2)), score, images, KEY, epsilons)
    np.testing.assert_allclose(found, sweep(PGD(0.0, steps=2), score, images, KEY, epsilons), atol=1e-6)


def test_progress_is_called_for_every_image():
    calls = []
    attack = OneByOne(PGD(0.1, steps=1), lambda *numbers: calls.append(numbers))
    sweep(attack, score, make_images(), KEY, [0.02, 0.05])
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.slow
def test_every_image_keeps_its_own_target():
    images = make_images()
    target = score(images) + jnp.array([4e-3, -4e-3, 0.0])
    attack = PGD(0.1, steps=40, step_size=5e-4, random_start=False, objective=Target(target))
    np.testing.assert_allclose(score(OneByOne(attack)(score, images, KEY)), target, atol=5e-4)


@pytest.mark.slow
def test_under_jit_it_attacks_the_whole_batch():
    images = make_images()
    attack = OneByOne(PGD(0.1, steps=2))
    inside = jax.jit(lambda x: attack(score, x, KEY))(images)
    np.testing.assert_allclose(inside, attack(score, images, KEY), atol=1e-6)


@pytest.mark.slow
def test_an_error_names_the_image():
    broken = lambda x: score(x) + jnp.where(x[:, 0, 0, 0] > 2, 0.0, jnp.sqrt(x[:, 0, 0, 0] - 0.5))  # noqa: E731
    images = make_images().at[:, 0, 0, 0].set(jnp.array([0.9, 0.9, 0.1]))
    with pytest.raises(ValueError, match=r"image 2 of 3: .*non-finite"):
        OneByOne(PGD(0.01))(broken, images, KEY)
