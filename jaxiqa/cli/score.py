"""Score images from the shell.

    jaxiqa score photo.jpg folder/ --sort
    jaxiqa score linearity --weights p1q2.pth folder/ --csv scores.csv

The first word may name a metric (``jaxiqa list metrics``); one that comes with jaxiqa needs no weights. Folders and
their subfolders are searched for images. Images may have any size. Images that cannot be read or scored are listed at
the end; the exit status is then 1.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxiqa.cli.options import options_last, parse_options
from jaxiqa.cli.score_files import score_files
from jaxiqa.cli.score_table import check_output, give, save

SAVE_SECONDS = 10.0
"""Seconds between writes of the csv, so that a killed run loses little."""

SHOWN = 20

FAR = 4.0
"""Largest usual factor between a side of an image and that of the training's images."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of the program."""

    first: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="METRIC-OR-IMAGE")]
    """Name of a metric, or its address, hf://owner/name; or the first image: then jaxiqa-base scores all."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...")] = ()
    """Image files and folders."""
    weights: str | None = None
    """File of published weights, name of published weights, folder of a training run, or address on the hub; none for a
    metric that comes with jaxiqa or is an address."""
    csv: Path | None = None
    """File to write, with the columns image and score; an existing file is replaced. Without it, a table is printed."""
    sort: bool = False
    """Print or write the best first."""
    batch_size: int = 8
    """Images of equal size scored at once."""
    epsilon: str | None = None
    """Also give the certified interval of every score: of all images within this distance, such as 2/255 or 0.5. It is
    the distance from the image as it is scored, in 8 bits per channel."""
    norm: Literal["linf", "l2"] | None = None
    """Norm of epsilon: linf, the default, the largest change of a pixel value; or l2, the Euclidean distance. Pixels
    have values in [0, 1]."""
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

    name, places = named((arguments.first, *arguments.images))
    found = find(places)
    if arguments.csv:
        check_output(arguments.csv, found.paths)
    start_jax()
    from jaxiqa import models
    from jaxiqa.models import zoo

    model = models.load(name, arguments.weights, **options)
    radius = _radius(arguments, name, model)
    scores: dict[Path, float] = {}
    changes: dict[Path, float] = {}
    certify = cache(lambda size: model.certificate(radius, size, norm=arguments.norm or "linf"))
    far: list[Path] = []

    def seen(path: Path, size: tuple[int, int]) -> None:
        if radius is not None:
            changes[path] = certify(size)
        if is_far(size, model.input_size):
            far.append(path)

    faults = dict(found.faults)
    total, interrupted, written = len(found.paths), False, time.monotonic()
    try:
        with progress_bar("scoring", "images") as update:
            for done in score_files(model, found.paths, faults, batch_size=arguments.batch_size, seen=seen):
                scores |= done
                update(len(scores) + len(faults), total)
                if arguments.csv and done and time.monotonic() - written > SAVE_SECONDS:
                    save(arguments.csv, found.paths, scores, changes)
                    written = time.monotonic()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if scores or not interrupted:
            paths = sorted(scores, key=lambda path: -scores[path]) if arguments.sort else found.paths
            give(arguments.csv, paths, scores, changes)
    if scores and name in zoo.SHIPPED:
        note(f"{name}: {zoo.SCALE}")
    if found.skipped:
        count = len(found.skipped)
        note(f"skipped {count} non-image file{'s' * (count > 1)}: {_first_of(found.skipped)}")
    if far:
        height, width = model.input_size
        note(
            f"{len(far)} of {total} images are far from the size of the training, {width}x{height} pixels, to which "
            f"they are resized; their scores are less certain: {_first_of(far)}"
        )
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


def _first_of(paths: Sequence[Path]) -> str:
    from jaxiqa.core.progress import shown

    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(shown(path) for path in paths[:SHOWN]) + more


def is_far(size: tuple[int, int], trained: tuple[int, int] | None) -> bool:
    """Return whether a resize from ``size`` to the size of the training changes a side more than `FAR` times, or the
    ratio of the sides more than twice.

    >>> is_far((500, 500), (192, 256)), is_far((3000, 4000), (192, 256)), is_far((60, 500), (192, 256))
    (False, True, True)
    """
    if trained is None:
        return False
    down, across = size[0] / trained[0], size[1] / trained[1]
    smaller, larger = min(down, across), max(down, across)
    return larger > FAR or smaller < 1 / FAR or larger > 2 * smaller


def named(words: Sequence[str]) -> tuple[str, list[Path]]:
    """Return the name of the metric, and the paths: the first word is a path if there is such a file or folder.

    >>> named(["linearity", "photo.jpg"])
    ('linearity', [PosixPath('photo.jpg')])
    """
    from jaxiqa.config.suggest import suggestion
    from jaxiqa.models.registry import MODELS
    from jaxiqa.models.zoo import DEFAULT, SHIPPED, is_complete

    first = words[0] if words else ""
    if first and Path(first).exists():
        return DEFAULT, [Path(word) for word in words]
    names = (*SHIPPED, *MODELS)
    known = first in names or is_complete(first)
    if known and words[1:]:
        return first, [Path(word) for word in words[1:]]
    if not words or known:
        raise ValueError("no images are given: jaxiqa score [METRIC] IMAGE ...")
    if len(words) == 1 or Path(first).suffix:
        return DEFAULT, [Path(word) for word in words]  # the missing file is reported with the others
    raise ValueError(f"{first} is neither a file, nor a folder, nor a metric{suggestion(first, names)}")


def _radius(arguments: Arguments, name: str, model: Any) -> float | None:
    """Return epsilon as a number, or None; raise ``ValueError`` if it is none or the model has no certificate."""
    if arguments.epsilon is None:
        if arguments.norm is not None:
            raise ValueError(f"norm={arguments.norm} has no effect without epsilon, such as --epsilon 2/255")
        return None
    from jaxiqa.cli.values import parse_number

    if not hasattr(model, "certificate"):
        raise ValueError(f"epsilon={arguments.epsilon}: {name} has no certificate; jaxiqa-certified has one")
    radius = parse_number(arguments.epsilon)
    model.certificate(radius, (1, 1), norm=arguments.norm or "linf")  # raises the error for a wrong number
    return radius
