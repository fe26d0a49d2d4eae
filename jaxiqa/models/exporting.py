"""A metric as one file of StableHLO, weights inside: it runs wherever JAX or another StableHLO runtime does."""

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
"""Pixels that symbolic sides have at least: what every published metric takes."""


def export(
    score_fn: ScoreFn, shape: str = "b, h, w, 3", *, platforms: Sequence[str] = PLATFORMS
) -> jax_export.Exported:
    """A score function, its weights included, as a portable program.

    Args:
        score_fn: such as `jaxiqa.models.score_fn` makes.
        shape: of the images. Letters stand for any number: ``"b, h, w, 3"`` takes any batch and size from 224 pixels
            on, ``"b, 384, 512, 3"`` any batch, ``"1, 384, 512, 3"`` one image of that size.
        platforms: what it is compiled for: cpu, cuda, rocm, tpu.

    Raises:
        ValueError: the metric's program depends on a size that is left open; says which shapes to try.

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
    except Exception as error:  # JAX raises errors of many types where a program would differ from size to size
        if all(isinstance(side, int) for side in sides):
            raise
        raise ValueError(
            f"shape={shape!r}: the program of this metric depends on a size that is left open "
            f"({str(error).partition(chr(10))[0]}); fix more of it, such as 'b, 384, 512, 3' or '1, 384, 512, 3'"
        ) from error


def export_widest(score_fn: ScoreFn, size: tuple[int, int] | None, batch: int) -> tuple[jax_export.Exported, str]:
    """The export that leaves most open: batch and size, then the batch alone, then neither; and its shape.

    Args:
        score_fn: the metric.
        size: (height, width) where a size has to be fixed; None refuses to fix one.
        batch: number of images where it has to be fixed.

    Raises:
        ValueError: a size has to be fixed, and none is given.
    """
    sides = [] if size is None else [f"b, {size[0]}, {size[1]}, 3", f"{batch}, {size[0]}, {size[1]}, 3"]
    for shape in (shapes := ["b, h, w, 3", *sides]):
        try:
            return export(score_fn, shape), shape
        except ValueError:
            if shape == shapes[-1] and sides:
                raise
    raise ValueError("this metric cannot be exported for every size; say for which one, as --size 384 512")


def save_exported(exported: jax_export.Exported, path: Path) -> None:
    """Write the program, whole or not at all."""
    write_bytes(path, bytes(exported.serialize()))


def load_exported(path: str | Path) -> Any:
    """The score function in a file of `save_exported`: ``images b h w 3 -> scores b``.

    Raises:
        ValueError: the file is damaged or no export.
    """
    try:
        exported = jax_export.deserialize(bytearray(Path(path).read_bytes()))
    except FileNotFoundError:
        raise
    except Exception as error:  # flatbuffers raise what they meet first
        raise ValueError(f"{path} is damaged or no exported metric ({error})") from error

    def score(images: Images) -> Scores:
        return exported.call(jnp.asarray(images, jnp.float32))

    return score
