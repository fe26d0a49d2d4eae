from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.attacks import PGD
from jaxiqa.defenses.adaptive import adaptive, bpda, eot, purify_each

KEY = jax.random.key(0)
IMAGES = jax.random.uniform(jax.random.key(1), (3, 7, 9, 3))


def score(images):
    return jnp.tanh(images[:, 1:5] - 0.4).mean((1, 2, 3))


def noisy(images, key):
    return images + 0.2 * jax.random.normal(key, images.shape[1:])


@pytest.mark.slow
def test_the_expectation_is_the_mean_over_the_keys_and_so_is_its_gradient():
    keys = jax.random.split(KEY, 5)
    defended = eot(score, noisy, keys)
    by_hand = lambda x: sum(score(noisy(x, key)) for key in keys) / 5  # noqa: E731
    np.testing.assert_allclose(defended(IMAGES), by_hand(IMAGES), atol=1e-6)
    gradients = (jax.grad(lambda x, f=f: f(x).sum())(IMAGES) for f in (defended, by_hand))
    np.testing.assert_allclose(*gradients, atol=1e-7)


def test_the_expectation_may_change_the_size_of_images():
    smaller = lambda x, key: noisy(x, key)[:, ::2]  # noqa: E731
    assert eot(score, smaller, jax.random.split(KEY, 2))(IMAGES).shape == (3,)
    with pytest.raises(Exception, match="keys"):
        eot(score, noisy, KEY)


@pytest.mark.slow
def test_bpda_has_the_value_of_the_defense_and_the_gradient_of_the_surrogate():
    rounded = lambda x, key: jnp.round(x * 4) / 4  # noqa: E731
    blurred = lambda x, key: (x + jnp.roll(x, 1, 1)) / 2  # noqa: E731
    np.testing.assert_array_equal(bpda(rounded, blurred)(IMAGES, KEY), rounded(IMAGES, KEY))
    found = jax.grad(lambda x: (bpda(rounded, blurred)(x, KEY) ** 2).sum())(IMAGES)
    _, pull = jax.vjp(lambda x: blurred(x, KEY), IMAGES)
    np.testing.assert_allclose(found, pull(2 * rounded(IMAGES, KEY))[0], atol=1e-6)
    assert float(jnp.abs(jax.grad(lambda x: rounded(x, KEY).sum())(IMAGES)).max()) == 0
    with pytest.raises(ValueError, match="expected the same shape"):
        bpda(lambda x, key: x[:, ::2])(IMAGES, KEY)


def test_an_adaptive_attack_succeeds_where_a_transferred_one_fails():
    """Rounding removes small changes: only an attack through the rounding chooses the right pixels."""
    rounded = lambda x, key: jnp.round(x * 8) / 8  # noqa: E731
    defended = lambda x: score(rounded(x, KEY))  # noqa: E731
    attack = PGD(8 / 255, steps=20, random_start=False)
    adaptive = attack(lambda x: score(bpda(rounded)(x, KEY)), IMAGES, KEY)
    assert (defended(adaptive) > defended(IMAGES)).all()
    blind = attack(defended, IMAGES, KEY)
    np.testing.assert_array_equal(blind, IMAGES)


@pytest.mark.slow
def test_a_defended_score_does_not_depend_on_the_rest_of_the_batch():
    defended = eot(score, noisy, jax.random.split(KEY, 3))
    together = defended(IMAGES)
    np.testing.assert_allclose(together[2:], defended(IMAGES[2:]), atol=1e-6)
    np.testing.assert_allclose(together[::-1], defended(IMAGES[::-1]), atol=1e-6)
    same = purify_each(noisy, jnp.stack([IMAGES[0]] * 2), KEY)
    np.testing.assert_array_equal(same[0], same[1])
    other = purify_each(noisy, jnp.stack([IMAGES[0]] * 2), jax.random.split(KEY, 2))
    assert float(jnp.abs(other[0] - other[1]).max()) > 0.1
    np.testing.assert_allclose(other[1:], noisy(IMAGES[:1], jax.random.split(KEY, 2)[1]), atol=1e-6)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rounded:
    levels: float
    random: ClassVar[bool] = False

    @property
    def surrogate(self):
        return lambda x, key: 2 * x

    def __call__(self, images, key=None):
        return jnp.round(images * self.levels) / self.levels


def test_adaptive_uses_the_surrogate_and_the_draws_of_the_purifier():
    keys = jax.random.split(KEY, 4)
    defended = adaptive(score, Rounded(8.0), keys)
    assert len(defended.keys) == 1  # a deterministic purifier is drawn once
    np.testing.assert_allclose(defended(IMAGES), score(Rounded(8.0)(IMAGES)), atol=1e-6)
    found = jax.grad(lambda x: defended(x).sum())(IMAGES)
    np.testing.assert_allclose(found, 2 * jax.grad(lambda x: score(x).sum())(Rounded(8.0)(IMAGES)), atol=1e-6)
    plain = adaptive(score, noisy, keys)
    assert len(plain.keys) == 4
    np.testing.assert_allclose(plain(IMAGES), eot(score, noisy, keys)(IMAGES), atol=1e-6)


def test_purifiers_that_differ_in_their_options_share_a_compiled_program():
    traced = []

    @jax.jit
    def run(defended, images):
        traced.append(1)
        return defended(images)

    keys = jax.random.split(KEY, 2)
    wrapped = jax.tree_util.Partial(score)
    values = [run(adaptive(wrapped, Jitter(size), keys), IMAGES) for size in (0.1, 0.3)]
    assert len(traced) == 1
    assert float(jnp.abs(values[0] - values[1]).max()) > 1e-3


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Jitter:
    size: float

    def __call__(self, images, key):
        return images + self.size * jax.random.normal(key, images.shape[1:])
