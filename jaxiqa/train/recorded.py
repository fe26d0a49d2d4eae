"""Outputs of chosen parts of a metric, averaged over a grid of cells, for images in a batch."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.types import Images
from jaxiqa.layers.materialize import children, replace
from jaxiqa.models.metric import Metric

Path = tuple[Any, ...]


class _Recorded:
    """Replace a module: call it, and store the cell means of its output."""

    def __init__(self, module: Any, store: dict[Path, Array], path: Path, grid: int):
        self._module, self._store, self._path, self._grid = module, store, path, grid

    def __call__(self, x: Any, *arguments: Any, **options: Any) -> Any:
        y = self._module(x, *arguments, **options)
        found = cell_means(y, self._grid)
        self._store[self._path] = self._store.get(self._path, 0) + found  # of a module that is used twice, the sum
        return y

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def record(
    model: Metric, images: Images, paths: Collection[Path], *, grid: int = 1
) -> tuple[dict[str, Array], dict[Path, Float[Array, "b _"]]]:
    """Return the metric's training outputs, and the cell means of the outputs of these parts, in running order.

    Args:
        model: the metric, in any mode; changed in place, so pass a copy (`jaxiqa.train.state.merge_model` returns one).
        images: ``b h w c``.
        paths: of modules whose outputs are maps, ``b h w c``; as in the state of the model, without the parameter.
        grid: cells per axis.

    Returns:
        The training outputs (`jaxiqa.models.metric.Metric.outputs`); and path -> ``b (grid · grid · c)``, the mean over
        the items (crops) of an image.

    >>> from jaxiqa.models import build
    >>> model, images = build("resnet18", width=4), jnp.zeros((2, 40, 40, 3))
    >>> outputs, found = record(model, images, [("backbone", "stage", "conv1")], grid=2)
    >>> [(path[-1], means.shape) for path, means in found.items()]
    [('conv1', (2, 16))]
    """
    store: dict[Path, Array] = {}
    wanted = {tuple(path) for path in paths}
    names = {id(module): path for path, module in nnx.iter_modules(model) if path in wanted}
    for _, parent in list(nnx.iter_modules(model)):
        for key, child in list(children(parent)):
            if id(child) in names:
                replace(parent, key, _Recorded(child, store, names[id(child)], grid))
    outputs, count = model.outputs(images), images.shape[0]
    return outputs, {path: jnp.mean(x.reshape(count, -1, x.shape[-1]), axis=1) for path, x in store.items()}


def cell_means(x: Float[Array, "b h w c"], grid: int) -> Float[Array, "b _"]:
    """Return the means over ``grid × grid`` equal cells, flattened; rows and columns that are left over are not used.

    A map that is smaller than the grid is one cell.

    >>> cell_means(jnp.arange(6.0).reshape(1, 2, 3, 1), 1).tolist(), cell_means(jnp.ones((1, 5, 4, 3)), 2).shape
    ([[2.5]], (1, 12))
    """
    b, h, w, c = x.shape
    if min(h, w) < grid:
        grid = 1
    rows, columns = h // grid, w // grid
    cells = x[:, : rows * grid, : columns * grid].reshape(b, grid, rows, grid, columns, c)
    return jnp.mean(cells, axis=(2, 4)).reshape(b, -1)


def batched(function: Any, images: Any, batch_size: int) -> dict[Any, Any]:
    """Call ``function(batch)`` on batches of one size and join the results along the first axis."""
    count, parts = len(images), []
    for first in range(0, count, batch_size):
        indices = [min(first + i, count - 1) for i in range(batch_size)]  # the last batch repeats its last image
        found = jax.device_get(function(jnp.asarray(images[jnp.asarray(indices)])))
        parts.append({path: x[: count - first] for path, x in found.items()})
    return {path: jnp.concatenate([part[path] for part in parts]) for path in parts[0]}
