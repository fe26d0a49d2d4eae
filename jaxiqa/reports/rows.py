"""Rows on disk: JSON lines that survive a kill in the middle of a write."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any


def read_rows(path: Path, row_type: type) -> list[Any]:
    """All rows of a file; none if there is no file.

    A last line without its newline is what a kill left: it is not counted, and `append_rows` removes it.

    Raises:
        ValueError: any other line that is not exactly a ``row_type``; names file and line.
    """
    if not path.exists():
        return []
    names = {field.name for field in fields(row_type)}
    *lines, _torn = path.read_text().split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path} line {number} is damaged: {error}") from error
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError(f"{path} line {number} is not a {row_type.__name__} with {', '.join(sorted(names))}")
        rows.append(row_type(**values))
    return rows


def append_rows(path: Path, rows: Sequence[Any]) -> None:
    """Add rows with one write that reaches the disk before this returns.

    Raises:
        ValueError: a value that is not finite; names its row. Nothing is then written.
    """
    for row in rows:
        for name, value in asdict(row).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name}={value} in {row}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        _remove_torn_line(path, file)
        file.write("".join(json.dumps(asdict(row)) + "\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def _remove_torn_line(path: Path, file: Any) -> None:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        file.truncate(content.rfind(b"\n") + 1)
