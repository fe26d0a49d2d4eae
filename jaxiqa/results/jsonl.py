"""Rows on disk: sealed JSON lines that survive a kill in the middle of a write.

Every line ends with ``"seal"``, a digest of the rest of the line, so a change of a line after it was written is
detected. A line without a seal is accepted only before the first sealed one: it is from a version without seals, and a
change in it cannot be detected. Missing lines are no error here: each stage of `jaxiqa.evaluation` finds out which rows
exist, and makes the missing ones.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, get_args

from jaxiqa.core.files import writing

SEAL = b', "seal": "'
"""The bytes between the values of a line and their digest."""


def seal(content: bytes) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 digest.

    >>> seal(b'{"a": 1}')
    'f9d86028c6e0d64e'
    """
    return hashlib.sha256(content).hexdigest()[:16]


def read_rows(path: Path, row_type: type) -> list[Any]:
    """Return all rows of a file; none if the file does not exist.

    A last line without its newline is the result of a kill: it is ignored, and `append_rows` removes it.

    Raises:
        ValueError: any other line that is not exactly a ``row_type`` with finite numbers, that does not fit its seal,
            or that has no seal although an earlier line has one; the message names file and line.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    return parse_lines(content[: content.rfind(b"\n") + 1], row_type, path)


def parse_lines(content: bytes, row_type: type, path: Path, *, before: int = 0, sealed: bool = False) -> list[Any]:
    """Return the rows of complete lines.

    Args:
        content: lines, each with its newline.
        row_type: kind of the rows.
        path: the file, for messages.
        before: number of lines of the file before these.
        sealed: whether one of those is sealed.

    Raises:
        ValueError: as of `read_rows`.
    """
    rows = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=before + 1):
        where = f"{path} line {number}"
        values = _unsealed(line, where)
        if sealed and values is line:
            raise ValueError(f"{where} has no seal, but a line before it has one: {REMEDY}")
        sealed = values is not line
        rows.append(_parse(values, row_type, where))
    return rows


def canonical_lines(content: bytes, row_type: type, path: Path, *, before: int = 0, sealed: bool = False) -> bytes:
    """Return the same rows as lines that `append_rows` could have written; arguments and errors are of `parse_lines`.

    Sealed lines are compared with a pattern of their names and types, which is ten times as fast as parsing them.

    >>> from jaxiqa.results.rows import PredictionRow
    >>> line = b'{"mos": 1.5, "image": "i", "model": "m", "seed": 0, "score": 2.0}\\n'
    >>> canonical_lines(line, PredictionRow, Path("p"))
    b'{"image": "i", "model": "m", "seed": 0, "mos": 1.5, "score": 2.0}\\n'
    """
    end = 0
    for found in _pattern(row_type).finditer(content):
        if found.start() != end or hashlib.sha256(found[1] + b"}").hexdigest()[:16].encode() != found[2]:
            break
        end = found.end()
    if end == len(content):
        return content
    rows = parse_lines(content, row_type, path, before=before, sealed=sealed)
    return b"".join(json.dumps(asdict(row)).encode() + b"\n" for row in rows)


@cache
def _pattern(row_type: type) -> re.Pattern[bytes]:
    """Return the pattern of a sealed line; its groups are the line up to the seal, and the seal."""
    text = rb'"[ !#-\[\]-~]*(?:\\.[ !#-\[\]-~]*)*"'
    kinds = {str: text, int: rb"-?\d{1,18}", float: rb"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", bool: rb"true|false"}
    kinds[type(None)] = b"null"
    parts = []
    for field in fields(row_type):
        allowed = b"|".join(kinds[kind] for kind in get_args(field.type) or (field.type,))
        parts.append(b'"%s": (?:%s)' % (field.name.encode(), allowed))
    return re.compile(rb"(\{" + b", ".join(parts) + rb')%s([0-9a-f]{16})"\}\n' % re.escape(SEAL))


def append_rows(path: Path, rows: Sequence[Any]) -> None:
    """Add rows by one write that is on the disk when this returns.

    Raises:
        ValueError: a value of the wrong type or not finite; the message names its row. Nothing is written then.
        WriteError: the file cannot be written.
    """
    for row in rows:
        _check(asdict(row), type(row), str(row))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            _remove_torn_line(file)
            file.write(b"".join(_sealed(json.dumps(asdict(row)).encode()) + b"\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())


REMEDY = "it was changed after it was written; delete the line and run the same command to make the row again"


def _sealed(content: bytes) -> bytes:
    return content[:-1] + SEAL + seal(content).encode() + b'"}'


def _unsealed(line: bytes, where: str) -> bytes:
    """Return the line as it was before it was sealed; the line itself if it has no seal."""
    values, found, _ = line.rpartition(SEAL)
    if not found:
        return line
    content = values + b"}"
    if _sealed(content) != line:
        raise ValueError(f"{where} does not fit its seal: {REMEDY}")
    return content


def _parse(line: bytes, row_type: type, where: str) -> Any:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is damaged ({error}): {REMEDY}") from error
    names = {field.name for field in fields(row_type)}
    defaults = {field.name: field.default for field in fields(row_type) if field.default is not MISSING}
    if isinstance(values, dict):
        values = defaults | values  # rows from before a field was added
    if not isinstance(values, dict) or set(values) != names:
        raise ValueError(f"{where} is not a {row_type.__name__} with {', '.join(sorted(names))}")
    _check(values, row_type, where)
    return row_type(**values)


def _check(values: dict[str, Any], row_type: type, where: str) -> None:
    for field in fields(row_type):
        value = values[field.name]
        # JSON does not distinguish 1 from 1.0, and in Python True is an int.
        kind: Any = field.type | int if field.type in (float, float | None) else field.type
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{where}: {field.name}={value!r} is not a {getattr(kind, '__name__', kind)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{where}: {field.name}={value} is not finite")


def _remove_torn_line(file: BinaryIO) -> None:
    """Cut the file after its last newline, which is searched from the end: a file may be larger than the memory."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 2**20)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            file.truncate(start + newline + 1)
            return
        end = start
    file.truncate(0)
