"""Sources of training examples: decoded images, or the stored output of a frozen part of the metric."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import jax
import numpy as np

from jaxiqa.data.pipeline import image_fetch
from jaxiqa.data.split import Split
from jaxiqa.train.state import SplitModel, Tree, merge_model


@dataclass(frozen=True)
class Examples:
    """``fetch(index, flip)`` returns one example as a dict of arrays with ``mos`` and ``image`` or ``activation``."""

    fetch: Callable[[int, bool], dict[str, np.ndarray]]
    mos: np.ndarray
    after: str | None = None
    """The frozen stage whose output is ``activation``; None if examples are images."""

    def __len__(self) -> int:
        return len(self.mos)

    def standardised(self, mos: np.ndarray) -> np.ndarray:
        """Return labels minus the mean of all, divided by their deviation, so that every loss has the same scale."""
        return (mos - float(np.mean(self.mos))) / (float(np.std(self.mos)) or 1.0)

    def in_order(self, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
        """Yield unflipped inputs, and how many of them are real: the last batch repeats its last example."""
        key = "activation" if self.after else "image"
        for first in range(0, len(self), batch_size):
            indices = range(first, min(first + batch_size, len(self)))
            inputs = [self.fetch(index, False)[key] for index in indices]
            yield np.stack(inputs + inputs[-1:] * (batch_size - len(inputs))), len(inputs)


def image_source(split: Split, size: tuple[int, int] | None) -> Examples:
    """Return a source of images, resized on the host to ``size`` (height, width) if given."""
    fetch = image_fetch(split, size)
    assert split.mos is not None  # `image_fetch` has looked
    return Examples(fetch, split.mos)


def activation_source(
    parts: SplitModel,
    images: Examples,
    after: str,
    *,
    flip: bool,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Examples:
    """Run the frozen stages once over all images, and over the mirrored images if ``flip``.

    Args:
        parts: the metric; its stages up to ``after`` must be frozen.
        images: the images.
        after: the last frozen stage.
        flip: also store the activations of mirrored images.
        batch_size: images per call; one compiled shape.
        progress: called with (images done, number of images).
    """

    @jax.jit
    def trunk(fixed: Tree, batch_stats: Tree, batch: jax.Array) -> jax.Array:
        model = merge_model(replace(parts, fixed=fixed), parts.params, batch_stats)
        return model.trunk(model.prepare(batch), after)

    stored: list[np.ndarray] = []
    for mirrored in range(1 + flip):
        outputs = []
        for first in range(0, len(images), batch_size):
            count = min(batch_size, len(images) - first)
            some = [images.fetch(first + i, bool(mirrored))["image"] for i in range(count)]
            batch = np.stack(some + some[-1:] * (batch_size - count))
            outputs.append(np.asarray(trunk(parts.fixed, parts.batch_stats, batch))[:count])
            progress(mirrored * len(images) + first + count, (1 + flip) * len(images))
        stored.append(np.concatenate(outputs))

    def fetch(index: int, mirrored: bool) -> dict[str, np.ndarray]:
        return {"activation": stored[int(mirrored)][index], "mos": np.float32(images.mos[index])}

    return Examples(fetch, images.mos, after)
