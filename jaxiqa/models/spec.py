"""What a published metric is: how it is built, what its checkpoints look like, and what is known of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flax import nnx

from jaxiqa.models.metric import Metric
from jaxiqa.pretrained.files import WeightsUrl
from jaxiqa.pretrained.key_map import Rule


def _nothing(model: nnx.Module, extras: Mapping[str, np.ndarray]) -> None:
    del model, extras


@dataclass(frozen=True, repr=False)
class ModelSpec:
    """One entry of `jaxiqa.models.MODELS`.

    ``build(rngs=..., **options)`` makes the metric at its published size. A metric (`jaxiqa.models.metric.Metric`) has

    - ``prepare(images, key=None)``: the test-time protocol, ``b h w c`` in [0, 1] to the pixels of ``b · n`` items (the
      items of image 0 first). Crops are fixed without a key and random with one.
    - ``raw(pixels)``: the network's output per item; ``network(pixels)``: the score per item, ``k · raw + b``.
    - ``__call__(images, key=None)``: both, averaged over the items of an image.
    - ``features(pixels, names)``: name -> feature map, for stages of ``backbone`` and named parts of the head.
    - ``outputs(images)``, ``loss_weights``, ``cancelled``: what training compares with labels, and how.
    - ``backbone``: the `Stages` that `jaxiqa.models.harden` builds into; ``insertions``, what it has put there.
    - ``input_size``: (height, width) of the pixels where the protocol fixes it, or None.
    - ``score_range``: (lowest, highest) score, the diameter that gains are divided by.

    Attributes:
        metric: the class; ``metric(rngs=..., **dict(model.options))`` makes another of the same structure.
        construct: makes the published one, where that is not the class with its default options.
        rules: (`jaxiqa.pretrained.key_map`) from the original parameter names to those of the module.
        title, paper: name as in the literature; arXiv id or another reference.
        protocol: the test-time protocol in one line.
        results: published SROCC / PLCC, and on what.
        licence: of the published weights.
        extras: names in a checkpoint that are no parameters; ``finish(model, extras)`` gets those that are there.
        finish: sets what is not a parameter (a calibration) from them.
        weights: name -> where the authors put a checkpoint.
        adapt: rewrites the arrays of another framework's file to the names and layouts that ``rules`` know; it returns
            those that are not of such a file as they are.
    """

    metric: type[Metric]
    rules: Sequence[Rule]
    title: str
    paper: str
    protocol: str
    results: str
    licence: str
    construct: Callable[..., Metric] | None = None
    extras: tuple[str, ...] = ()
    finish: Callable[[Any, Mapping[str, np.ndarray]], None] = _nothing
    weights: Mapping[str, WeightsUrl] = field(default_factory=dict)
    adapt: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = dict

    @property
    def build(self) -> Callable[..., Metric]:
        """Makes the published metric with random weights: ``build(rngs=..., **options)``."""
        return self.construct or self.metric

    def __repr__(self) -> str:
        return f"Published({self.title!r}, {self.paper!r})"
