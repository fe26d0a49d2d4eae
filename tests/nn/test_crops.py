"""Positions of crops, tested on images whose pixels hold their own coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.nn import crops


def coordinates(height: int, width: int) -> jax.Array:
    rows, columns = jnp.meshgrid(jnp.arange(height, dtype=float), jnp.arange(width, dtype=float), indexing="ij")
    return jnp.stack([rows, columns, jnp.zeros_like(rows)], axis=-1)[None]


def corners(result) -> list[tuple[int, int]]:
    size = result.shape[1]
    np.testing.assert_array_equal(result[:, -1, -1, :2] - result[:, 0, 0, :2], size - 1)
    return [tuple(map(int, corner)) for corner in result[:, 0, 0, :2]]


def test_grid_of_a_prime_number_of_crops_reaches_every_edge():
    assert corners(crops.grid_crops(coordinates(20, 33), 10, 7)) == [
        *[(0, 0), (0, 12), (0, 23)],
        *[(10, 0), (10, 8), (10, 15), (10, 23)],
    ]


@pytest.mark.parametrize(("height", "width", "count"), [(512, 384, 10), (512, 384, 25), (512, 768, 20), (301, 999, 13)])
def test_grid_covers_the_image(height, width, count):
    covered = np.zeros((height, width), bool)
    positions = crops.grid_positions(height, width, 224, count)
    for top, left in positions:
        covered[top : top + 224, left : left + 224] = True
    assert covered.all()
    assert len(positions) == count


def test_grid_repeats_no_position():
    assert crops.grid_positions(224, 224, 224, 10) == [(0, 0)]
    assert crops.grid_positions(224, 226, 224, 10) == [(0, 0), (0, 1), (0, 2)]
    assert crops.grid_positions(227, 224, 224, 1) == [(1, 0)]


def test_uniform_crops_are_at_the_positions_of_pyiqa():
    # √25 = 5 a row and a step of 33 // 5 = 6, so the last crop ends at pixel 24 + 10 of 43.
    expected = [(row, column) for row in (0, 6, 12, 18, 24) for column in (0, 2, 4, 6, 8)]
    assert corners(crops.uniform_crops(coordinates(43, 20), 10, 25)) == expected
    # √20 = 4.47: five a row, a step of 33 // 4 = 8, and there is no fifth row.
    expected = [(row, column) for row in (0, 8, 16, 24) for column in (0, 2, 4, 6, 8)]
    assert corners(crops.uniform_crops(coordinates(43, 20), 10, 20)) == expected


@pytest.mark.slow
def test_uniform_crops_enlarge_small_images():
    # 4 x 6 -> 9 x 13 by the factor 9/4: output pixel i reads the input at (i + 1/2) · 4/9 - 1/2, edges repeated.
    result = crops.uniform_crops(coordinates(4, 6), 8, 1)
    expected = np.clip((np.arange(8) + 0.5) * 4 / 9 - 0.5, 0, 3)
    np.testing.assert_allclose(result[0, :, 0, 0], expected, atol=1e-5)
    np.testing.assert_allclose(result[0, 0, :, 1], np.clip((np.arange(8) + 0.5) * 4 / 9 - 0.5, 0, 5), atol=1e-5)


@pytest.mark.slow
def test_random_crops_are_drawn_for_each_image_and_repeat_with_the_key():
    images = jnp.tile(coordinates(12, 9), (2, 1, 1, 1))
    draw = jax.jit(lambda key: crops.random_crops(images, 5, 40, key))
    places = corners(draw(jax.random.key(0)))
    assert places == corners(crops.random_crops(images, 5, 40, jax.random.key(0)))
    assert places != corners(draw(jax.random.key(1)))
    assert places[:40] != places[40:]
    assert {top for top, _ in places} == set(range(8))  # the last row and column can be drawn, nothing beyond
    assert {left for _, left in places} == set(range(5))


@pytest.mark.parametrize("crop", [crops.grid_crops, crops.uniform_crops])
def test_crops_of_a_batch_are_those_of_its_images(crop):
    images = jax.random.uniform(jax.random.key(0), (3, 11, 13, 3))
    alone = jnp.concatenate([crop(image[None], 5, 6) for image in images])
    np.testing.assert_array_equal(crop(images, 5, 6), alone)


def test_the_gradient_of_a_pixel_counts_its_crops():
    gradient = jax.grad(lambda x: crops.grid_crops(x, 2, 2).sum())(jnp.zeros((1, 2, 3, 1)))
    assert gradient[0, ..., 0].tolist() == [[1, 2, 1], [1, 2, 1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: crops.grid_crops(x, 8, 4), "images is 7x9; both sides must be at least 8 pixels"),
        (lambda x: crops.random_crops(x, 8, 4, jax.random.key(0)), "images is 7x9; both sides must be at least 8"),
        (lambda x: crops.stride_crops(x, 8, 4), "images is 7x9; both sides must be at least 8"),
        (lambda x: crops.grid_crops(x, 4, 0), "count=0 is outside"),
        (lambda x: crops.uniform_crops(x, 0, 4), "size=0 is outside"),
        (lambda x: crops.stride_crops(x, 4, 0), "stride=0 is outside"),
    ],
)
def test_errors_name_the_bad_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((1, 7, 9, 3)))
