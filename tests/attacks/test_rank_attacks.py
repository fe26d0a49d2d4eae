"""Attacks on the order of a set."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import every
from small_metric import KEY, make_images, score

from jaxiqa import attacks
from jaxiqa.attacks.engine.objective import invert_ranks, mirror_ranks
from jaxiqa.defenses import bpda, eot
from jaxiqa.measures.correlation import srocc
from jaxiqa.measures.ranks import combined, worst_srocc

SHAPE = (6, 13, 14, 3)
IMAGES = make_images(SHAPE)
CLEAN = np.asarray(score(IMAGES))
EPSILON = 8 / 255
FAST = {
    "fgsm": {},
    "ifgsm": {"steps": 4},
    "pgd": {"steps": 6},
    "apgd": {"steps": 6},
    "madc": {"steps": 4},
    "nes": {"steps": 10, "pairs": 8},
    "square": {"queries": 200},
    "parsimonious": {"queries": 120},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", every(2, FAST))
def test_every_attack_turns_the_order_round(name):
    strength = {} if name == "madc" else {"epsilon": EPSILON}
    attack = attacks.make(name, **strength, **FAST[name], objective=invert_ranks(CLEAN))
    attacked = np.asarray(score(attack(score, IMAGES, KEY)))
    low = np.median(CLEAN) >= CLEAN
    assert (attacked[low] > CLEAN[low]).all()
    assert (attacked[~low] < CLEAN[~low]).all()
    assert srocc(attacked, CLEAN) < 1


def test_the_order_may_be_that_of_human_scores():
    order = np.array([3.0, 1.0, 2.0, 9.0, 7.0, 8.0])
    attacked = score(attacks.PGD(EPSILON, steps=4, objective=invert_ranks(order))(score, IMAGES, KEY))
    np.testing.assert_array_equal(np.sign(np.asarray(attacked) - CLEAN), [1, 1, 1, -1, -1, -1])


def test_a_set_attacked_in_parts_gives_what_it_gives_at_once():
    objective = invert_ranks(CLEAN)
    whole = attacks.PGD(EPSILON, steps=4, random_start=False, objective=objective)(score, IMAGES, KEY)
    for part in (slice(0, 2), slice(2, 6)):
        chosen = jax.tree.map(lambda x, part=part: x[part] if np.ndim(x) else x, objective)
        attack = attacks.PGD(EPSILON, steps=4, random_start=False, objective=chosen)
        np.testing.assert_allclose(attack(score, IMAGES[part], KEY), whole[part], atol=1e-6)


def test_mirrored_targets_invert_the_whole_order():
    objective = mirror_ranks(CLEAN, CLEAN)
    np.testing.assert_allclose(np.sort(objective.target), np.sort(np.float32(CLEAN)))
    attack = attacks.PGD(0.3, steps=60, step_size=0.01, random_start=False, objective=objective)
    attacked = np.asarray(score(attack(score, IMAGES, KEY)))
    np.testing.assert_allclose(attacked, objective.target, atol=1e-3)
    assert srocc(attacked, CLEAN) == -1
    halves = score(attacks.PGD(0.3, steps=60, step_size=0.01, objective=invert_ranks(CLEAN))(score, IMAGES, KEY))
    assert srocc(np.asarray(halves), CLEAN) > -1


def test_ties_of_the_order_keep_their_places():
    assert mirror_ranks([1.0, 1.0, 0.0], [5.0, 6.0, 7.0]).target.tolist() == [6.0, 5.0, 7.0]


@pytest.mark.parametrize(
    ("order", "sign"),
    [
        ([1, 1, 0], [-1, -1, 1]),  # the median is the highest label
        ([0, 0, 1], [1, 1, -1]),
        ([3, 3, 3, 3, 5, 5, 5, 5, 5, 5], 4 * [1] + 6 * [-1]),
        ([1, 2, 2, 3], [1, 1, 1, -1]),  # both splits are as near: the larger low half
        ([1, 2, 3, 4, 5], [1, 1, 1, -1, -1]),
        ([4, 1, 3, 2], [-1, 1, -1, 1]),
    ],
)
def test_equal_labels_are_in_one_half_and_both_halves_are_attacked(order, sign):
    assert invert_ranks(order).sign.tolist() == sign
    raised, lowered = 10.0 + np.arange(len(order)), -10.0 - np.arange(len(order))
    found = combined({"up": raised, "down": lowered}, np.asarray(order, float))
    np.testing.assert_array_equal(found, np.where(np.asarray(sign) > 0, raised, lowered))


def test_an_attack_on_tied_labels_lowers_the_better_images():
    order = np.array([3.0] * 2 + [5.0] * 4)
    several = attacks.rank_attacks(EPSILON, invert_ranks(order), queries=0)
    attacked = np.asarray(several["PGD-10, steps of ε/5"](score, IMAGES, KEY))
    np.testing.assert_array_equal(np.sign(score(attacked) - CLEAN), [1, 1, -1, -1, -1, -1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epsilon": "2/255"}, ValueError, r"epsilon='2/255' is not a number; write 2 / 255"),
        ({"queries": 1}, ValueError, "queries=1"),
        ({"queries": None}, ValueError, "queries=None is not allowed"),
        ({"sources": score}, TypeError, "members is a .*; expected a list of score functions"),
    ],
)
def test_bad_arguments_of_the_ensemble_are_named(change, error, message, monkeypatch):
    rank_attacks = inspect.unwrap(attacks.rank_attacks)  # without the type checks of the tests
    monkeypatch.setitem(rank_attacks.__globals__, "ensemble", inspect.unwrap(attacks.ensemble))
    options = {"epsilon": EPSILON, "objective": invert_ranks(CLEAN), "queries": 0} | change
    with pytest.raises(error, match=message):
        rank_attacks(options.pop("epsilon"), options.pop("objective"), **options)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([1.0], "at least two"),
        ([[1.0, 2.0]], r"shape \(1, 2\)"),
        ([1.0, np.nan], "not finite"),
        ([2.0, 2.0], "all equal"),
    ],
)
def test_what_is_no_order_is_refused(order, message):
    with pytest.raises(ValueError, match=message):
        invert_ranks(np.asarray(order))
    with pytest.raises(ValueError, match=message):
        mirror_ranks(np.asarray(order), np.asarray(order))


def test_scores_of_another_number_of_images_are_refused():
    with pytest.raises(ValueError, match=r"scores has shape \(3,\); expected one score per image, \(2,\)"):
        mirror_ranks([1.0, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "without gradient"])
def test_a_defended_metric_is_attacked_through_its_defense(kind):
    """By the mean over fixed draws, or by the gradient of the identity; the plain gradient is zero."""

    def noise(images, key):
        return images + 0.05 * jax.random.normal(key, images.shape)

    def rounded(images, key):
        return jnp.round(64 * images) / 64

    keys = jax.random.split(jax.random.key(8), 4)
    defended = eot(score, noise, keys) if kind == "random" else eot(score, bpda(rounded), keys[:1])
    other = eot(score, noise, jax.random.split(jax.random.key(9), 4)) if kind == "random" else defended
    clean = np.asarray(other(IMAGES))
    several = attacks.rank_attacks(EPSILON, invert_ranks(clean), queries=0)
    found = {label: np.asarray(other(attack(defended, IMAGES, KEY))) for label, attack in several.items()}
    value = worst_srocc(found, clean)[0]
    assert value < 0
    low = np.median(clean) >= clean
    for scores in found.values():
        assert (scores[low] > clean[low]).all()
        assert (scores[~low] < clean[~low]).all()
    if kind == "without gradient":
        bare = lambda x: score(rounded(x, None))  # noqa: E731
        stuck = several["PGD-10, steps of ε/5"](bare, IMAGES, KEY)
        assert srocc(np.asarray(bare(stuck)), clean) > value
