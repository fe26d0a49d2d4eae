"""Score images from the shell.

    jaxiqa score linearity --weights p1q2.pth photo.jpg folder/ --csv scores.csv

Folders and their subfolders are searched for images. Images may have any size. Images that cannot be read or scored are
listed at the end; the exit status is then 1.
"""

import math
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxiqa.cli.options import options_last, parse_options
from jaxiqa.cli.score_table import check_output, give, save

PIXELS = 2**22
"""Most pixels in a batch of several images; batches of large images are smaller."""

SAVE_SECONDS = 10.0
"""Seconds between writes of the csv, so that a killed run loses little."""

SHOWN = 20

WAITING = 2**29
"""Most bytes of images that wait for others of their size."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of the program."""

    model: Annotated[str, tyro.conf.Positional]
    """A model, such as linearity; or the address of a trained one on the hub, such as hf://owner/name."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files and folders."""
    weights: str | None = None
    """File of published weights, name of published weights, folder of a training run, or address on the hub; none for a
    model that is an address."""
    csv: Path | None = None
    """File to write, with the columns image and score; an existing file is replaced. Without it, a table is printed."""
    batch_size: int = 8
    """Images of equal size scored at once."""
    epsilon: str | None = None
    """Also give the certified interval of every score: of all images within this distance, such as 2/255 or 0.5."""
    norm: Literal["linf", "l2"] = "linf"
    """Norm of epsilon: largest change of a pixel value, or Euclidean distance; pixel values are in [0, 1]."""
    options: tuple[str, ...] = ()
    """Options of the model, such as: protocol=pyiqa"""


def main(arguments: Sequence[str] | None = None, program: str = "jaxiqa score") -> int:
    """Run the command line; return 1 if an image could not be scored, else 0."""
    from jaxiqa.cli.runtime import explained

    with explained("nothing was scored"):
        words = options_last(sys.argv[1:] if arguments is None else arguments)
        return run(tyro.cli(Arguments, prog=program, description=__doc__, args=words))


def run(arguments: Arguments) -> int:
    """Score the images; write or print the scores, also of an interrupted run."""
    from jaxiqa.cli.runtime import INTERRUPTED, start_jax
    from jaxiqa.core.checks import check_number
    from jaxiqa.core.progress import note, progress_bar, shown

    check_number("batch_size", arguments.batch_size, 1)
    options = parse_options(arguments.options)
    from jaxiqa.data.search import find

    found = find(arguments.images)
    if arguments.csv:
        check_output(arguments.csv, found.paths)
    start_jax()
    from jaxiqa import models

    model = models.load(arguments.model, arguments.weights, **options)
    radius = _radius(arguments, model)
    scores: dict[Path, float] = {}
    changes: dict[Path, float] = {}
    certify = None if radius is None else cache(lambda size: model.certificate(radius, size, norm=arguments.norm))
    faults = dict(found.faults)
    total, interrupted, written = len(found.paths), False, time.monotonic()
    try:
        with progress_bar("scoring", "images") as update:
            for done in score_files(
                model, found.paths, faults, batch_size=arguments.batch_size, certify=certify, changes=changes
            ):
                scores |= done
                update(len(scores) + len(faults), total)
                if arguments.csv and done and time.monotonic() - written > SAVE_SECONDS:
                    save(arguments.csv, found.paths, scores, changes)
                    written = time.monotonic()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if scores or not interrupted:
            give(arguments.csv, found.paths, scores, changes)
    if found.skipped:
        names = ", ".join(shown(path) for path in found.skipped[:SHOWN])
        more = f" and {len(found.skipped) - SHOWN} more" if len(found.skipped) > SHOWN else ""
        count = len(found.skipped)
        note(f"skipped {count} non-image file{'s' * (count > 1)}: {names}{more}")
    for remark in found.remarks:
        note(shown(remark))
    if faults:
        note(f"\n{len(faults)} of {total + len(found.faults)} images could not be scored:")
        for path, fault in faults.items():
            note(f"  {shown(fault if fault.startswith(str(path)) else f'{path}: {fault}')}")
    if interrupted:
        kept = f"the {len(scores)} scores so far are in {arguments.csv}" if arguments.csv else "the scores are above"
        note(f"stopped: {len(scores)} of {total} images are scored; {kept if scores else 'nothing is written'}")
        return INTERRUPTED
    return 1 if faults else 0


def _radius(arguments: Arguments, model: Any) -> float | None:
    """Return epsilon as a number, or None; raise ``ValueError`` if it is none or the model has no certificate."""
    if arguments.epsilon is None:
        return None
    from jaxiqa.cli.values import parse_number

    if not hasattr(model, "certificate"):
        raise ValueError(f"epsilon={arguments.epsilon}: {arguments.model} has no certificate; lipschitz_iqa has one")
    radius = parse_number(arguments.epsilon)
    model.certificate(radius, (1, 1), norm=arguments.norm)  # raises the error for a wrong number
    return radius


def score_files(
    model: Any,
    paths: Sequence[Path],
    faults: dict[Path, str],
    *,
    batch_size: int,
    certify: Callable[[tuple[int, int]], float] | None = None,
    changes: dict[Path, float] | None = None,
) -> Iterator[dict[Path, float]]:
    """Yield the scores of image files, some at a time; store the reason in ``faults`` if a file cannot be scored.

    Images of one size wait until they fill a batch, as long as all waiting images fit in `WAITING`. With ``certify``,
    the certificate for each image's own size is stored in ``changes``.
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
            if certify is not None and changes is not None:
                changes[path] = certify((image.shape[0], image.shape[1]))
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
