"""The shapes that every part of the library agrees on.

Images are float32 RGB in [0, 1], laid out ``b h w c``; perturbation budgets are in the same units and
written ``8 / 255``. Scores are "higher is better", in the model's own units.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

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


@runtime_checkable
class Purifier(Protocol):
    """Images in, cleaned images out; one draw of random numbers per call, the same for every image of the batch."""

    def __call__(self, images: Images, key: PRNGKey | None) -> Images: ...


@dataclass(frozen=True)
class Certificate:
    """What randomised smoothing proves of each of ``b`` images; NumPy arrays.

    Either ``label`` is given: no change of Euclidean norm below ``radius`` moves the smoothed class. Or ``score`` is:
    no change of Euclidean norm up to ``radius`` takes the smoothed (median) score out of [``lower``, ``upper``].

    Args:
        radius: Euclidean, in [0, 1] pixel units, over the image that the noise was added to; 0 where abstained.
        abstained: whether nothing could be certified.
        n: samples that the bound rests on (those that chose the class come on top).
        sigma: standard deviation of the noise, in [0, 1] pixel units.
        alpha: probability that one bound does not hold: of ``radius``; of ``lower`` and of ``upper`` each.
        noise: the kind of noise.
        size: height and width of the image that the noise was added to.
        resize_norm: spectral norm of the resize that made it from the input; 1 where there is none.
        label: the smoothed class, 0 the lowest; -1 where abstained.
        edges: borders of the classes: class i holds ``edges[i - 1] < score <= edges[i]``.
        score: the median score of the noisy copies.
        lower, upper: bounds of the smoothed score of any image within ``radius``.
    """

    radius: Float[np.ndarray, " b"]
    abstained: Bool[np.ndarray, " b"]
    n: Int[np.ndarray, " b"]
    sigma: float
    alpha: float
    noise: str
    size: tuple[int, int]
    resize_norm: float = 1.0
    label: Int[np.ndarray, " b"] | None = None
    edges: Float[np.ndarray, " edges"] | None = None
    score: Float[np.ndarray, " b"] | None = None
    lower: Float[np.ndarray, " b"] | None = None
    upper: Float[np.ndarray, " b"] | None = None

    @property
    def input_radius(self) -> Float[np.ndarray, " b"]:
        """The radius around the input itself, before it was resized: ``radius / resize_norm``."""
        return self.radius / self.resize_norm

    @property
    def delta(self) -> Float[np.ndarray, " b"] | None:
        """The most that the smoothed score can move to one side; None for a class."""
        return None if self.score is None else np.maximum(self.upper - self.score, self.score - self.lower)

    @property
    def width(self) -> Float[np.ndarray, " b"] | None:
        """The full width of the certified interval; None for a class."""
        return None if self.score is None else self.upper - self.lower


@runtime_checkable
class Certifier(Protocol):
    """Images in, what noise proves of their scores out; same key, same result. Runs on the host, outside ``jit``."""

    def __call__(self, score_fn: ScoreFn, images: Images, key: PRNGKey) -> Certificate: ...


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
    level: str | None = None  # weak, medium or strong, where strengths were aligned


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
    images: int | None = None  # so many were asked for, by ``Evaluation.masking``
    checks: int | None = None  # rows of this model and number of images


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


@dataclass(frozen=True)
class StoredRow:
    """One attacked image as a PNG file: a line of ``stored.jsonl``. Where an image has several, the last one counts."""

    image: str
    model: str
    seed: int
    attack: str
    epsilon: float | None
    level: str | None
    sha256: str  # of the file


UNDEFENDED = "none"
"""The label of the metric without a defense."""


@dataclass(frozen=True)
class DefenseRow:
    """One attacked image behind one defense: a line of ``defenses.jsonl``.

    ``mode`` is "transfer" (the image of the adversarial set, made against the metric alone) or "adaptive" (made against
    the metric behind this defense). ``clean`` and ``attacked`` are f(x) and f(x'), ``purified_clean`` and ``purified``
    f(P(x)) and f(P(x')), with x' in 8 bits and one draw for both. ``ssim`` (7x7 windows) and ``psnr`` in dB compare
    P(x') with x; ``psnr`` is None where they are equal. ``seconds`` is purifying, scoring and, if adaptive, attacking,
    divided by the number of images in the batch, compilation included once.
    """

    image: str
    model: str
    seed: int
    attack: str
    epsilon: float | None
    level: str | None
    defense: str
    mode: str
    clean: float
    attacked: float
    purified_clean: float
    purified: float
    ssim: float
    psnr: float | None
    seconds: float


@dataclass(frozen=True)
class CertificateRow:
    """One image and what is certain about its score: a line of ``certificates.jsonl``.

    ``attack`` is None for the clean image. ``score`` is the certified score or, of a method that certifies classes,
    the class; ``radius`` is the L2 radius within which that holds, ``lower`` and ``upper`` the bounds of the score
    inside it, where the method has them.
    """

    image: str
    model: str
    seed: int
    attack: str | None
    epsilon: float | None
    level: str | None
    certifier: str
    score: float | None
    lower: float | None
    upper: float | None
    radius: float
    abstained: bool
    n: int
    sigma: float
    seconds: float
