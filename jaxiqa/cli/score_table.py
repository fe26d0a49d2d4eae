"""The table of scores: printed, or a csv, with the certified intervals if there are any."""

import os
from collections.abc import Sequence
from pathlib import Path

from jaxiqa.core.csv_files import FORMULA_STARTS, as_csv
from jaxiqa.core.files import check_file, write_bytes


def give(
    out: Path | None, paths: Sequence[Path], scores: dict[Path, float], changes: dict[Path, float] | None = None
) -> None:
    """Write the csv; print a table if there is no csv or it cannot be written."""
    from jaxiqa.core.progress import note, shown

    if out:
        try:
            save(out, paths, scores, changes)
            print(f"{len(scores)} scores in {shown(out)}")
            return
        except (OSError, ValueError) as error:
            note(f"error: {error}; the scores are printed instead")
    scored = [path for path in paths if path in scores]
    width = max((len(shown(path)) for path in scored), default=0)
    for path in scored:
        low, high = (f"{end:.4f}" for end in _interval(path, scores, changes or {}))
        print(f"{shown(path).ljust(width)}  {scores[path]:.4f}" + (f"  [{low}, {high}]" if changes else ""))


def _interval(path: Path, scores: dict[Path, float], changes: dict[Path, float]) -> tuple[float, float]:
    change = changes.get(path, 0.0)
    return scores[path] - change, scores[path] + change


def save(out: Path, paths: Sequence[Path], scores: dict[Path, float], changes: dict[Path, float] | None = None) -> None:
    """Write the scores so far, in the order of the paths; links are followed. Names keep their bytes."""
    scored = [path for path in paths if path in scores]
    ends = [_interval(path, scores, changes) for path in scored] if changes else None
    text = scores_csv([(str(path), scores[path]) for path in scored], ends)
    write_bytes(Path(os.path.realpath(out)), text.encode("utf-8", "surrogateescape"))


def check_output(out: Path, inputs: Sequence[Path]) -> None:
    """Check that a csv can be written here and replaces none of the images; else raise ``ValueError``."""
    if os.path.realpath(out) in map(os.path.realpath, inputs):
        raise ValueError(f"csv: {out} is one of the images; give another name")
    check_file("csv", out)


def scores_csv(rows: Sequence[tuple[str, float]], ends: Sequence[tuple[float, float]] | None = None) -> str:
    """Return the csv text with columns ``image,score``; with the ends of intervals, also ``low,high``.

    ``./`` is put before names that a spreadsheet would read as a formula, so that they still lead to the file.

    >>> print(scores_csv([("a, b.png", 61.25), ("=1.png", 50.0)]), end="")
    image,score
    "a, b.png",61.25
    ./=1.png,50.0
    """
    named = [(f"./{name}" if name.startswith(FORMULA_STARTS) else name, score) for name, score in rows]
    if ends is None:
        return as_csv([("image", "score"), *named])
    return as_csv([("image", "score", "low", "high"), *(row + end for row, end in zip(named, ends, strict=True))])
