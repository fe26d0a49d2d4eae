"""RoI pooling: regions of a feature map, each max-pooled to 2x2 cells.

"Fast R-CNN", arXiv:1504.08083; the bins are those of torchvision's ``RoIPool((2, 2), 1 / 32)``.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxiqa.core.pytrees import is_traced

STRIDE = 32  # pixels per cell of the map
Rows = Int[np.ndarray, "n k"] | Int[Array, "n k"]
Columns = Int[np.ndarray, "m l"] | Int[Array, "m l"]


def roi_bins(side: int, cells: int, count: int) -> Int[np.ndarray, "bins k"]:
    """Return, along one axis, the cells of each bin of RoI pooling, for ``count`` regions with two bins each.

    Region i lies between pixels ``i/count`` and ``(i+1)/count`` of ``side``. Both ends are divided by 32 and rounded
    (halves up); the cell at the second end is included. Bin j covers ``⌊j·n/2⌋ … ⌈(j+1)·n/2⌉`` of the region's n cells,
    clipped to the map: neighbouring bins may share a cell, and a bin may be empty.

    Args:
        side: of the image, in pixels.
        cells: of the feature map.
        count: of the regions.

    Returns:
        Indices of cells; shorter bins repeat their last cell; an empty bin is filled with -1.

    >>> roi_bins(160, 5, 1).tolist()
    [[0, 1, 2], [3, 4, 4]]
    >>> roi_bins(64, 2, 2).tolist()  # from 32 to 64 pixels, cells 1 to 2, and there is no cell 2
    [[0], [1], [1], [-1]]
    """
    edges = np.floor(np.linspace(0, side, count + 1).astype(np.float32).astype(np.float64) / STRIDE + 0.5).astype(int)
    bins = []
    for first, last in pairwise(edges):
        size = last - first + 1
        for low, high in ((0, (size + 1) // 2), (size // 2, size)):
            bins.append([cell for cell in range(first + low, first + high) if cell < cells] or [-1])
    longest = max(map(len, bins))
    return np.array([cover + [cover[-1]] * (longest - len(cover)) for cover in bins])


def roi_max_pool(x: Float[Array, "b h w c"], rows: Rows, columns: Columns) -> Float[Array, "b n m c"]:
    """Return the maximum over each pair of a row bin and a column bin (`roi_bins`, `box_bins`); 0 if either is empty.

    >>> x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    >>> roi_max_pool(x, np.array([[0, 1], [-1, -1]]), np.array([[0], [2]]))[..., 0].tolist()
    [[[3.0, 5.0], [0.0, 0.0]]]
    """
    filled = (rows[:, 0] >= 0)[:, None] & (columns[:, 0] >= 0)
    x = x[:, rows].max(2)
    x = x[:, :, columns].max(3)
    return jnp.where(filled[:, :, None], x, 0.0)


def box_bins(low: Float[Array, ""], high: Float[Array, ""], cells: int) -> Int[Array, "2 k"]:
    """Return, along one axis, the cells of both bins of a region from ``low`` to ``high`` pixels: `roi_bins` for data.

    >>> box_bins(jnp.float32(32), jnp.float32(64), 2).tolist()
    [[1, 1], [-1, -1]]
    """
    first, last = (jnp.floor(x) + (x - jnp.floor(x) >= 0.5) for x in (low / STRIDE, high / STRIDE))
    first, last = first.astype(int), last.astype(int)
    size = last - first + 1
    starts = first + jnp.stack([jnp.zeros_like(size), size // 2])
    ends = jnp.minimum(first + jnp.stack([(size + 1) // 2, size]), cells)
    longest = (cells + 2) // 2  # a region ends at most one cell behind the map
    cover = jnp.minimum(starts[:, None] + jnp.arange(longest), ends[:, None] - 1)
    return jnp.where((starts < ends)[:, None], cover, -1)


def pool_boxes(x: Float[Array, "b h w c"], boxes: Float[Array, "b r 4"]) -> Float[Array, "b r 2 2 c"]:
    """Return the regions of boxes (left, top, right, bottom in pixels, inside the image), each in 2x2 cells."""

    def pool(x: Float[Array, "h w c"], box: Float[Array, "4"]) -> Float[Array, "2 2 c"]:
        left, top, right, bottom = box
        rows, columns = box_bins(top, bottom, x.shape[0]), box_bins(left, right, x.shape[1])
        return roi_max_pool(x[None], rows, columns)[0]

    return jax.vmap(jax.vmap(pool, (None, 0)))(x, boxes)


def check_boxes(boxes: Array | np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` unless ``boxes`` is ``b r 4`` for images of ``shape``, each box inside and not empty.

    >>> check_boxes(np.array([[[0.0, 0.0, 9.0, 8.0]]]), (1, 8, 8, 3))
    Traceback (most recent call last):
    ValueError: boxes[0, 0] is [0.0, 0.0, 9.0, 8.0]; expected 0 <= left < right <= 8 and 0 <= top < bottom <= 8
    """
    if boxes.ndim != 3 or boxes.shape[0] != shape[0] or boxes.shape[2] != 4:
        raise ValueError(f"boxes has shape {tuple(boxes.shape)}; expected ({shape[0]}, r, 4): four numbers per box")
    if is_traced(boxes):
        return
    left, top, right, bottom = np.moveaxis(np.asarray(boxes), -1, 0)
    height, width = shape[1:3]
    inside = (left >= 0) & (left < right) & (right <= width) & (top >= 0) & (top < bottom) & (bottom <= height)
    if not inside.all():
        image, number = map(int, np.argwhere(~inside)[0])
        raise ValueError(
            f"boxes[{image}, {number}] is {np.asarray(boxes)[image, number].tolist()}; expected "
            f"0 <= left < right <= {width} and 0 <= top < bottom <= {height}"
        )
