"""Attacks on several metrics at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_metric import KEY, make_images, score

from jaxiqa import attacks

SHAPE = (6, 13, 14, 3)
IMAGES = make_images(SHAPE)


def corner(images):
    return 100 * images[:, :3, :3].mean((1, 2, 3))


def flat(images):
    return images.sum((1, 2, 3)) * 0


@pytest.mark.slow
def test_the_gradient_is_the_mean_of_the_normalised_ones():
    joint = attacks.ensemble([score, corner])
    found = jax.grad(lambda x: joint(x).sum())(IMAGES)
    expected = 0
    for member in (score, corner):
        gradient = np.asarray(jax.grad(lambda x, member=member: member(x).sum())(IMAGES), np.float64)
        expected = expected + gradient / np.sqrt((gradient**2).sum((1, 2, 3), keepdims=True)) / 2
    np.testing.assert_allclose(found, expected, atol=1e-6)
    weighted = jax.grad(lambda x: (joint(x) * jnp.arange(6.0)).sum())(IMAGES)
    np.testing.assert_allclose(weighted, expected * np.arange(6)[:, None, None, None], atol=1e-5)


def test_scores_are_means_in_the_units_of_the_members():
    joint = attacks.ensemble([score, corner], scales=[2.0, 50.0])
    np.testing.assert_allclose(joint(IMAGES), (score(IMAGES) / 2 + corner(IMAGES) / 50) / 2, rtol=1e-6)


def test_a_member_without_a_gradient_adds_nothing():
    gradients = [jax.grad(lambda x, s=s: s(x).sum())(IMAGES) for s in map(attacks.ensemble, ([score], [score, flat]))]
    np.testing.assert_allclose(gradients[1], gradients[0] / 2, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_it_moves_every_member_and_transfers(name):
    """The steepest member would have all of the gradient of a plain mean; the third metric is never asked."""
    images = make_images(SHAPE, seed=3)
    unseen = lambda x: jnp.tanh(3 * score(x) + corner(x) / 50)  # noqa: E731
    attack = attacks.make(name, epsilon=4 / 255, steps=8)
    attacked = attack(attacks.ensemble([score, corner]), images, KEY)
    for member in (score, corner, unseen):
        assert (member(attacked) > member(images)).all()
    assert float(jnp.abs(attacked - images).max()) <= 4 / 255 + 1e-6


@pytest.mark.parametrize(
    ("members", "scales", "message"),
    [([], None, "members is empty"), ([corner], [1.0, 2.0], "one number per member"), ([corner], [0.0], "scales=0.0")],
)
def test_bad_members_are_refused(members, scales, message):
    with pytest.raises(ValueError, match=message):
        attacks.ensemble(members, scales=scales)
