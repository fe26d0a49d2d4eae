"""Metrics that are not written in JAX: any Python callable, for black-box attacks."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxiqa.core.images import check_unit_images
from jaxiqa.core.pytrees import is_traced
from jaxiqa.core.types import Images, Scores


@dataclass(frozen=True)
class External:
    """A score function that calls a Python callable; create it by `from_callable`."""

    fn: Callable[..., Any]
    _: KW_ONLY
    lower_better: bool
    batched: bool
    as_uint8: bool
    name: str

    def __call__(self, images: Images) -> Scores:
        if is_traced(images):
            raise TypeError(
                f"{self.name} is a Python callable: it has no gradient and cannot be compiled. Attack it with NES, "
                "Square, Parsimonious, OnePixel or PatchRS, outside jit and vmap"
            )
        check_unit_images(images)
        pixels = np.asarray(images, np.float32)
        if self.as_uint8:
            pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        scores = self._scores(self.fn(pixels)) if self.batched else np.array([self._one(image) for image in pixels])
        if scores.shape not in ((len(pixels),), (len(pixels), 1)):
            expected = f"({len(pixels)},), one score per image"
            raise ValueError(f"{self.name} returned shape {scores.shape} for {len(pixels)} images; expected {expected}")
        scores = scores.reshape(-1)
        if not np.isfinite(scores).all():
            raise ValueError(f"{self.name} returned a score that is not finite: {scores[~np.isfinite(scores)][0]}")
        return jnp.asarray(-scores if self.lower_better else scores)

    def _one(self, image: np.ndarray) -> Any:
        score = self._scores(self.fn(image))
        if score.size != 1:
            raise ValueError(f"{self.name} returned shape {score.shape} for one image; expected one score")
        return score.reshape(())[()]

    def _scores(self, returned: Any) -> np.ndarray:
        returned = returned.detach().cpu() if hasattr(returned, "detach") else returned  # a PyTorch tensor
        return np.asarray(returned, np.float32)


def from_callable(
    fn: Callable[..., Any],
    *,
    lower_better: bool = False,
    batched: bool = True,
    as_uint8: bool = False,
    name: str | None = None,
) -> External:
    """Create a score function from any Python callable: a PyTorch model, an external program, a remote service.

    Black-box attacks call it between their compiled steps, so it may run any Python code, and its exceptions keep
    their traceback. Gradient attacks raise ``TypeError``.

    Args:
        fn: takes a NumPy array ``b h w c`` (``h w c`` if not ``batched``), returns one number per image as anything
            that NumPy can read, or as a PyTorch tensor.
        lower_better: the metric's scores fall as quality rises. They are negated; the scores that an attack reports
            and the values of an objective are negated scores too.
        batched: ``fn`` takes a batch; otherwise it is called image by image.
        as_uint8: ``fn`` gets pixels rounded to uint8 in 0..255 instead of float32 in [0, 1]. Rounding hides changes of
            less than half a level: for attacks that add small noise (NES) the score is then constant.
        name: name of the metric in error messages; the name of ``fn`` by default.

    Raises:
        ValueError: when called, if ``fn`` does not return one finite score per image.
        TypeError: when called with traced images.

    >>> metric = from_callable(lambda pixels: [image.std() for image in pixels], lower_better=True, name="contrast")
    >>> metric(jnp.zeros((2, 4, 4, 3))).tolist()
    [-0.0, -0.0]
    """
    called = name if name else getattr(fn, "__name__", type(fn).__name__)
    return External(fn, lower_better=lower_better, batched=batched, as_uint8=as_uint8, name=called)
