"""Description of a published metric: how to build it, how to read its checkpoints, and what is known of it."""

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

    ``build(rngs=..., **options)`` builds the metric at its published size. A metric (`jaxiqa.models.metric.Metric`) has

    - ``prepare(images, key=None)``: the test-time protocol, ``b h w c`` in [0, 1] to the pixels of ``b · n`` items (the
      items of image 0 first). Crops are fixed without a key and random with one.
    - ``raw(pixels)``: the network's output per item; ``network(pixels)``: the score per item, ``k · raw + b``.
    - ``__call__(images, key=None)``: both, averaged over the items of an image.
    - ``features(pixels, names)``: name -> feature map, for stages of ``backbone`` and named parts of the head.
    - ``outputs(images)``, ``loss_weights``, ``cancelled``: which outputs are trained on labels, and how.
    - ``backbone``: the `Stages` into which `jaxiqa.models.harden` inserts blocks, if it is a network of stages;
      ``insertions``: the inserted blocks.
    - ``input_size``: (height, width) of the pixels if the protocol fixes it, or None.
    - ``score_range``: (lowest, highest) score; gains are divided by their difference.

    Attributes:
        metric: the class; ``metric(rngs=..., **dict(model.options))`` builds another of the same structure.
        construct: builds the published metric if this is not the class with its default options.
        rules: (`jaxiqa.pretrained.key_map`) from the original parameter names to those of the module.
        title, paper: name as in the literature; arXiv id or another reference.
        protocol: the test-time protocol in one line.
        results: published SROCC / PLCC, and the data set.
        licence: of the published weights.
        extras: names in a checkpoint that are not parameters; ``finish(model, extras)`` gets those that exist.
        finish: sets from them what is not a parameter (a calibration).
        weights: name -> where the authors published a checkpoint.
        adapt: renames and transposes the arrays of another framework's file as ``rules`` expect; returns the arrays
            of all other files unchanged.
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
        """Return a function that builds the published metric with random weights: ``build(rngs=..., **options)``."""
        return self.construct or self.metric

    def __repr__(self) -> str:
        return f"ModelSpec({self.title!r}, {self.paper!r})"
