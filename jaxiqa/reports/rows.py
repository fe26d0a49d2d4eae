"""Rows on disk: JSON lines that survive a kill in the middle of a write."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, BinaryIO


def read_rows(path: Path, row_type: type) -> list[Any]:
    """All rows of a file; none if there is no file.

    A last line without its newline is what a kill left: it is not counted, and `append_rows` removes it.

    Raises:
        ValueError: any other line that is not exactly a ``row_type`` with finite numbers; names file and line.
    """
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    return [_parse(line, row_type, f"{path} line {number}") for number, line in enumerate(lines, start=1)]


def append_rows(path: Path, rows: Sequence[Any]) -> None:
    """Add rows with one write that reaches the disk before this returns.

    Raises:
        ValueError: a value of the wrong type or not finite; names its row. Nothing is then written.
    """
    for row in rows:
        _check(asdict(row), type(row), str(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        _remove_torn_line(file)
        file.write("".join(json.dumps(asdict(row)) + "\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def _parse(line: bytes, row_type: type, where: str) -> Any:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is damaged: {error}") from error
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
        # JSON does not tell 1 from 1.0, and Python takes True for an int.
        kind = field.type | int if field.type in (float, float | None) else field.type
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{where}: {field.name}={value!r} is not a {getattr(kind, '__name__', kind)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{where}: {field.name}={value} is not finite")


def _remove_torn_line(file: BinaryIO) -> None:
    if end := file.seek(0, os.SEEK_END):
        file.seek(end - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
