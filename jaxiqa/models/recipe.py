"""How the authors of a metric trained it."""

from dataclasses import dataclass
from typing import Literal

Rate = float | tuple[tuple[int, float], ...]
"""A number, or pairs (epoch, number): the number from the start of that epoch on."""


@dataclass(frozen=True)
class Recipe:
    """The published training of a metric: outputs and weights of losses are in `jaxiqa.models.metric.Metric`.

    `jaxiqa.config.Training` has the same fields with the same meaning, and takes from here what it leaves open. The
    optimiser is Adam.

    >>> recipe = Recipe(epochs=30, batch_size=8, loss="mse", learning_rate=1e-4)
    >>> recipe.crops, recipe.labels
    (0, 'standardised')
    """

    epochs: int
    batch_size: int
    loss: Literal["norm_in_norm", "mse", "ranked_mse", "mae", "plcc"]
    learning_rate: Rate
    backbone_factor: Rate = 1.0
    labels: Literal["standardised", "unit", "percent"] = "standardised"
    select: Literal["srocc", "plcc", "sum", "last"] = "srocc"
    schedule: Literal["steps", "cosine"] = "steps"
    decay_every: int | None = None
    decay_factor: float = 0.1
    weight_decay: float = 0.0
    flip: bool | Literal["both"] = False
    crops: int = 0
    crop: tuple[int, int] | None = None
    patches: int = 1
    resize: tuple[int, int] | None = None
