"""Square: linear optima, the published formula and schedule, and the benchmark's variant."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from black_box import KEY, linear, make_images, weights

from jaxiqa.attacks.engine.schedule import phase
from jaxiqa.attacks.square import Square, _bump

pytestmark = pytest.mark.slow  # the contract of all attacks is in test_attacks.py


def test_square_reaches_most_of_a_linear_optimum_in_linf():
    images, direction = make_images((2, 7, 8, 3)), weights((7, 8, 3))
    result = Square(0.1, queries=1500).run(linear(direction), images, KEY)
    best = linear(direction)(jnp.clip(images + 0.1 * jnp.sign(direction), 0, 1))
    clean = linear(direction)(images)
    assert ((result.scores - clean) > 0.9 * (best - clean)).all()


def test_square_gains_much_of_a_linear_optimum_in_l2():
    images, direction = 0.4 + 0.2 * make_images((2, 11, 16, 3)), weights((11, 16, 3))
    result = Square(1.0, queries=1000, norm="l2").run(linear(direction), images, KEY)
    gain = result.scores - linear(direction)(images)
    # On such weights at 32×32 torchattacks 3.5.1 reaches 0.22 to 0.24 of the optimum, jaxiqa 0.26 to 0.28.
    assert (gain > 0.3 * jnp.linalg.norm(direction)).all()
    np.testing.assert_allclose(jnp.linalg.norm((result.images - images).reshape(2, -1), axis=1), 1, atol=1e-5)


def test_the_l2_bump_equals_the_papers_formula():
    """η of equation (2) in arXiv:1912.00049, summed square by square, in a 7×7 window at row 1, column 2."""
    side, expected = 7, np.zeros((7, 7))
    for first, height in ((0, 3), (3, 4)):
        rectangle = np.zeros((height, side))
        for reach in range(side // 2 + 1):
            row, column = height // 2, side // 2
            rectangle[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1] += (
                1 / (reach + 1) ** 2
            )
        expected[first : first + height] = rectangle / np.linalg.norm(rectangle) * (-1 if first else 1)
    bump = np.asarray(_bump(jnp.arange(9)[:, None] - 1, jnp.arange(11)[None] - 2, 7))[..., 0]
    np.testing.assert_allclose(bump[1:8, 2:9], expected / math.sqrt(2), atol=1e-6)
    assert abs(np.linalg.norm(bump) - 1) < 1e-6


def test_square_covers_the_image_and_its_benchmark_variant_a_corner_only():
    images = jnp.full((1, 257, 300, 3), 0.5)
    brightness = lambda x: x.mean((1, 2, 3))  # noqa: E731
    changed = {}
    for variant in ("paper", "benchmark"):
        attack = Square(0.1, queries=25, share=0.5, variant=variant)
        changed[variant] = np.asarray(attack(brightness, images, KEY) != images)[0].any(-1)
    assert changed["paper"].all()  # the stripes
    assert changed["benchmark"][:256, :256].any()
    assert not changed["benchmark"][256:].any()
    assert not changed["benchmark"][:, 256:].any()
    repainted = np.asarray(Square(0.1, queries=300, share=0.8)(brightness, images, KEY))[0, ..., 0]
    rows, columns = np.nonzero(repainted != repainted[:1])  # rows that no longer equal the first: the stripes are gone
    assert rows.max() > 250
    assert columns.max() > 290


def test_the_schedule_of_square_is_the_published_table_rescaled():
    table = [(10, 1), (50, 2), (200, 4), (500, 8), (1000, 16), (2000, 32), (4000, 64), (6000, 128), (8000, 256)]
    for total in (10_000, 777, 30):
        for iteration in {0, 1, total // 100, total // 50, total // 7, total // 3, total - 1}:
            scaled = iteration * 10_000 // total
            divisor = next((by for last, by in table if scaled <= last), 512)
            assert 2 ** int(phase(iteration, total)) == divisor
