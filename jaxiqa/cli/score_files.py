"""Score many image files in batches of equal size, with few compiled programs and bounded memory."""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PIXELS = 2**22
"""Most pixels in a batch of several images; batches of large images are smaller."""

WAITING = 2**29
"""Most bytes of images that wait for others of their size."""


def score_files(
    model: Any,
    paths: Sequence[Path],
    faults: dict[Path, str],
    *,
    batch_size: int,
    seen: Callable[[Path, tuple[int, int]], None] = lambda path, size: None,
) -> Iterator[dict[Path, float]]:
    """Yield the scores of image files, some at a time; store the reason in ``faults`` if a file cannot be scored.

    Images of one size wait until they fill a batch, as long as all waiting images fit in `WAITING`. ``seen`` is called
    for each decoded image with its (height, width).
    """
    import numpy as np

    from jaxiqa.cli.runtime import is_out_of_memory
    from jaxiqa.core.compiled import make_room
    from jaxiqa.data.decode import read_image

    score, shrink = _compiled(model), _shrinker(model)
    pixels_of = _network_pixels(model)
    waiting: dict[tuple[int, ...], list[tuple[Path, Any]]] = {}
    compiled: dict[tuple[int, ...], int] = {}
    programs: set[Hashable] = set()

    def attempt(batch: list[tuple[Path, Any]], size: int) -> dict[Path, float]:
        pixels = [pixels for _, pixels in batch]
        make_room(programs, (size, *pixels[0].shape))
        try:
            values = score(np.stack(pixels + pixels[-1:] * (size - len(batch))))
        except ValueError as error:  # for example too small for the model
            faults.update(dict.fromkeys((path for path, _ in batch), str(error)))
            return {}
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                faults[batch[0][0]] = f"not enough memory for {pixels[0].shape[1]}x{pixels[0].shape[0]} pixels"
                return {}
            parts = [attempt([one], 1) for one in batch]
            return {path: value for part in parts for path, value in part.items()}
        scores = {path: float(value) for (path, _), value in zip(batch, values, strict=False)}
        faults.update((path, f"its score is {value}") for path, value in scores.items() if not math.isfinite(value))
        return {path: value for path, value in scores.items() if math.isfinite(value)}

    def run(shape: tuple[int, ...]) -> dict[Path, float]:
        batch = waiting.pop(shape)
        return attempt(batch, compiled.setdefault(shape, len(batch)))  # the last batch is padded, not compiled again

    for path in paths:
        try:
            image = read_image(path)
            if shrink is not None:
                make_room(programs, image.shape)
            pixels = shrink(image) if shrink else image
            seen(path, (image.shape[0], image.shape[1]))
        except ValueError as error:
            faults[path] = str(error)
            yield {}
            continue
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            faults[path] = "not enough memory"
            yield {}
            continue
        batch = waiting.setdefault(pixels.shape, [])
        batch.append((path, pixels))
        if len(batch) >= min(batch_size, max(1, PIXELS // pixels_of(pixels.shape))):
            yield run(pixels.shape)
        elif sum(len(batch) * batch[0][1].nbytes for batch in waiting.values()) > WAITING:
            yield run(max(waiting, key=lambda shape: len(waiting[shape]) * waiting[shape][0][1].nbytes))
    for shape in list(waiting):
        yield run(shape)


def _network_pixels(model: Any) -> Callable[[tuple[int, ...]], int]:
    """Return a function: shape of an image -> pixels that the network processes, over all crops if there are crops."""
    import jax
    import jax.numpy as jnp

    def count(shape: tuple[int, ...]) -> int:
        image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        try:
            prepared = jax.eval_shape(model.prepare, image)
        except (AttributeError, TypeError, ValueError):  # scoring raises the error for this size
            return shape[0] * shape[1]
        return max(shape[0] * shape[1], math.prod(jax.tree.leaves(prepared)[0].shape[:-1]))

    return cache(count)


def _compiled(model: Any) -> Callable[[Any], Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxiqa import models

    score, run = models.score_fn(model), jax.jit(lambda score, images: score(images))

    def of(pixels: Any) -> Any:
        return np.asarray(run(score, jnp.asarray(_unit(pixels))))

    return of


def _shrinker(model: Any) -> Callable[[Any], Any] | None:
    """Return the resize of single images that is done before batching, or None.

    If a metric first resizes all images to one size, and does not change images of that size, the resize is done here.
    Then images of all sizes share batches and one compiled program; compiling takes far longer than a resize.
    """
    import jax.numpy as jnp
    import numpy as np

    if model.input_size is None:
        return None
    blank = jnp.zeros((1, *model.input_size, 3))
    if model.prepare(blank) is not blank:
        return None
    return lambda pixels: np.asarray(model.prepare(jnp.asarray(_unit(pixels))[None])[0])


def _unit(pixels: Any) -> Any:
    """Convert 8-bit values to float32 in [0, 1]; return other values unchanged."""
    return pixels.astype("float32") / 255 if pixels.dtype == "uint8" else pixels
