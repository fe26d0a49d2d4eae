"""Objectives of attacks: a target score, and the order of pairs."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from small_metric import KEY, make_images, score

from jaxiqa.attacks import PGD
from jaxiqa.attacks.engine.objective import Target, as_objective, outrank

SHAPE = (3, 13, 14, 3)


def test_a_score_reaches_its_target_from_either_side():
    images = make_images(SHAPE)
    clean = score(images)
    target = clean + jnp.array([0.02, -0.02, 0.0])
    attack = PGD(0.1, steps=40, step_size=5e-4, random_start=False, objective=Target(target))
    np.testing.assert_allclose(score(attack(score, images, KEY)), target, atol=2e-3)


@pytest.mark.parametrize("kind", [list, tuple, np.array, jnp.array])
def test_pairs_may_be_lists_and_arrays(kind):
    objective = outrank(kind([40.0, 70.0, 60.0]), kind([60.0, 60.0, 60.0]))
    assert np.asarray(objective.sign).tolist() == [1, -1, 1]
    assert np.asarray(objective.threshold).tolist() == [60, 60, 60]
    with pytest.raises(ValueError, match="scores has numbers that are not finite"):
        outrank(kind([np.nan, 70.0]), kind([60.0, 60.0]))
    with pytest.raises(ValueError, match="others has numbers that are not finite"):
        outrank(kind([50.0, 70.0]), kind([60.0, np.inf]))


@pytest.mark.parametrize("given", [[1, -1, 1], np.ones(3), 50.0, True, None])
def test_numbers_are_no_objective(given):
    with pytest.raises(ValueError, match=r"objective=.* is not allowed; choose from 'raise', 'lower', Maximize"):
        inspect.unwrap(as_objective)(given)


@pytest.mark.slow
def test_a_pair_is_reordered_in_both_directions():
    images = make_images((2, 13, 14, 3))
    scores = score(images)
    partners = scores + jnp.array([0.01, -0.01])
    attacked = score(PGD(8 / 255, objective=outrank(scores, partners))(score, images, KEY))
    assert attacked[0] > partners[0]
    assert attacked[1] < partners[1]
    with pytest.raises(Exception, match="others"):
        outrank(scores, partners[:1])
