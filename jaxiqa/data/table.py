"""Score tables: a csv with one picture per row. Every fault is found at once and named with its row."""

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
    for needed, exists in ((path, path.exists()), (folder, folder.is_dir())):
        if not exists:
            raise ValueError(
                f"data set {name!r}: {needed} does not exist. {origin} Put it there, or name its folder by data.source;"
                f" relative folders lie under $JAXIQA_DATA (now {os.environ.get('JAXIQA_DATA') or './data'})"
            )
    if fault := file_fault(path):
        raise ValueError(f"data set {name!r}: {path} {fault}")
    wanted = [image_column, *([score_column] if score_column else []), *columns]
    header, numbered = _rows(path, wanted)
    digest_column = digest_column if digest_column in header else None

    problems: list[str] = []
    first_seen: dict[Any, str] = {}
    found: dict[str, Path] = {}
    entries: dict[str, list[tuple[str, float, str]]] = {part: [] for part in PARTS}
    parts = assign([row for _, row in numbered])
    for (place, row), part in zip(numbered, parts, strict=True):
        if None in row or None in row.values():
            problems.append(f"{place}: has not as many values as the header has columns ({len(header)})")
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
        score = _number(row[score_column]) if score_column else 0.0
        low, high = mos_range or (-np.inf, np.inf)
        if score_column and not (np.isfinite(score) and low <= score <= high):
            allowed = f"a number in [{low}, {high}]" if mos_range else "a finite number"
            problems.append(f"{place}: {image} has the score {row[score_column]!r}; expected {allowed}")
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
        splits[part] = Split(
            name=f"{name}/{part}",
            ids=ids,
            mos=np.asarray(scores, np.float32) if score_column else None,
            mos_range=mos_range,
            read=Files(tuple(found[image] for image in ids)),
            rows=tuple(f"{path.name} {place}" for place in places),
        )
    return splits


def find_file(folder: Path, image: str) -> Path:
    """The file that a table means. Names are compared in NFC where no file has exactly these characters.

    macOS stores "é" as two characters and most tables as one; both are the same name.
    """
    path = folder / image
    if os.path.lexists(path):
        return path
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
    """Why a name may be none of an image inside the folder."""
    if not image.isprintable():
        return "holds control characters"
    depth = 0
    for part in image.replace("\\", "/").split("/") if os.sep == "\\" else image.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            return "lies outside the folder; names are relative to it"
    if os.path.isabs(image):
        return "is an absolute path; names are relative to the folder"
    return None


def _identity(path: Path) -> Any:
    """The same for every spelling of, and link to, one file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return os.path.normpath(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _rows(path: Path, wanted: Sequence[str]) -> tuple[list[str], list[tuple[str, Row]]]:
    """The header, and the rows with their line numbers; spaces around names and values are dropped.

    Columns are separated by commas; or by semicolons or tabs, where the header has the wanted columns only so. Then a
    number may have a decimal comma.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: has more than {MAX_BYTES} bytes; tables of images are smaller")
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
            if values:  # an editor counts the header as row 1
                rows.append((f"row {reader.line_num}", _row(header, [value.strip() for value in values], delimiter)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: is not a csv in UTF-8: {error}") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if twice := [column for column in wanted if header.count(column) > 1]:
        raise ValueError(f"{path}: has more than one column {', '.join(map(repr, twice))}")
    if not rows:
        raise ValueError(f"{path}: has a header but no rows")
    return header, rows


def _row(header: list[str], values: list[str], delimiter: str) -> Row:
    """Values by column; a value more is put under None, and one less is None."""
    if delimiter != ",":
        values = [re.sub(r"^([+-]?\d+),(\d+)$", r"\1.\2", value) for value in values]
    row: Row = dict(itertools.zip_longest(header, values[: len(header)]))
    return row | ({None: values[len(header) :]} if len(values) > len(header) else {})


def _number(text: str) -> float:
    """The number as float32 holds it; NaN where there is none."""
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
            return "does not match the digest in the table; the file is damaged or another picture"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None
