"""Pruning as masks: 0/1 arrays for the convolution kernels, under the same names.

A mask is computed once from trained parameters and multiplied in after every later update, so pruned weights stay
zero. Only 4-D ``kernel`` entries (convolutions, ``kh kw cin cout``) are pruned, never biases or batch normalisation.
Kernels that parametrise a unitary matrix are not pruned: a smaller generator removes no channel from the orthogonal map
it generates.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxiqa.core.checks import check_choice, check_number

Tree = dict[Any, Any]
Masks = Mapping[tuple, np.ndarray]


def l2_filters(kernels: dict[tuple, np.ndarray], amount: float, earlier: Masks) -> dict[tuple, np.ndarray]:
    """Prune, per layer, the ``amount`` share of output filters with the smallest L2 norm (structured pruning)."""
    masks = {}
    for path, kernel in kernels.items():
        norms = np.sqrt(np.sum(np.square(kernel, dtype=np.float64), axis=(0, 1, 2)))
        norms[removed_filters(path, kernel, earlier)] = -1
        removed = np.argsort(norms, kind="stable")[: round(amount * len(norms))]
        keep = np.ones(kernel.shape[-1], np.float32)
        keep[removed] = 0
        masks[path] = np.broadcast_to(keep, kernel.shape)
    return masks


def l1_weights(kernels: dict[tuple, np.ndarray], amount: float, earlier: Masks) -> dict[tuple, np.ndarray]:
    """Prune, over all layers together, the ``amount`` share of single weights with the smallest magnitude."""
    if not kernels:
        return {}
    kept = {path: np.asarray(earlier.get(path, np.ones(kernel.shape)), bool) for path, kernel in kernels.items()}
    magnitudes = np.concatenate([np.where(kept[path], np.abs(kernel), -1).ravel() for path, kernel in kernels.items()])
    keep = np.ones(len(magnitudes), np.float32)
    keep[np.argsort(magnitudes, kind="stable")[: round(amount * len(magnitudes))]] = 0
    ends = np.cumsum([kernel.size for kernel in kernels.values()])[:-1]
    parts = np.split(keep, ends)
    return {path: part.reshape(kernel.shape) for (path, kernel), part in zip(kernels.items(), parts, strict=True)}


def scored_filters(
    kernels: Mapping[tuple, np.ndarray], scores: Mapping[tuple, np.ndarray], amount: float, earlier: Masks
) -> dict[tuple, np.ndarray]:
    """Prune, over all layers together, the ``amount`` share of filters with the smallest scores.

    A layer that would lose all of its filters keeps those that it has.

    Args:
        kernels: ``kh kw cin cout`` by path.
        scores: one number per filter, by the path of the layer (without ``"kernel"``).
        amount: share of all filters.
        earlier: earlier masks; what they remove stays removed.

    >>> kernel = np.ones((1, 1, 1, 2))
    >>> kernels = {("a", "kernel"): kernel, ("b", "kernel"): kernel}
    >>> masks = scored_filters(kernels, {("a",): np.array([1, 4]), ("b",): np.array([3, 2])}, 0.5, {})
    >>> masks["a", "kernel"].ravel().tolist(), masks["b", "kernel"].ravel().tolist()
    ([0.0, 1.0], [1.0, 0.0])
    """
    gone = {path: removed_filters(path, kernel, earlier) for path, kernel in kernels.items()}
    values = np.concatenate([np.where(gone[path], -np.inf, scores[path[:-1]]) for path in kernels])
    keep = np.ones(len(values), np.float32)
    keep[np.argsort(values, kind="stable")[: round(amount * len(values))]] = 0
    ends = np.cumsum([kernel.shape[-1] for kernel in kernels.values()])[:-1]
    parts = zip(kernels.items(), np.split(keep, ends), strict=True)
    return {
        path: np.broadcast_to(part if part.any() else np.float32(~gone[path]), kernel.shape)
        for (path, kernel), part in parts
    }


def removed_filters(path: tuple, kernel: np.ndarray, masks: Masks) -> np.ndarray:
    """Return, for each filter of a layer, whether ``masks`` remove all of it.

    >>> removed_filters(("a",), np.ones((1, 1, 1, 2)), {("a",): np.array([[[[0, 1]]]])}).tolist()
    [True, False]
    """
    return ~np.any(masks[path], axis=(0, 1, 2)) if path in masks else np.zeros(kernel.shape[-1], bool)


CRITERIA: dict[str, Callable] = {"l2": l2_filters, "l1": l1_weights}
"""Criteria that need only the weights."""

FROM_DATA = ("pls", "displs", "hsic")
"""Criteria that need labelled images too: `jaxiqa.train.criteria`."""


def make_masks(
    params: Tree,
    *,
    amount: float,
    criterion: str = "l2",
    exclude: tuple[str, ...] = ("orthogonal",),
    scores: Mapping[tuple, np.ndarray] | None = None,
    earlier: Tree | None = None,
) -> Tree:
    """Return masks for the convolution kernels in ``params``.

    Args:
        params: nested dict of arrays by module path.
        amount: share to remove, in [0, 1).
        criterion: ``"l2"`` (whole output filters, per layer) or ``"l1"`` (single weights, over all layers).
        exclude: module names whose kernels are not pruned.
        scores: one number per filter, by the path of its layer; if given, the filters with the smallest are removed,
            whatever the criterion: `scored_filters`.
        earlier: earlier masks. What they remove is ranked below all else, so it stays removed.

    Returns:
        A nested dict with the paths of the pruned kernels only, for `apply_masks`.

    >>> kernel = np.ones((3, 3, 4, 10), np.float32) * np.arange(1, 11)
    >>> masks = make_masks({"conv": {"kernel": kernel, "bias": np.ones(10)}}, amount=0.1)
    >>> masks["conv"]["kernel"][0, 0, 0].tolist()
    [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]

    **Differs from the paper**: the code of "Robustness as Architecture", arXiv:2506.04951, also masks the raw weight of
    its Cayley convolution.
    """
    check_masks(params, amount=amount, criterion=criterion, exclude=exclude)
    kernels = {path: np.asarray(leaf) for path, leaf in prunable(params, exclude)}
    given = {path: np.asarray(mask) for path, mask in _leaves(earlier or {})}
    if scores is None:
        found = CRITERIA[criterion](kernels, amount, given)
    else:
        found = scored_filters(kernels, scores, amount, given)
    return nested({path: jnp.asarray(mask) for path, mask in found.items()})


def check_masks(
    params: Tree, *, amount: float, criterion: str = "l2", exclude: tuple[str, ...] = ("orthogonal",)
) -> None:
    """Raise ``ValueError`` if `make_masks` would remove nothing, or all filters of a layer.

    Args:
        params: as for `make_masks`; shapes are enough.
        amount, criterion, exclude: as for `make_masks`.

    >>> check_masks({"conv": {"kernel": np.ones((3, 3, 4, 10))}}, amount=0.01)
    Traceback (most recent call last):
    ValueError: amount=0.01 removes nothing: the largest layer has 10 filters; choose at least 0.051
    """
    check_number("amount", amount, 0.0, 0.999999)
    check_choice("criterion", criterion, (*CRITERIA, *FROM_DATA))
    kernels = prunable(params, exclude)
    if not amount:
        return
    if not kernels:
        raise ValueError(f"amount={amount}: the model has no trainable convolution to prune")
    sizes = {path: leaf.shape[-1] for path, leaf in kernels}
    per_layer = criterion in ("l2", "hsic")
    unit, whole = "filters", "the largest layer has" if per_layer else "there are"
    total = max(sizes.values()) if per_layer else sum(sizes.values())
    if criterion == "l1":
        unit, total = "weights", sum(int(np.prod(leaf.shape)) for _, leaf in kernels)
    if round(amount * total) < 1:
        least = np.ceil(1000 * 0.5001 / total) / 1000 if total < 500 else 0.5001 / total
        raise ValueError(f"amount={amount} removes nothing: {whole} {total} {unit}; choose at least {least:.3g}")
    if per_layer:
        path, size = min(sizes.items(), key=lambda item: item[1])
        if round(amount * size) >= size:
            name = ".".join(map(str, path[:-1]))
            raise ValueError(f"amount={amount} removes all {size} filters of {name}; choose less")


def apply_masks(params: Tree, masks: Tree) -> Tree:
    """Multiply the parameters that have a mask by it; ``masks`` is a subtree of ``params``.

    >>> apply_masks({"a": jnp.ones(2), "b": jnp.ones(2)}, {"a": jnp.array([0.0, 1.0])})["a"].tolist()
    [0.0, 1.0]
    """
    return {
        key: value
        if key not in masks
        else apply_masks(value, masks[key])
        if isinstance(value, dict)
        else value * masks[key]
        for key, value in params.items()
    }


def prunable(params: Tree, exclude: tuple[str, ...] = ("orthogonal",)) -> list[tuple[tuple, Any]]:
    """Return the kernels of convolutions with their paths; ``exclude`` as in `make_masks`."""
    return [
        (path, leaf)
        for path, leaf in _leaves(params)
        if path[-1] == "kernel" and len(leaf.shape) == 4 and not set(path) & set(exclude)
    ]


def nested(leaves: Mapping[tuple, Any]) -> Tree:
    """Return a nested dict of leaves by path.

    >>> nested({("a", "b"): 1, ("a", "c"): 2})
    {'a': {'b': 1, 'c': 2}}
    """
    tree: Tree = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def _leaves(tree: Tree, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value
