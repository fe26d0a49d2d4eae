"""Masks of a variant's pruning: from its weights alone, or from labelled images."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxiqa.config import Prune
from jaxiqa.data.pipeline import View
from jaxiqa.train.examples import Examples
from jaxiqa.train.hsic import sparse_towards
from jaxiqa.train.importance import discriminative, filter_vip
from jaxiqa.train.pruning import FROM_DATA, Tree, apply_masks, make_masks, prunable
from jaxiqa.train.recorded import batched, record
from jaxiqa.train.state import SplitModel, merge_model

Progress = Callable[[int, int, float], Any]


def prune(
    parts: SplitModel,
    chosen: Prune,
    images: Examples,
    *,
    seed: int,
    share: float = 1.0,
    earlier: Tree | None = None,
    batch_size: int = 8,
    progress: Progress = lambda step, steps, loss: None,
) -> tuple[SplitModel, Tree]:
    """Return the metric with the pruned weights at 0, and the masks that keep them there.

    ``"pls"`` and ``"displs"`` remove the filters with the smallest mean VIP over the cell means (2 × 2) of their
    outputs, over all layers together. ``"hsic"`` trains the weights first (`jaxiqa.train.hsic.sparse_towards`).

    Args:
        parts: the metric; only kernels that are trained can be pruned.
        chosen: from the config.
        images: examples that are images; ``chosen.images`` of them are used, drawn by ``seed``.
        seed: of the choice, and of HSIC's training.
        share: of ``chosen.amount`` to remove.
        earlier: earlier masks; what they remove stays removed.
        batch_size: images at once.
        progress: called after every step of HSIC's training.

    **Differs from the code of "Robustness as Architecture"**, arXiv:2506.04951: the features are those that the network
    computes, with its activations and batch norms, and a filter's score is the mean over its own features.
    """
    amount = chosen.amount * share
    if chosen.criterion not in FROM_DATA:
        masks = make_masks(parts.params, amount=amount, criterion=chosen.criterion, earlier=earlier)
        return replace(parts, params=apply_masks(parts.params, masks)), masks
    order = np.random.default_rng(seed).permutation(len(images))[: chosen.images]
    pixels = np.stack([np.asarray(images.fetch(int(index), View())["image"], np.float32) for index in order])
    mos = images.mos[order]
    if chosen.criterion == "hsic":
        batch_size = min(batch_size, len(order))
        params, masks = sparse_towards(
            parts, pixels, mos, amount=amount, earlier=earlier, batch_size=batch_size, seed=seed, progress=progress
        )
        return replace(parts, params=params), masks
    filters = {path[:-1]: kernel.shape[-1] for path, kernel in prunable(parts.params)}

    @jax.jit
    def means(batch: Any) -> Any:
        _, found = record(merge_model(parts, parts.params, parts.batch_stats), batch, filters, grid=2)
        running.update(dict.fromkeys(found))  # JAX sorts the keys of a result
        return found

    running: dict[Any, None] = {}
    found = batched(means, pixels, batch_size)
    scores = filter_vip({path: np.asarray(found[path]) for path in running}, mos, filters)
    scores = discriminative(scores) if chosen.criterion == "displs" else scores
    masks = make_masks(parts.params, amount=amount, criterion=chosen.criterion, scores=scores, earlier=earlier)
    return replace(parts, params=apply_masks(parts.params, masks)), masks
