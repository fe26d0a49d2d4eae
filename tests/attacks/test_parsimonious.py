"""Parsimonious: the optimum of an additive score, and the lazy greedy search."""

import heapq

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from black_box import KEY, linear, make_images, weights

from jaxiqa.attacks.parsimonious import Parsimonious
from jaxiqa.core.keys import image_keys

pytestmark = pytest.mark.slow  # the contract of all attacks is in test_attacks.py


@pytest.mark.parametrize("candidates", [1, 5])
def test_parsimonious_reaches_the_optimum_of_an_additive_score(candidates):
    images, direction = make_images((2, 5, 7, 3)), weights((5, 7, 3))
    attack = Parsimonious(0.1, queries=600, block=4, candidates=candidates)
    attacked = attack(linear(direction), images, KEY)
    np.testing.assert_allclose(attacked, jnp.clip(images + 0.1 * jnp.sign(direction), 0, 1), atol=1e-6)


def lazy_greedy(objective, order, budget):
    """Run the paper's search with a heap on one set of single values, until ``budget`` evaluations are used."""
    signs, left, best = -np.ones(len(order)), budget - 1, -np.inf

    def ask(signs):
        nonlocal left, best
        if not left:
            raise StopIteration
        left -= 1
        value = objective(signs)
        best = max(best, value)
        return value

    def flipped(place):
        other = signs.copy()
        other[place] *= -1
        return other

    try:
        value = ask(signs)
        while True:
            for sign, enough in ((-1, lambda gain: gain >= 0), (1, lambda gain: gain > 0)):
                heap = [(value - ask(flipped(place)), place) for place in order[signs[order] == sign]]
                heapq.heapify(heap)
                asked = set(order)  # since the signs last changed
                while heap:
                    loss, place = heapq.heappop(heap)
                    if place not in asked:
                        loss = value - ask(flipped(place))
                        asked.add(place)
                        if heap and loss > heap[0][0]:
                            heapq.heappush(heap, (loss, place))
                            continue
                    if not enough(-loss):
                        break
                    signs, value, asked = flipped(place), value - loss, set()
    except StopIteration:
        return best


@pytest.mark.parametrize("budget", [90, 130, 260])
def test_parsimonious_equals_the_lazy_greedy_search_with_a_heap(budget):
    """The score is quadratic with interactions, so that bounds become outdated and wrong."""
    random = np.random.default_rng(0)
    pull, push = random.normal(size=(60, 60)) / 4, random.normal(size=60)
    images = jnp.full((1, 4, 5, 3), 0.5)

    def score(images):
        signs = jnp.sign(images - 0.5).reshape(len(images), -1)
        return signs @ jnp.asarray(push, jnp.float32) + ((signs @ jnp.asarray(pull, jnp.float32)) * signs).sum(1)

    attack = Parsimonious(0.1, queries=budget, block=1)
    start = jax.random.split(image_keys(KEY, 1)[0])[0]
    order = np.asarray(attack.start(images[0], jnp.zeros(()), start).order)
    best = lazy_greedy(lambda signs: float(signs @ push + signs @ pull @ signs), order, budget)
    assert abs(float(attack.run(score, images, KEY).scores[0]) - best) < 1e-3


def test_parsimonious_flips_whole_blocks_per_channel():
    images = jnp.full((1, 8, 12, 3), 0.5)
    direction = -jnp.ones((8, 12, 3)).at[4:, 4:8, 1].set(-1.0)
    attacked = Parsimonious(0.1, queries=25, block=4)(linear(direction), images, KEY)
    np.testing.assert_allclose(attacked[0], 0.5 + 0.1 * direction, atol=1e-6)
