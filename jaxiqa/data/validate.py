"""Read every image once before the work starts."""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jaxiqa.data.known import Image, Stamp, file_of, recall, remember, stamp
from jaxiqa.data.split import Split

SHOWN = 20


def validate(split: Split, *, uniform: bool = False) -> None:
    """Decode all images, so that a bad file raises an error now and not in epoch 7.

    A terminal shows the progress. A file that was decoded before and has the same size and times is not decoded again:
    `jaxiqa.data.known`.

    Args:
        split: the images.
        uniform: also require one common size; a model without an input size needs it.

    Raises:
        ValueError: one error that lists every image that cannot be decoded, with its row, and with ``uniform`` every
            image that does not have the most common size.

    >>> from jaxiqa.data import load
    >>> validate(load("builtin", size=(16, 20), train=4, val=2, test=2)["test"], uniform=True)
    """
    pixel_digests(split, uniform=uniform)


def pixel_digests(split: Split, *, uniform: bool = False) -> tuple[str, ...]:
    """`validate`, and return the SHA-256 digest of the shape and pixels of each image.

    >>> from jaxiqa.data import load
    >>> len(pixel_digests(load("builtin", size=(16, 20), train=4, val=2, test=2)["test"])[0])
    64
    """
    files = {index: path for index in range(len(split)) if (path := file_of(split.read, index))}
    before = recall(files.values(), Image)
    known = {index: before[path] for index, path in files.items() if path in before}

    def attempt(index: int) -> tuple[int, Stamp | None, Image | str]:
        then = stamp(files[index]) if index in files else None
        try:
            pixels = split.read(index)
            digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
            return index, then, Image(pixels.shape[0], pixels.shape[1], digest)
        except ValueError as error:
            return index, then, f"{place(index)}{error}"

    def place(index: int) -> str:
        return f"{split.rows[index]}: " if split.rows else ""

    unknown = [index for index in range(len(split)) if index not in known]
    results = _in_threads(attempt, unknown, f"checking {split.name}")
    made = {index: image for index, _, image in results if isinstance(image, Image)}
    remember({files[index]: (then, made[index]) for index, then, _ in results if then and index in made}, Image)
    problems = [fault for _, _, fault in results if isinstance(fault, str)]
    images = known | made
    sizes = Counter((image.height, image.width) for image in images.values())
    if uniform and len(sizes) > 1:
        common = sizes.most_common(1)[0][0]
        problems += [
            f"{place(index)}{split.ids[index]} is {image.width}x{image.height}, most images are "
            f"{common[1]}x{common[0]}; set model.input_size to resize"
            for index, image in sorted(images.items())
            if (image.height, image.width) != common
        ]
    raise_all(split.name, problems)
    return tuple(images[index].digest for index in range(len(split)))


def _in_threads(attempt: Callable[[int], Any], indices: Sequence[int], title: str) -> list[Any]:
    """Return the result of each index; a terminal shows the progress."""
    from rich.console import Console
    from rich.progress import track

    pool = ThreadPoolExecutor()
    try:
        return list(
            track(
                pool.map(attempt, indices),
                title,
                total=len(indices),
                console=Console(stderr=True),
                transient=True,
                disable=not (indices and sys.stderr.isatty()),
            )
        )
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not wait for the rest


def raise_all(where: str, problems: Sequence[str]) -> None:
    """Raise one ``ValueError`` that lists the first 20 problems; do nothing if there are none.

    >>> raise_all("scores.csv", ["row 2: score nan"])
    Traceback (most recent call last):
    ValueError: scores.csv: 1 problem
      row 2: score nan
    """
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        more = [f"... and {len(problems) - SHOWN} more"] * (len(problems) > SHOWN)
        raise ValueError(f"{where}: {count}\n  " + "\n  ".join([*problems[:SHOWN], *more]))
