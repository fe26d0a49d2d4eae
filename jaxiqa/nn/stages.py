"""Networks as a chain of named stages: read the output of any stage, restart from it, or insert a block at it."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.nn.heads import PooledLinear
from jaxiqa.pretrained.packages import PackagedFile, locate

Features = Float[Array, "_ _ _ _"]


def normalise(pixels: Features, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Features:
    """Return ``(pixels - mean) / std`` per RGB channel.

    >>> normalise(jnp.full((1, 1, 1, 3), 0.5), (0.5, 0.5, 0.0), (1.0, 1.0, 0.5)).tolist()
    [[[[0.0, 0.0, 1.0]]]]
    """
    return (pixels - jnp.asarray(mean, pixels.dtype)) / jnp.asarray(std, pixels.dtype)


@dataclass(frozen=True)
class BackboneSpec:
    """How to build a backbone and read its published weights.

    Attributes:
        build: ``build(*, width, rngs) -> Stages``.
        width: channels of the first stage in the published network.
        mean, std: the input is ``(pixels - mean) / std``, per RGB channel, pixels in [0, 1].
        taps: the two stages that a two-level head reads by default.
        levels: the last stages at strides 4, 8, 16 and 32, which a four-level head reads; None if there are none.
        classes: outputs of the published classifier.
        rules: conversion rules (`jaxiqa.pretrained.key_map`) from the published parameter names to those of `Stages`.
        classifier_rules: the same for the classifier on top, under the name ``head``.
        classifier: ``classifier(features, classes, *, rngs) -> module``, logits of the last stage's map.
        adapt: converts the arrays of other publishers' files to the names and layouts of ``rules``; returns arrays
            that it does not know unchanged.
        weights: name -> the package that contains the published file.
    """

    build: Callable[..., "Stages"]
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    taps: tuple[str, str]
    classes: int
    rules: Sequence[Any]
    classifier_rules: Sequence[Any]
    classifier: Callable[..., nnx.Module] = PooledLinear
    adapt: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    levels: tuple[str, str, str, str] | None = None
    weights: Mapping[str, PackagedFile] = field(default_factory=dict)

    def file(self, weights: str | os.PathLike[str]) -> str | os.PathLike[str]:
        """Return the file of a name in ``weights``; any other text or path is returned unchanged.

        Raises:
            FileNotFoundError, ValueError: its package is missing or damaged (`jaxiqa.pretrained.packages.locate`).
        """
        if isinstance(weights, str) and weights in self.weights:
            return locate(self.weights[weights])
        return weights


@dataclass(frozen=True)
class Insertion:
    """A block in the backbone: its stage's name, its place, its kind and the options it was built with."""

    name: str
    where: str
    kind: str
    options: tuple[tuple[str, Any], ...]


class Stages(nnx.Module):
    """Run named stages one after another: ``x -> stage_n(... stage_1(x))``.

    ``layer3`` also names the group of stages ``layer3.0 … layer3.22``: the first of them in ``before:layer3``, the last
    one in ``after:layer3`` and in taps.

    Args:
        stages: name -> (module, channels of its output), in the order of execution.
        inputs: channels of the input.

    Attributes:
        remat: compute what is inside of a stage again for the gradient, instead of keeping it; False at first.

    >>> rngs = nnx.Rngs(0)
    >>> net = Stages({"a": (nnx.Linear(3, 4, rngs=rngs), 4), "b": (nnx.Linear(4, 5, rngs=rngs), 5)})
    >>> output, features = net.run(jnp.ones((1, 2, 2, 3)), taps=("a",))
    >>> output.shape, features["a"].shape
    ((1, 2, 2, 4), (1, 2, 2, 4))
    """

    def __init__(self, stages: Mapping[str, tuple[nnx.Module, int]], *, inputs: int = 3):
        self.stage = nnx.Dict({name: module for name, (module, _) in stages.items()})
        self.order = tuple(stages)
        self.widths = tuple(width for _, width in stages.values())
        self.inputs = inputs
        self.insertions: tuple[Insertion, ...] = ()
        self.remat = False

    def span(self, stage: str) -> tuple[int, int]:
        """Return positions of the first and last stage named ``stage``; if there is none, ``ValueError`` lists all."""
        found = [i for i, name in enumerate(self.order) if name == stage or name.startswith(f"{stage}.")]
        if not found:
            raise ValueError(f"stage {stage!r} does not exist; the stages are {', '.join(self.order)}")
        return found[0], found[-1]

    def channels(self, stage: str) -> int:
        """Return the number of output channels of ``stage``."""
        return self.widths[self.span(stage)[1]]

    def place(self, where: str) -> tuple[int, int]:
        """Return the position in the order, and the channels, at ``'before:STAGE'`` or ``'after:STAGE'``."""
        side, _, stage = where.partition(":")
        if side not in ("before", "after") or not stage:
            raise ValueError(f"where={where!r} is not allowed; write 'before:STAGE' or 'after:STAGE'")
        first, last = self.span(stage)
        index = first if side == "before" else last + 1
        return index, (self.widths[index - 1] if index else self.inputs)

    def insert(
        self, where: str, module: nnx.Module, *, name: str, kind: str = "", options: tuple[tuple[str, Any], ...] = ()
    ) -> None:
        """Insert ``module``, which keeps the number of channels, at ``where``; no other stage changes.

        ``kind`` and ``options`` say how the module was built; `insertions` stores them.
        """
        index, width = self.place(where)
        if name in {stage.partition(".")[0] for stage in self.order} or not name.isidentifier():
            raise ValueError(f"name={name!r} must be an identifier that no stage has; the stages are {self.order}")
        self.order = (*self.order[:index], name, *self.order[index:])
        self.widths = (*self.widths[:index], width, *self.widths[index:])
        self.stage[name] = module
        self.insertions = (*self.insertions, Insertion(name, where, kind, options))

    def tapped(self, stage: str) -> int:
        """Return the position that a tap on ``stage`` reads: the stage, or the last block inserted after it."""
        after = {block.name for block in self.insertions if block.where.startswith("after:")}
        index = self.span(stage)[1]
        while index + 1 < len(self.order) and self.order[index + 1] in after:
            index += 1
        return index

    def upto(self, stage: str) -> "Stages":
        """Return the stages up to what a tap on ``stage`` reads; the result has the same modules, not copies.

        A block that was inserted before a stage which is left out is described by the stage that precedes it.
        """
        last = self.tapped(stage)
        kept = self.order[: last + 1]
        short = Stages(
            {name: (self.stage[name], width) for name, width in zip(kept, self.widths, strict=False)},
            inputs=self.inputs,
        )
        later = [block.name for block in self.insertions]
        for block in self.insertions:
            if block.name in kept:
                try:
                    short.place(block.where)
                except ValueError:
                    before = [name for name in kept[: kept.index(block.name)] if name not in later]
                    if not before:
                        raise ValueError(f"stage={stage!r} leaves no stage of the network before it") from None
                    block = replace(block, where=f"after:{before[-1]}")
                short.insertions = (*short.insertions, block)
            later.remove(block.name)
        return short

    def run(
        self, x: Features, *, start: str | None = None, stop: str | None = None, taps: Sequence[str] = ()
    ) -> tuple[Features, dict[str, Features]]:
        """Run the stages after ``start`` up to and including ``stop``.

        Args:
            x: the output of ``start``, ``b h w c``; without ``start``, the network's (normalised) input.
            start: a stage that has already run; a tap on it reads ``x``. None begins with the first stage.
            stop: the last stage to run. None runs up to the last tap, or to the end without taps.
            taps: stages to read. If blocks are inserted *after* the stage, a tap reads their output.

        Returns:
            The output of the last stage that ran, and tap -> feature map; both have the type of ``x``, whatever type
            the stages compute in.

        Raises:
            ValueError: a stage does not exist, or a tap is not among the stages that run.
        """
        wanted = {tap: self.tapped(tap) for tap in taps}
        first = -1 if start is None else self.span(start)[1]
        if stop is not None:
            last = self.span(stop)[1]
        else:
            last = max(wanted.values()) if wanted else len(self.order) - 1
        outside = [tap for tap, index in wanted.items() if not max(first, 0) <= index <= last]
        if outside or last < first:
            raise ValueError(
                f"running from after {start!r} to {stop!r} does not pass {', '.join(outside) or stop!r}; "
                f"the stages are {', '.join(self.order)}"
            )
        dtype = x.dtype
        features = {tap: x for tap, index in wanted.items() if index == first}
        for position in range(first + 1, last + 1):
            stage = self.stage[self.order[position]]
            x = nnx.remat(lambda stage, x: stage(x))(stage, x) if self.remat else stage(x)
            features |= {tap: _handed_out(x, dtype) for tap, index in wanted.items() if index == position}
        return _handed_out(x, dtype), features


def _handed_out(x: Array, dtype: Any) -> Array:
    """Convert ``x`` to another type if needed. On CPUs XLA must not merge what follows with the stages, since a mean
    merged with bfloat16 products is wrong: jaxlib 0.12 respects the barrier, 0.10 only a rounding that it cannot skip.
    """
    if x.dtype == dtype:
        return x
    of = jnp.finfo(x.dtype)
    return jax.lax.reduce_precision(jax.lax.optimization_barrier(x).astype(dtype), of.nexp, of.nmant)
