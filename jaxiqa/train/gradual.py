"""Gradual pruning: the masks of a training grow in several steps, and the network recovers in between."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.config import Prune
from jaxiqa.train.criteria import prune
from jaxiqa.train.examples import Examples
from jaxiqa.train.pruning import Tree, check_masks, nested, prunable
from jaxiqa.train.state import SplitModel, TrainState


def starts(epochs: int, steps: int) -> tuple[int, ...]:
    """Return the numbers of epochs after which the steps begin: 0, n, 2n …, with n = ⌊epochs / steps⌋.

    So each step is followed by at least n epochs.

    Args:
        epochs: of the training.
        steps: number of steps.

    Raises:
        ValueError: fewer epochs than steps.

    >>> starts(9, 3), starts(11, 3)
    ((0, 3, 6), (0, 3, 6))
    """
    if steps > epochs:
        raise ValueError(
            f"steps={steps} in a training of epochs={epochs}: at least one epoch follows each step; "
            f"choose at most {epochs} steps, or more epochs"
        )
    return tuple(range(0, steps * (epochs // steps), epochs // steps))


@dataclass(frozen=True)
class GradualPruning:
    """The steps of a pruning during a training.

    `jaxiqa.train.loop.fit` keeps the present masks in its state, so that they are in every checkpoint. A step uses only
    the parameters and statistics at the start of its epoch. So a killed run resumes exactly.

    Attributes:
        starts: epochs that are done when a step begins.
        prune: ``prune(share, params, batch_stats, masks) -> (params, masks)``: removes this share of the whole amount;
            what the given masks remove stays removed.
    """

    starts: tuple[int, ...]
    prune: Callable[[float, Tree, Tree, Tree], tuple[Tree, Tree]]

    def untouched(self, state: TrainState) -> TrainState:
        """Return the state with masks that remove nothing."""
        kept = {path: jnp.ones(kernel.shape, bool) for path, kernel in prunable(state.params)}
        return replace(state, masks=nested(kept))

    def advance(self, state: TrainState, epoch: int) -> TrainState:
        """Return the state in which epoch number ``epoch``, from 0, begins: pruned if a step begins with it.

        A step forgets the best epoch, which had more weights than the result may have.
        """
        if epoch not in self.starts:
            return state
        share = (self.starts.index(epoch) + 1) / len(self.starts)
        # The same arrays on the same device, whether a step or a checkpoint made them.
        given = jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), (state.params, state.batch_stats, state.masks))
        params, masks = self.prune(share, *given)
        masks = jax.tree.map(lambda mask: mask.astype(bool), masks)
        return replace(
            state, params=params, masks=masks, best_correlation=jnp.float32(-jnp.inf), best_epoch=jnp.int32(0)
        )


def gradual_pruning(
    parts: SplitModel, chosen: Prune, images: Examples, *, epochs: int, seed: int, batch_size: int = 8
) -> GradualPruning:
    """Return the steps of a variant's pruning, for `jaxiqa.train.loop.fit`.

    At the start of step k of n, `jaxiqa.train.criteria.prune` removes k/n of the amount by the present parameters.

    Args:
        parts: the metric; only kernels that are trained can be pruned.
        chosen: from the config.
        images, seed, batch_size: as for `jaxiqa.train.criteria.prune`.
        epochs: of the training.

    Raises:
        ValueError: fewer epochs than steps.
    """

    def step(share: float, params: Tree, batch_stats: Tree, masks: Tree) -> tuple[Tree, Tree]:
        present = replace(parts, params=params, batch_stats=batch_stats)
        pruned, masks = prune(present, chosen, images, seed=seed, share=share, earlier=masks, batch_size=batch_size)
        return pruned.params, masks

    return GradualPruning(starts(epochs, chosen.steps), step)


def check_prune(params: Tree, chosen: Prune, epochs: int) -> None:
    """Raise ``ValueError`` if the steps do not fit in the epochs, or if the first step removes nothing, or if the
    last one removes a whole layer.

    Args:
        params: as for `jaxiqa.train.pruning.make_masks`; shapes are enough.
        chosen: from the config.
        epochs: of the training.
    """
    starts(epochs, chosen.steps)
    check_masks(params, amount=chosen.amount, criterion=chosen.criterion)
    try:
        check_masks(params, amount=chosen.amount / chosen.steps, criterion=chosen.criterion)
    except ValueError as error:
        raise ValueError(f"the first of steps={chosen.steps}: {error}, or fewer steps") from error
