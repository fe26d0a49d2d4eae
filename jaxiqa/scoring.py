"""Score pictures from the shell.

    python -m jaxiqa score linearity --weights p1q2.pth photo.jpg folder/ --csv scores.csv

Folders are searched for pictures, with their subfolders. Any size goes; what cannot be read or scored is listed at the
end, and the exit status is then 1.
"""

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxiqa.files import write_text
from jaxiqa.options import parse_options

SUFFIXES = frozenset(".bmp .gif .jfif .jp2 .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split())  # noqa: SIM905
"""What counts as a picture in a folder. A file that is named itself is read whatever it is called."""

PIXELS = 2**22
"""A batch of larger pictures is smaller, so that it holds no more pixels than this, or a single picture."""

WAITING = 2**29
"""Bytes of pictures that may wait for others of their size."""


@dataclass(frozen=True)
class Arguments:
    """What to score, with what."""

    model: Annotated[str, tyro.conf.Positional]
    """A model, such as linearity."""
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Picture files and folders of them."""
    weights: str
    """A file of published weights, the name of some, or the folder of a training run."""
    csv: Path | None = None
    """File to write, with the columns image and score; without it, a table is printed."""
    batch_size: int = 8
    """Pictures of equal size scored at once."""
    options: tuple[str, ...] = ()
    """Options of the model, such as: protocol=pyiqa"""


def main(args: Sequence[str]) -> int:
    """The command line; 1 if there was anything that could not be scored, else 0."""
    arguments = tyro.cli(Arguments, prog="python -m jaxiqa score", description=__doc__, args=list(args))
    from jaxiqa.checks import check_number
    from jaxiqa.terminal import console, explained, progress_bar, start_jax

    with explained():
        check_number("batch_size", arguments.batch_size, 1)
        paths, skipped = find(arguments.pictures)
        start_jax()
        from jaxiqa import models

        model = models.load(arguments.model, arguments.weights, **parse_options(arguments.options))
        scores: dict[Path, float] = {}
        faults: dict[Path, str] = {}
        with progress_bar("scoring", "pictures") as update:
            for done in score_files(model, paths, faults, batch_size=arguments.batch_size):
                scores |= done
                update(len(scores) + len(faults), len(paths))
    rows = [(str(path), scores[path]) for path in paths if path in scores]
    if arguments.csv:
        write_text(arguments.csv, as_csv(rows))
        console.print(f"{len(rows)} scores in {arguments.csv}", highlight=False, soft_wrap=True)
    else:
        width = max((len(image) for image, _ in rows), default=0)
        for image, score in rows:
            print(f"{image.ljust(width)}  {score:.4f}")
    if skipped:
        console.print(f"{skipped} other files in the folders are no pictures by their names", highlight=False)
    if faults:
        print(f"\n{len(faults)} of {len(paths)} pictures could not be scored:")
        for path, fault in faults.items():
            print(f"  {fault if fault.startswith(str(path)) else f'{path}: {fault}'}")
    return 1 if faults else 0


def find(places: Sequence[Path]) -> tuple[list[Path], int]:
    """Picture files, each once, in the order given, those of a folder sorted; and how many others the folders hold.

    Raises:
        ValueError: there is no picture at all.
    """
    found: dict[Path, None] = {}
    skipped = 0
    for place in places:
        if not place.is_dir():
            found[place] = None
            continue
        files = sorted(path for path in place.rglob("*") if path.is_file())
        pictures = [path for path in files if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
        skipped += len(files) - len(pictures)
        found |= dict.fromkeys(pictures)
    if not found:
        raise ValueError(f"there are no pictures in {', '.join(map(str, places)) or 'the empty list of folders'}")
    return list(found), skipped


def score_files(
    model: Any, paths: Sequence[Path], faults: dict[Path, str], *, batch_size: int
) -> Iterator[dict[Path, float]]:
    """Scores of picture files, some at a time; what cannot be scored is put into ``faults``, with the reason.

    Pictures of one size wait for each other until they fill a batch, as long as all that wait fit in `WAITING`.
    """
    import numpy as np

    from jaxiqa.data.decode import read_image

    score, shrink = _compiled(model), _shrinker(model)
    waiting: dict[tuple[int, ...], list[tuple[Path, Any]]] = {}
    compiled: dict[tuple[int, ...], int] = {}

    def run(shape: tuple[int, ...]) -> dict[Path, float]:
        batch = waiting.pop(shape)
        size = compiled.setdefault(shape, len(batch))  # the last batch is filled up, rather than compiled for
        pixels = [pixels for _, pixels in batch]
        pixels += pixels[-1:] * (size - len(batch))
        try:
            values = score(np.stack(pixels))
        except ValueError as error:  # too small for the model, say
            faults.update(dict.fromkeys((path for path, _ in batch), str(error)))
            return {}
        scores = {path: float(value) for (path, _), value in zip(batch, values, strict=False)}
        faults.update((path, f"its score is {value}") for path, value in scores.items() if not math.isfinite(value))
        return {path: value for path, value in scores.items() if math.isfinite(value)}

    for path in paths:
        try:
            pixels = shrink(read_image(path))
        except ValueError as error:
            faults[path] = str(error)
            yield {}
            continue
        batch = waiting.setdefault(pixels.shape, [])
        batch.append((path, pixels))
        if len(batch) >= min(batch_size, max(1, PIXELS // (pixels.shape[0] * pixels.shape[1]))):
            yield run(pixels.shape)
        elif sum(len(batch) * batch[0][1].nbytes for batch in waiting.values()) > WAITING:
            yield run(max(waiting, key=lambda shape: len(waiting[shape]) * waiting[shape][0][1].nbytes))
    for shape in list(waiting):
        yield run(shape)


def _compiled(model: Any) -> Callable[[Any], Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxiqa import models

    score, run = models.score_fn(model), jax.jit(lambda score, images: score(images))

    def of(pixels: Any) -> Any:
        return np.asarray(run(score, jnp.asarray(_unit(pixels))))

    return of


def _shrinker(model: Any) -> Callable[[Any], Any]:
    """What is done to each picture alone.

    Where a metric begins by resizing everything to one size, and leaves a picture of that size alone, it is done here:
    then pictures of all sizes share batches and one compiled program, which takes far longer to make than a resize.
    """
    import jax.numpy as jnp
    import numpy as np

    if model.input_size is None:
        return lambda pixels: pixels
    blank = jnp.zeros((1, *model.input_size, 3))
    if model.prepare(blank) is not blank:
        return lambda pixels: pixels
    return lambda pixels: np.asarray(model.prepare(jnp.asarray(_unit(pixels))[None])[0])


def _unit(pixels: Any) -> Any:
    """8-bit values as float32 in [0, 1]; others as they are."""
    return pixels.astype("float32") / 255 if pixels.dtype == "uint8" else pixels


def as_csv(rows: Sequence[tuple[str, float]]) -> str:
    """Lines of ``image,score``.

    >>> as_csv([("a, b.png", 61.25)])
    'image,score\\n"a, b.png",61.25\\n'
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("image", "score"))
    writer.writerows(rows)
    return file.getvalue()
