"""The shapes that every part of the library agrees on.

Images are float32 RGB in [0, 1], laid out ``b h w c``; perturbation budgets are in the same units and
written ``8 / 255``. Scores are "higher is better", in the model's own units.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float, Key

Images = Float[Array, "b h w c"]
Scores = Float[Array, " b"]
PRNGKey = Key[Array, ""]


@runtime_checkable
class ScoreFn(Protocol):
    """An image-quality metric: images in, one score per image out. Pure, jit-able and differentiable."""

    def __call__(self, images: Images) -> Scores: ...


@runtime_checkable
class Attack(Protocol):
    """Images in, images of the same shape out, inside the attack's threat model; same key, same result."""

    def __call__(self, score_fn: ScoreFn, images: Images, key: PRNGKey) -> Images: ...


@dataclass(frozen=True)
class ResultRow:
    """One attacked image: a line of ``results.jsonl``.

    ``epsilon`` is the attack's strength: in [0, 1] pixel units where that is a radius, in the unit of the field it sets
    otherwise, or None where the attack runs as its options say. ``rounded`` is the score after the attacked image was
    rounded to 8 bits, as it would be stored. ``linf`` and ``l2`` are the norms of the perturbation in [0, 1] pixel
    units, ``ssim`` is between clean and attacked image. ``queries`` counts the scores that a black-box attack asked
    for. ``seconds`` is attack time divided by the number of images in its batch, compilation included once.
    """

    image: str
    model: str  # the variant's name, without its seed
    seed: int
    attack: str
    epsilon: float | None
    score: float
    attacked: float
    rounded: float
    linf: float
    l2: float
    ssim: float
    queries: int | None
    seconds: float


@dataclass(frozen=True)
class MaskingRow:
    """One check for masked gradients of one model: a line of ``masking.jsonl``."""

    model: str
    seed: int
    check: str
    value: float
    limit: float
    flagged: bool
    remedy: str


@dataclass(frozen=True)
class PredictionRow:
    """One clean image with a human (or derived) score: a line of ``predictions.jsonl``."""

    image: str
    model: str
    seed: int
    mos: float
    score: float


@dataclass(frozen=True)
class ModelRow:
    """One trained model: a line of ``models.jsonl``."""

    model: str
    seed: int
    parameters: int
    score_low: float
    score_high: float
    validation_srocc: float
    seconds_per_epoch: float
    seconds_per_test: float  # scoring the whole labelled test split once, compiled
    test_images: int
