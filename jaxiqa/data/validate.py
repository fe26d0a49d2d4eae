"""Read every image once before the work starts."""

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from jaxiqa.data.split import Split

SHOWN = 20


def validate(split: Split, *, uniform: bool = False) -> None:
    """Decode all images, so that a bad file raises an error now and not in epoch 7.

    A terminal shows the progress.

    Args:
        split: the images.
        uniform: also require one common size; a model without an input size needs it.

    Raises:
        ValueError: one error that lists every image that cannot be decoded, with its row, and with ``uniform`` every
            image that does not have the most common size.

    >>> from jaxiqa.data import load
    >>> validate(load("builtin", size=(16, 20), train=4, val=2, test=2)["test"], uniform=True)
    """

    def attempt(index: int) -> tuple[tuple[int, int] | None, str]:
        place = f"{split.rows[index]}: " if split.rows else ""
        try:
            return split.read(index).shape[:2], f"{place}{split.ids[index]}"
        except ValueError as error:
            return None, f"{place}{error}"

    from rich.console import Console
    from rich.progress import track

    pool = ThreadPoolExecutor()
    try:
        attempts = pool.map(attempt, range(len(split)))
        results = list(
            track(
                attempts,
                f"checking {split.name}",
                total=len(split),
                console=Console(stderr=True),
                transient=True,
                disable=not sys.stderr.isatty(),
            )
        )
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not wait for the rest
    problems = [message for size, message in results if size is None]
    sizes = Counter(size for size, _ in results if size)
    if uniform and len(sizes) > 1:
        common = sizes.most_common(1)[0][0]
        problems += [
            f"{message} is {size[1]}x{size[0]}, most images are {common[1]}x{common[0]}; set model.input_size to resize"
            for size, message in results
            if size and size != common
        ]
    raise_all(split.name, problems)


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
