"""A training step of a hardened metric on random images, for measuring and for compiling."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxiqa import models
from jaxiqa.config import Training
from jaxiqa.train.losses import LOSSES
from jaxiqa.train.optimizer import make_optimizer
from jaxiqa.train.parallel import AXIS, data_parallel
from jaxiqa.train.state import split_model, start
from jaxiqa.train.step import DEFAULTS, make_step


@dataclass(frozen=True)
class Shape:
    """A hardened metric and the size of its images: backbone, width, place and inner channels of the block."""

    backbone: str
    width: int | None
    where: str
    mid: int
    size: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.backbone}, {self.where}, {self.size[0]}x{self.size[1]}"


def hardened(shape: Shape) -> models.Linearity:
    model = models.build(shape.backbone, width=shape.width)
    models.harden(model, shape.where, mid=shape.mid, rngs=nnx.Rngs(1))
    return model


def make(shape: Shape, precision: str = "float32") -> tuple[Callable, Any, Any]:
    """Return the step for one device's share of the batch, its first state, and its constants."""
    parts = split_model(hardened(shape), precision=precision)
    optimizer = make_optimizer(parts.params, Training(learning_rate=1e-4, backbone_factor=0.1), steps_per_epoch=1)
    constants = {"fixed": parts.fixed, "other": parts.other, "masks": {}, **DEFAULTS}
    return make_step(parts, LOSSES["norm_in_norm"], optimizer, axis_name=AXIS), start(parts, optimizer), constants


class Trained:
    """A step over all devices, on ``count`` images; a call waits for it. The images come from the host each time."""

    def __init__(self, shape: Shape, count: int, precision: str):
        step, self.state, self.constants = make(shape, precision)
        self.step, self.count = data_parallel(step), count
        rng = np.random.default_rng(0)
        self.batch = {"image": rng.random((count, *shape.size, 3), np.float32), "mos": rng.random(count, np.float32)}
        began = time.perf_counter()
        self()
        self.compiling = time.perf_counter() - began

    def __call__(self) -> None:
        self.state, loss = self.step(self.state, self.constants, self.batch)
        jax.block_until_ready((self.state, loss))
