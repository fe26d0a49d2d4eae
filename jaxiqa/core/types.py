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
class AttackFn(Protocol):
    """Images in, images of the same shape out, inside the attack's threat model; same key, same result."""

    def __call__(self, score_fn: ScoreFn, images: Images, key: PRNGKey) -> Images: ...


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
        return None if self.lower is None or self.upper is None else self.upper - self.lower


@runtime_checkable
class Certifier(Protocol):
    """Images in, what noise proves of their scores out; same key, same result. Runs on the host, outside ``jit``."""

    def __call__(self, score_fn: ScoreFn, images: Images, key: PRNGKey) -> Certificate: ...
