"""Export a metric, weights included, to one StableHLO file for JAX or any other StableHLO runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from jaxiqa.core.files import write_bytes
from jaxiqa.core.types import Images, ScoreFn, Scores

PLATFORMS = ("cpu", "cuda", "tpu")
SMALLEST = 224
"""Smallest symbolic height and width in pixels: every published metric accepts them."""


def export(
    score_fn: ScoreFn, shape: str = "b, h, w, 3", *, platforms: Sequence[str] = PLATFORMS
) -> jax_export.Exported:
    """Export a score function, weights included, as a portable program.

    Args:
        score_fn: for example the result of `jaxiqa.models.score_fn`.
        shape: of the images. A letter stands for any number: ``"b, h, w, 3"`` accepts any batch, and any height and
            width from 224 pixels; ``"b, 384, 512, 3"`` any batch; ``"1, 384, 512, 3"`` one image of that size.
        platforms: the platforms to compile for: cpu, cuda, rocm, tpu.

    Raises:
        ValueError: the program depends on a dimension that is symbolic; the message names shapes to try.

    >>> score = lambda images: images.mean((1, 2, 3))
    >>> export(score, "b, 4, 4, 3").call(jnp.ones((2, 4, 4, 3))).tolist()
    [1.0, 1.0]
    """
    letters = sorted(part.strip() for part in shape.split(",")[1:3])
    constraints = [f"{side} >= {SMALLEST}" for side in letters if side.isidentifier()]
    sides = jax_export.symbolic_shape(shape, constraints=constraints)
    images = jax.ShapeDtypeStruct(sides, jnp.float32)
    try:
        return jax_export.export(jax.jit(lambda images: score_fn(images)), platforms=platforms)(images)
    except Exception as error:  # JAX raises many types when a program depends on a symbolic size
        if all(isinstance(side, int) for side in sides):
            raise
        raise ValueError(
            f"shape={shape!r}: the program of this metric depends on a size that is left open "
            f"({str(error).partition(chr(10))[0]}); fix more sizes, as in 'b, 384, 512, 3' or '1, 384, 512, 3'"
        ) from error


def export_widest(score_fn: ScoreFn, size: tuple[int, int] | None, batch: int) -> tuple[jax_export.Exported, str]:
    """Return the most general export that works, and its shape: any batch and size, any batch, or neither.

    Args:
        score_fn: the metric.
        size: (height, width) to use if the size must be fixed; None does not allow that.
        batch: number of images to use if the batch must be fixed.

    Raises:
        ValueError: the size must be fixed, and ``size`` is None.
    """
    sides = [] if size is None else [f"b, {size[0]}, {size[1]}, 3", f"{batch}, {size[0]}, {size[1]}, 3"]
    for shape in (shapes := ["b, h, w, 3", *sides]):
        try:
            return export(score_fn, shape), shape
        except ValueError:
            if shape == shapes[-1] and sides:
                raise
    raise ValueError("this metric cannot be exported for every size; give one, such as --size 384 512")


def save_exported(exported: jax_export.Exported, path: Path) -> None:
    """Write the program atomically."""
    write_bytes(path, bytes(exported.serialize()))


def load_exported(path: str | Path) -> Any:
    """Return the score function in a file of `save_exported`: ``images b h w 3 -> scores b``.

    Raises:
        ValueError: the file is damaged or is not an exported metric.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "mean.stablehlo"
    >>> save_exported(export(lambda images: images.mean((1, 2, 3)), "b, 4, 4, 3"), path)
    >>> load_exported(path)(jnp.ones((2, 4, 4, 3))).tolist()
    [1.0, 1.0]
    """
    try:
        exported = jax_export.deserialize(bytearray(Path(path).read_bytes()))
    except FileNotFoundError:
        raise
    except Exception as error:  # flatbuffers raises many types
        raise ValueError(f"{path} is damaged or is not an exported metric ({error})") from error

    def score(images: Images) -> Scores:
        return exported.call(jnp.asarray(images, jnp.float32))

    return score
