"""Score tables: a csv with one picture per row. Every fault is found at once and named with its row."""

import csv
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxiqa.data.split import Files, Split

SHOWN = 20
PARTS = ("train", "val", "test")

Row = dict[str, str]


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
    origin: str,
    image_column: str,
    score_column: str | None,
    assign: Callable[[list[Row]], Sequence[str]],
    columns: Sequence[str] = (),
    digest_column: str | None = None,
    image_folder: Path | None = None,
    mos_range: tuple[float, float] | None = None,
) -> dict[str, Split]:
    """The splits that a csv describes.

    Args:
        path: the csv, with a header.
        name: of the data set.
        origin: where it can be got, for the error if it is not there.
        image_column: file names, relative to ``image_folder``.
        score_column: scores, or None for pictures without.
        assign: rows -> the split of each, ``train``, ``val`` or ``test``.
        columns: further columns that must be there.
        digest_column: SHA-256 of the files, checked here where the table has that column.
        image_folder: the csv's own folder by default.
        mos_range: scores outside are faults.

    Raises:
        ValueError: the csv is missing, empty, unreadable or lacks a column; or, all in one error with row numbers,
            scores that are no finite numbers, pictures that appear twice, are missing, do not match their digest or
            belong to no known split.
    """
    folder = image_folder or path.parent
    for needed, kind in ((path, Path.is_file), (folder, Path.is_dir)):
        if not kind(needed):
            raise ValueError(
                f"data set {name!r}: {needed} does not exist. {origin} Put it there, or name its folder by data.source;"
                f" relative folders lie under $JAXIQA_DATA (now {os.environ.get('JAXIQA_DATA') or './data'})"
            )
    wanted = [image_column, *([score_column] if score_column else []), *columns]
    header, numbered = _rows(path, wanted)
    digest_column = digest_column if digest_column in header else None

    problems, first_seen = [], {}
    entries: dict[str, list[tuple[str, float, str]]] = {part: [] for part in PARTS}
    parts = assign([row for _, row in numbered])
    for (place, row), part in zip(numbered, parts, strict=True):
        if None in row or None in row.values():
            problems.append(f"{place}: has not as many values as the header has columns ({len(header)})")
            continue
        image = row[image_column].strip()
        if not image:
            problems.append(f"{place}: column {image_column!r} is empty")
            continue
        if image in first_seen:
            problems.append(f"{place}: {image} appears twice, first in {first_seen[image]}")
            continue
        first_seen[image] = place
        score = _number(row[score_column]) if score_column else 0.0
        low, high = mos_range or (-np.inf, np.inf)
        if not (np.isfinite(score) and low <= score <= high):
            allowed = f"a number in [{low}, {high}]" if mos_range else "a finite number"
            problems.append(f"{place}: {image} has the score {row[score_column]!r}; expected {allowed}")
        if part not in PARTS:
            problems.append(f"{place}: {image} belongs to the split {part!r}; expected one of {', '.join(PARTS)}")
        elif fault := _fault(folder / image, row[digest_column] if digest_column else None):
            problems.append(f"{place}: {image} {fault}")
        else:
            entries[part].append((image, score, place))
    raise_all(str(path), problems)

    splits = {}
    for part, items in entries.items():
        if not items:
            continue
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


def _rows(path: Path, wanted: Sequence[str]) -> tuple[list[str], list[tuple[str, Row]]]:
    """The header, and the rows with their line numbers."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or [])
            rows = [(f"row {reader.line_num}", row) for row in reader]  # as an editor counts, the header being row 1
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: is not a csv in UTF-8: {error}") from error
    if missing := [column for column in wanted if column not in header]:
        raise ValueError(f"{path}: has no column {', '.join(map(repr, missing))}; its columns are {', '.join(header)}")
    if twice := [column for column in wanted if header.count(column) > 1]:
        raise ValueError(f"{path}: has more than one column {', '.join(map(repr, twice))}")
    if not rows:
        raise ValueError(f"{path}: has a header but no rows")
    return header, rows


def _number(text: str) -> float:
    """The number as float32 holds it; NaN where there is none."""
    try:
        value = float(text)
    except ValueError:
        return np.nan
    return value if abs(value) <= float(np.finfo(np.float32).max) else np.nan


def _fault(path: Path, digest: str | None) -> str | None:
    if not path.is_file():
        return f"is missing ({path})"
    if digest and hashlib.sha256(path.read_bytes()).hexdigest() != digest.strip().lower():
        return "does not match the digest in the table; the file is damaged or another picture"
    return None
