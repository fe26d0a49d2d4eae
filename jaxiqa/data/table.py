"""Score tables: a csv with one image per row. One error lists all faults with their rows."""

import csv
import hashlib
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxiqa.data.decode import file_fault
from jaxiqa.data.regions import OfSize, TableRegions, from_table, region_fault
from jaxiqa.data.split import Files, Split
from jaxiqa.data.validate import raise_all

PARTS = ("train", "val", "test")

MAX_BYTES = 2**26

Row = dict[str | None, Any]


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
    regions: Callable[[Row], TableRegions] | None = None,
) -> dict[str, Split]:
    """Read the splits that a csv describes.

    Args:
        path: the csv, with a header.
        name: name of the data set.
        origin: where to get the data set, for the error if it is missing.
        image_column: column of file names, relative to ``image_folder``.
        score_column: column of scores, or None for images without scores.
        assign: rows -> the split of each, ``train``, ``val`` or ``test``.
        columns: further required columns.
        digest_column: column of the SHA-256 digests of the files; they are checked if the table has this column.
        image_folder: the folder of the csv by default.
        mos_range: allowed range of the scores.
        regions: row -> the image's scored regions, for images that have them.

    Raises:
        ValueError: the csv is missing, empty, unreadable or lacks a column; or rows have faults, all listed in one
            error with row numbers: scores that are not finite or out of range; images that appear twice, are missing,
            do not match their digest or belong to an unknown split; regions outside of their image.
    """
    folder = image_folder or path.parent
    for needed, exists in ((path, path.exists()), (folder, folder.is_dir())):
        if not exists:
            raise ValueError(
                f"data set {name!r}: {needed} does not exist. {origin} Put it there, or set data.source to its folder;"
                f" relative folders are below $JAXIQA_DATA (now {os.environ.get('JAXIQA_DATA') or './data'})"
            )
    if fault := file_fault(path):
        raise ValueError(f"data set {name!r}: {path} {fault}")
    wanted = [image_column, *([score_column] if score_column else []), *columns]
    header, numbered = _rows(path, wanted)
    digest_column = digest_column if digest_column in header else None

    problems: list[str] = []
    first_seen: dict[Any, str] = {}
    found: dict[str, Path] = {}
    scored: dict[str, TableRegions] = {}
    entries: dict[str, list[tuple[str, float, str]]] = {part: [] for part in PARTS}
    parts = assign([row for _, row in numbered])
    for (place, row), part in zip(numbered, parts, strict=True):
        if None in row or None in row.values():
            count = len(header) + len(row.get(None, [])) - list(row.values()).count(None)
            problems.append(f"{place} has {count} value{'s' * (count != 1)}; the header has {len(header)} columns")
            continue
        image = row[image_column]
        if not image:
            problems.append(f"{place}: column {image_column!r} is empty")
            continue
        if fault := _name_fault(image):
            problems.append(f"{place}: {image!r} {fault}")
            continue
        file = find_file(folder, image)
        if image in first_seen or (key := _identity(file)) in first_seen:
            before = first_seen[image if image in first_seen else key]
            problems.append(f"{place}: {image} appears twice, first in {before}")
            continue
        first_seen |= {image: place, key: place}
        score = number(row[score_column]) if score_column else 0.0
        low, high = mos_range or (-np.inf, np.inf)
        if score_column and not (np.isfinite(score) and low <= score <= high):
            allowed = f"a number in [{low}, {high}]" if mos_range else "a finite number"
            problems.append(f"{place}: {image} has the score {row[score_column]!r}; expected {allowed}")
        if regions:
            scored[image] = regions(row)
            if fault := region_fault(scored[image], mos_range):
                problems.append(f"{place}: {image} {fault}")
        if part not in PARTS:
            problems.append(f"{place}: {image} belongs to the split {part!r}; expected one of {', '.join(PARTS)}")
        elif fault := _fault(file, row[digest_column] if digest_column else None):
            problems.append(f"{place}: {image} {fault}")
        else:
            entries[part].append((image, score, place))
            found[image] = file
    raise_all(str(path), problems)

    splits = {}
    for part, items in entries.items():
        if not items:
            continue
        ids, scores, places = zip(*items, strict=True)
        read = Files(tuple(found[image] for image in ids))
        splits[part] = Split(
            name=f"{name}/{part}",
            ids=ids,
            mos=np.asarray(scores, np.float32) if score_column else None,
            mos_range=mos_range,
            read=OfSize(read, ids, tuple(scored[image].size for image in ids)) if regions else read,
            rows=tuple(f"{path.name} {place}" for place in places),
            regions=from_table([scored[image] for image in ids]) if regions else None,
        )
    return splits


def find_file(folder: Path, image: str) -> Path:
    """Return the path of a file in a table. If no file has exactly this name, names are compared in NFC.

    macOS stores "é" as two characters, most tables as one; both are the same name.
    """
    name = os.path.join(folder, image)  # faster than paths, for a hundred thousand files
    if os.path.lexists(name):
        return Path(name)
    path = folder
    for part in Path(image).parts:
        exact = path / part
        if not os.path.lexists(exact):
            alike = [name for name in _names(path) if _normal(name) == _normal(part)]
            exact = path / alike[0] if len(alike) == 1 else exact
        path = exact
    return path


@lru_cache(maxsize=64)
def _listed(folder: Path, changed: int) -> tuple[str, ...]:
    return tuple(os.listdir(folder))


def _names(folder: Path) -> tuple[str, ...]:
    try:
        return _listed(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return ()


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _name_fault(image: str) -> str | None:
    """Return why a name is not valid for an image inside the folder, or None."""
    if not image.isprintable():
        return "has control characters"
    depth = 0
    for part in image.replace("\\", "/").split("/") if os.sep == "\\" else image.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            return "is outside the folder; names are relative to the folder"
    if os.path.isabs(image):
        return "is an absolute path; names are relative to the folder"
    return None


def _identity(path: Path) -> Any:
    """Return an identity that is equal for all spellings of, and links to, one file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return os.path.normpath(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _rows(path: Path, wanted: Sequence[str]) -> tuple[list[str], list[tuple[str, Row]]]:
    """Return the header, and the rows with their line numbers; spaces around names and values are removed.

    Columns are separated by commas. If the header then lacks the wanted columns, semicolons or tabs are tried; with
    them a number may have a decimal comma.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: has more than the {MAX_BYTES} bytes allowed for a table")
    header: list[str] = []
    try:
        text = path.read_text("utf-8-sig")
        for delimiter in (",", ";", "\t"):
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
            names = [name.strip().removeprefix("\ufeff") for name in next(reader, [])]
            header = header or names
            if set(wanted) <= set(names):
                header = names
                break
        else:
            missing = ", ".join(repr(column) for column in wanted if column not in header)
            raise ValueError(f"{path}: has no column {missing}; its columns are {', '.join(map(repr, header))}")
        rows = []
        for values in reader:
            if values:  # the header is row 1, as in editors
                rows.append((f"row {reader.line_num}", _row(header, [value.strip() for value in values], delimiter)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: is not a valid csv in UTF-8: {error}") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if twice := [column for column in wanted if header.count(column) > 1]:
        raise ValueError(f"{path}: has more than one column named {', '.join(map(repr, twice))}")
    if not rows:
        raise ValueError(f"{path}: has a header but no rows")
    return header, rows


def _row(header: list[str], values: list[str], delimiter: str) -> Row:
    """Return values by column; extra values are stored under None, missing values are None."""
    if delimiter != ",":
        values = [re.sub(r"^([+-]?\d+),(\d+)$", r"\1.\2", value) for value in values]
    row: Row = dict(itertools.zip_longest(header, values[: len(header)]))
    return row | ({None: values[len(header) :]} if len(values) > len(header) else {})


def number(text: str) -> float:
    """Convert text to a number; NaN if it is no number or too large for float32."""
    try:
        value = float(text) if text.isascii() and "_" not in text else np.nan
    except ValueError:
        return np.nan
    return value if abs(value) <= float(np.finfo(np.float32).max) else np.nan


def _fault(path: Path, digest: str | None) -> str | None:
    if fault := file_fault(path):
        return f"is missing ({path})" if fault == "no such file" else f"{fault} ({path})"
    try:
        if digest and hashlib.sha256(path.read_bytes()).hexdigest() != digest.lower():
            return "does not match the digest in the table; the file is damaged or another image"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None
