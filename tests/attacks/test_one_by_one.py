"""Pictures attacked by themselves: the batch's results."""

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


@pytest.mark.parametrize("attack", [PGD(8 / 255, steps=4), make("apgd", epsilon=0.1, steps=4), Restarts(PGD(0.1), 2)])
def test_random_attacks_give_what_they_give_in_a_batch(attack):
    images = make_images()
    np.testing.assert_allclose(OneByOne(attack)(score, images, KEY), attack(score, images, KEY), atol=1e-6)


def test_a_sweep_does_too():
    images, epsilons = make_images(), [0.02, 0.05]
    found = sweep(OneByOne(PGD(0.0, steps=2)), score, images, KEY, epsilons)
    np.testing.assert_allclose(found, sweep(PGD(0.0, steps=2), score, images, KEY, epsilons), atol=1e-6)


def test_every_picture_is_heard_of():
    heard = []
    attack = OneByOne(PGD(0.1, steps=1), lambda *numbers: heard.append(numbers))
    sweep(attack, score, make_images(), KEY, [0.02, 0.05])
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_every_picture_keeps_its_own_goal():
    images = make_images()
    target = score(images) + jnp.array([4e-3, -4e-3, 0.0])
    attack = PGD(0.1, steps=40, step_size=5e-4, random_start=False, objective=Target(target))
    np.testing.assert_allclose(score(OneByOne(attack)(score, images, KEY)), target, atol=5e-4)


def test_inside_a_compiled_function_it_is_the_batch():
    images = make_images()
    attack = OneByOne(PGD(0.1, steps=2))
    inside = jax.jit(lambda x: attack(score, x, KEY))(images)
    np.testing.assert_allclose(inside, attack(score, images, KEY), atol=1e-6)


def test_an_error_names_the_picture():
    broken = lambda x: score(x) + jnp.where(x[:, 0, 0, 0] > 2, 0.0, jnp.sqrt(x[:, 0, 0, 0] - 0.5))  # noqa: E731
    images = make_images().at[:, 0, 0, 0].set(jnp.array([0.9, 0.9, 0.1]))
    with pytest.raises(ValueError, match=r"image 2 of 3: .*non-finite"):
        OneByOne(PGD(0.01))(broken, images, KEY)
