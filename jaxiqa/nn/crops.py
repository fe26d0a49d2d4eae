"""Square crops of images: ``b h w c`` -> ``(b·n) s s c``, the crops of image 0 first.

The fixed crops depend only on the image size, so a compiled program contains them as plain slices.
"""

from math import ceil, floor, isqrt, sqrt

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_number
from jaxiqa.core.images import check_images
from jaxiqa.core.types import Images, PRNGKey

Crops = Float[Array, "b_n s s c"]
Positions = list[tuple[int, int]]


def grid_crops(images: Images, size: int, count: int) -> Crops:
    """Return ``count`` evenly spaced crops from edge to edge; fewer if an image has fewer positions.

    Args:
        images: ``b h w c``, both sides at least ``size``.
        size: side of a crop.
        count: number of crops per image; `grid_positions` gives their positions.

    Raises:
        ValueError: an image smaller than a crop, or a number below 1.

    >>> image = jnp.arange(12.0).reshape(1, 3, 4, 1)
    >>> grid_crops(image, 2, 4)[..., 0].tolist()
    [[[0.0, 1.0], [4.0, 5.0]], [[2.0, 3.0], [6.0, 7.0]], [[4.0, 5.0], [8.0, 9.0]], [[6.0, 7.0], [10.0, 11.0]]]
    """
    _check(images, size, count)
    return _take(images, size, grid_positions(images.shape[1], images.shape[2], size, count))


def random_crops(images: Images, size: int, count: int, key: PRNGKey) -> Crops:
    """Return ``count`` crops at uniformly random positions, drawn independently for every crop of every image.

    Args:
        images: ``b h w c``, both sides at least ``size``.
        size: side of a crop.
        count: number of crops per image.
        key: a `jax.random.key`; the same key gives the same positions.

    Raises:
        ValueError: an image smaller than a crop, or a number below 1.

    >>> random_crops(jnp.zeros((2, 5, 6, 3)), 4, 10, jax.random.key(0)).shape
    (20, 4, 4, 3)
    """
    _check(images, size, count)
    b, h, w, c = images.shape
    free = jnp.array([h - size + 1, w - size + 1])
    corners = jax.random.randint(key, (b, count, 2), 0, free)

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, c))

    return jax.vmap(jax.vmap(crop, (None, 0)))(images, corners).reshape(b * count, size, size, c)


def uniform_crops(images: Images, size: int, count: int) -> Crops:
    """Return pyiqa's crops: the first ``count`` of a square grid that may not reach the right and bottom edges.

    With ``r = √count`` the crops begin at multiples of ``(side - size) // ⌊r⌋``, ``⌈r⌉`` of them per row. If the
    shorter side is at most ``size``, images are first enlarged (bilinear) until it has ``size + 1`` pixels.

    Args:
        images: ``b h w c`` of any size.
        size: side of a crop.
        count: number of crops per image.

    Raises:
        ValueError: a number below 1.

    >>> image = jnp.arange(49.0).reshape(1, 7, 7, 1)
    >>> uniform_crops(image, 1, 9)[:, 0, 0, 0].tolist()
    [0.0, 2.0, 4.0, 14.0, 16.0, 18.0, 28.0, 30.0, 32.0]
    """
    _check(images, size, count, minimum=1)
    images = _enlarge(images, size)
    row, column = ((side - size) // isqrt(count) for side in images.shape[1:3])
    per_row = ceil(sqrt(count))
    return _take(images, size, [(i // per_row * row, i % per_row * column) for i in range(count)])


def stride_crops(images: Images, size: int, stride: int) -> Crops:
    """Return a crop every ``stride`` pixels, row by row, and one at the edge if none ends there.

    Args:
        images: ``b h w c``, both sides at least ``size``.
        size: side of a crop.
        stride: distance of neighbours, in pixels.

    Raises:
        ValueError: an image smaller than a crop, or a number below 1.

    >>> stride_crops(jnp.arange(6.0).reshape(1, 1, 6, 1), 1, 2)[:, 0, 0, 0].tolist()
    [0.0, 2.0, 4.0, 5.0]
    """
    _check(images, size)
    check_number("stride", stride, 1)
    rows, columns = (_strides(side, size, stride) for side in images.shape[1:3])
    return _take(images, size, [(row, column) for row in rows for column in columns])


def grid_positions(height: int, width: int, size: int, count: int) -> Positions:
    """Return (top, left) of ``count`` evenly spaced crops, row by row.

    The number of rows is the one that covers most of the image and, among equals, has the smallest maximal distance of
    neighbours. If it does not divide ``count``, some rows have one crop more. Every row goes from the left to the right
    edge, the rows go from the top to the bottom edge, and a single crop lies in the middle.

    >>> grid_positions(512, 384, 224, 10)
    [(0, 0), (0, 80), (0, 160), (144, 0), (144, 80), (144, 160), (288, 0), (288, 53), (288, 107), (288, 160)]
    """

    def rank(rows: int) -> tuple[int, float, float]:
        sides = ((height, rows), (width, count // rows))
        covered_height, covered_width = (min(side, number * size) for side, number in sides)
        steps = [(side - size) / max(number - 1, 1) for side, number in sides]
        return -covered_height * covered_width, max(steps), sum(steps)

    rows = min(range(1, count + 1), key=rank)
    positions = []
    for i, top in enumerate(_spread(height - size, rows)):
        columns = (i + 1) * count // rows - i * count // rows
        positions += [(top, left) for left in _spread(width - size, columns)]
    return list(dict.fromkeys(positions))  # in an image hardly larger than a crop, positions repeat


def _spread(free: int, count: int) -> list[int]:
    return [free // 2] if count == 1 else [floor(free * i / (count - 1) + 0.5) for i in range(count)]


def _strides(side: int, size: int, stride: int) -> list[int]:
    return sorted({*range(0, side - size + 1, stride), side - size})


def _take(images: Images, size: int, positions: Positions) -> Crops:
    crops = [images[:, top : top + size, left : left + size] for top, left in positions]
    return jnp.stack(crops, axis=1).reshape(-1, size, size, images.shape[3])


def _enlarge(images: Images, size: int) -> Float[Array, "b _ _ c"]:
    b, h, w, c = images.shape
    if min(h, w) > size:
        return images
    scale = (size + 1) / min(h, w)  # the exact factor, not that of the rounded sides
    shape = (b, floor(h * scale), floor(w * scale), c)
    return jax.image.scale_and_translate(
        images, shape, (1, 2), jnp.full(2, scale), jnp.zeros(2), "linear", antialias=False
    )


def _check(images: Images, size: int, count: int = 1, *, minimum: int | None = None) -> None:
    check_number("size", size, 1)
    check_number("count", count, 1)
    check_images("images", images, minimum=size if minimum is None else minimum)
