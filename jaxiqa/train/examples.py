"""Sources of training examples: decoded images, or the stored output of a frozen part of the metric."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from jaxiqa.core.processes import in_turn
from jaxiqa.data.pipeline import Fetch, View, image_fetch
from jaxiqa.data.split import Split
from jaxiqa.train.state import SplitModel, Tree, merge_model


@dataclass(frozen=True)
class Examples:
    """``fetch(index, view)`` returns one example as a dict of arrays with ``mos`` and ``image`` or ``activation``.

    If an image has labels of regions, it also has ``boxes`` and ``region_mos``: `jaxiqa.data.pipeline.image_fetch`.
    """

    fetch: Fetch
    mos: np.ndarray
    after: str | None = None
    """The frozen stage whose output is ``activation``; None if examples are images."""
    unit: Literal["standardised", "unit", "percent"] = "standardised"
    """Of the labels in the loss."""
    crops: int = 0
    """Examples of each image per epoch; 0: the whole image, once."""
    patches: int = 1
    """Places where each of them is cut."""

    def __len__(self) -> int:
        return len(self.mos)

    @property
    def per_epoch(self) -> int:
        """Return the number of examples in an epoch."""
        return len(self) * max(self.crops, 1)

    def labels(self, mos: np.ndarray) -> np.ndarray:
        """Return labels in `unit`: minus the mean of all, divided by their deviation; or from 0 to 1, or to 100."""
        if self.unit == "standardised":
            return (mos - float(np.mean(self.mos))) / (float(np.std(self.mos)) or 1.0)
        low, high = float(np.min(self.mos)), float(np.max(self.mos))
        return (mos - low) / ((high - low) or 1.0) * (100.0 if self.unit == "percent" else 1.0)

    def inputs(self, number: int, batch_size: int, view: View = View()) -> np.ndarray:  # noqa: B008
        """Return the inputs of batch ``number`` of all in order; the last batch repeats its last example."""
        key = "activation" if self.after else "image"
        first = number * batch_size
        some = [self.fetch(index, view)[key] for index in range(first, min(first + batch_size, len(self)))]
        return np.stack(some + some[-1:] * (batch_size - len(some)))


def image_source(split: Split, size: tuple[int, int] | None, **options: Any) -> Examples:
    """Return a source of whole images, resized on the host to ``size`` (height, width) if given.

    ``options`` are those of `Examples`.
    """
    return _source(split, image_fetch(split, size), **options)


def crop_source(split: Split, size: tuple[int, int] | None, crop: tuple[int, int], **options: Any) -> Examples:
    """Return a source of random crops of (height, width), of images resized to ``size`` if given."""
    return _source(split, image_fetch(split, size, crop=crop), **options)


def _source(split: Split, fetch: Fetch, **options: Any) -> Examples:
    assert split.mos is not None  # `image_fetch` has looked
    return Examples(fetch, split.mos, **options)


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

    Several processes share the images out; all get all outputs.

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

    def outputs(number: int, *, mirrored: bool) -> np.ndarray:
        batch = images.inputs(number, size, View(mirrored))
        return np.asarray(trunk(parts.fixed, parts.batch_stats, batch))

    size, stored = max(1, batch_size // jax.process_count()), []
    for mirrored in range(1 + flip):
        found: list[np.ndarray] = []
        for some in in_turn(partial(outputs, mirrored=bool(mirrored)), math.ceil(len(images) / size)):
            found.append(some[: len(images) - len(found) * size])
            done = min(len(found) * size, len(images))
            progress(mirrored * len(images) + done, (1 + flip) * len(images))
        stored.append(np.concatenate(found))

    def fetch(index: int, view: View) -> dict[str, np.ndarray]:
        return {"activation": stored[int(view.mirrored)][index], "mos": np.float32(images.mos[index])}

    return replace(images, fetch=fetch, after=after)
