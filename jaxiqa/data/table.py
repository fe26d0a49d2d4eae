"""Score tables: a csv with one picture per row. Every fault is found at once and named with its row."""

import csv
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxiqa.data.split import Files, Split

SHOWN = 20


def raise_all(where: str, problems: Sequence[str]) -> None:
    """One ``ValueError`` for all problems, the first twenty in full; nothing if there are none.

    >>> raise_all("scores.csv", ["row 2: score nan"])
    Traceback (most recent call last):
    ValueError: scores.csv: 1 problem
      row 2: score nan
    """
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        more = [f"... and {len(problems) - SHOWN} more"] * (len(problems) > SHOWN)
        raise ValueError(f"{where}: {count}\n  " + "\n  ".join([*problems[:SHOWN], *more]))


def read_splits(
    path: Path,
    *,
    name: str,
    image_column: str,
    score_column: str | None,
    split_of: Callable[[dict[str, str], int], str],
    columns: Sequence[str] = (),
    digest_column: str | None = None,
    image_folder: Path | None = None,
    mos_range: tuple[float, float] | None = None,
) -> dict[str, Split]:
    """The splits that a csv describes.

    Args:
        path: the csv, with a header.
        name: of the data set.
        image_column: file names, relative to ``image_folder``.
        score_column: scores, or None for pictures without.
        split_of: (row, number of the row counted from 0) -> name of its split.
        columns: further columns that must be there.
        digest_column: SHA-256 of the files, checked here; None where the table has none.
        image_folder: the csv's own folder by default.
        mos_range: scores outside are faults.

    Raises:
        ValueError: the csv is missing, empty or lacks a column; or, all in one error with row numbers, scores that are
            no finite numbers, pictures that appear twice, are missing, or do not match their digest.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it should list the pictures of {name}")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        rows = list(reader)
    wanted = [image_column, *([score_column] if score_column else []), *columns]
    if missing := [column for column in wanted if column not in header]:
        raise ValueError(f"{path}: has no column {', '.join(map(repr, missing))}; its columns are {', '.join(header)}")
    if not rows:
        raise ValueError(f"{path}: has a header but no rows")

    folder = image_folder or path.parent
    problems, first_seen = [], {}
    entries: dict[str, list[tuple[str, float, str]]] = {}
    for number, row in enumerate(rows):
        place = f"row {number + 2}"  # as a spreadsheet counts, the header being row 1
        image = (row[image_column] or "").strip()
        if not image:
            problems.append(f"{place}: column {image_column!r} is empty")
            continue
        if image in first_seen:
            problems.append(f"{place}: {image} appears twice, first in {first_seen[image]}")
            continue
        first_seen[image] = place
        score = math.nan
        if score_column:
            score = _number(row[score_column])
            if not math.isfinite(score) or (mos_range and not mos_range[0] <= score <= mos_range[1]):
                allowed = f"a number in [{mos_range[0]}, {mos_range[1]}]" if mos_range else "a finite number"
                problems.append(f"{place}: {image} has the score {row[score_column]!r}; expected {allowed}")
        if fault := _fault(folder / image, row[digest_column] if digest_column else None):
            problems.append(f"{place}: {image} {fault}")
        entries.setdefault(split_of(row, number), []).append((image, score, place))
    raise_all(str(path), problems)

    splits = {}
    for part, items in entries.items():
        ids, scores, places = zip(*items, strict=True)
        splits[part] = Split(
            name=f"{name}/{part}",
            ids=ids,
            mos=np.asarray(scores, np.float32) if score_column else None,
            mos_range=mos_range,
            read=Files(tuple(folder / image for image in ids)),
            rows=tuple(f"{path.name} {place}" for place in places),
        )
    return splits


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _fault(path: Path, digest: str | None) -> str | None:
    if not path.is_file():
        return f"is missing ({path})"
    if digest and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        return "does not match the digest in the table; the file is damaged or another picture"
    return None
