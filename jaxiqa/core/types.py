"""Types that every part of the library uses.

Images are float32 RGB in [0, 1] with axes ``b h w c``. Perturbation budgets are in the same units, written ``8 / 255``.
Scores are in the units of the model; higher is better.
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
    """An image-quality metric: takes images, returns one score per image. Pure, jit-able and differentiable."""

    def __call__(self, images: Images) -> Scores: ...


@runtime_checkable
class AttackFn(Protocol):
    """An attack: takes images, returns images of the same shape inside its threat model; same key, same result."""

    def __call__(self, score_fn: ScoreFn, images: Images, key: PRNGKey) -> Images: ...


@dataclass(frozen=True)
class Certificate:
    """Certificates of randomised smoothing for ``b`` images; NumPy arrays.

    With ``label``: no change of Euclidean norm below ``radius`` changes the smoothed class. With ``score``: no change
    of Euclidean norm up to ``radius`` moves the smoothed (median) score out of [``lower``, ``upper``].

    Args:
        radius: Euclidean, in [0, 1] pixel units, for the image that the noise is added to; 0 if abstained.
        abstained: whether nothing could be certified.
        n: number of samples of the bound (without the samples that chose the class).
        sigma: standard deviation of the noise, in [0, 1] pixel units.
        alpha: probability that one bound does not hold: ``radius``, or ``lower`` and ``upper`` each.
        noise: kind of noise.
        size: height and width of the image that the noise is added to.
        resize_norm: spectral norm of the resize from the input to this image; 1 without a resize.
        label: the smoothed class, 0 is the lowest; -1 if abstained.
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
        """Return the radius around the input, before the resize: ``radius / resize_norm``."""
        return self.radius / self.resize_norm

    @property
    def delta(self) -> Float[np.ndarray, " b"] | None:
        """Return the largest change of the smoothed score in one direction; None for a class."""
        return None if self.score is None else np.maximum(self.upper - self.score, self.score - self.lower)

    @property
    def width(self) -> Float[np.ndarray, " b"] | None:
        """Return the full width of the certified interval; None for a class."""
        return None if self.lower is None or self.upper is None else self.upper - self.lower


@runtime_checkable
class Certifier(Protocol):
    """A certifier: takes images, returns certificates of their scores; same key, same result. Not for ``jit``."""

    def __call__(self, score_fn: ScoreFn, images: Images, key: PRNGKey) -> Certificate: ...
