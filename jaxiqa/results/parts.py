"""Compacted rows: Parquet files beside the sealed lines, each for one range of their bytes.

The lines are the truth. ``parquet/KIND`` holds a file per `BLOCK` bytes of lines; its name says which bytes it stands
for, and has digests of these bytes and of its own. So a file is used only if the lines are still the same and it is
undamaged; a killed compaction leaves no such file. Lines after the last whole block have no file: they are read anew.
"""

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from io import BufferedReader
from pathlib import Path
from typing import Any, get_args

from jaxiqa.core.files import neighbour, writing
from jaxiqa.results.jsonl import SEAL, canonical_lines

_log = logging.getLogger(__name__)

BLOCK = 2**26
"""Bytes of lines that one Parquet file stands for, or slightly more: it ends with a line."""

COLUMNS = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}
_NAME = re.compile(r"(\d{15})-(\d{15})-(\d+)-([0-9a-f]{16})-([0-9a-f]{16})\.parquet")


@dataclass(frozen=True)
class Part:
    """One Parquet file: it stands for ``rows`` lines, the bytes from ``start`` to ``stop``."""

    path: Path
    start: int
    stop: int
    rows: int


def schema(kind: type) -> dict[str, str]:
    """Return name -> type in SQL of the fields of a kind of rows.

    >>> from jaxiqa.results.rows import PredictionRow
    >>> schema(PredictionRow)
    {'image': 'VARCHAR', 'model': 'VARCHAR', 'seed': 'BIGINT', 'mos': 'DOUBLE', 'score': 'DOUBLE'}
    """
    return {field.name: COLUMNS[(get_args(field.type) or (field.type,))[0]] for field in fields(kind)}


def folder_of(lines: Path, kind: type) -> Path:
    """Return the folder of the Parquet files; versions with other fields have other folders."""
    return lines.parent / "parquet" / f"{lines.stem}-{_digest(repr(schema(kind)).encode())[:8]}"


def parts_of(engine: Any, lines: Path, kind: type, checked: Sequence[Part] = ()) -> list[Part]:
    """Return the parts of all whole blocks of lines; make those that are missing, and replace damaged ones.

    Args:
        engine: a DuckDB connection.
        lines: the file of the lines.
        kind: of its rows.
        checked: the first parts, if they are known to be those of the lines.

    Raises:
        ValueError: a line is damaged; the message names it.
        WriteError: a part cannot be written.
    """
    folder, found = folder_of(lines, kind), list(checked)
    known: dict[Path, Any] = {path: _NAME.fullmatch(path.name) for path in sorted(folder.glob("*.parquet"))}
    with open(lines, "rb") as file:
        start, before = found[-1].stop if found else 0, sum(part.rows for part in found)
        while True:
            fitting = (part for path, name in known.items() if (part := _part(path, name, file, start)))
            part = next(fitting, None)
            if part:
                known.pop(part.path)
            elif content := _block(file, start):
                part = _make(engine, folder, lines, kind, content, start, before, sealed=_sealed_before(file, start))
            else:
                break
            found.append(part)
            start, before = part.stop, before + part.rows
    for path in known.keys() - {part.path for part in checked}:
        _log.warning("%s is damaged or of other lines than those in %s; it is not used", path, lines)
        if path not in {part.path for part in found}:  # it was made again
            path.unlink(missing_ok=True)
    return found


def load_lines(engine: Any, lines: Path, kind: type, parts: Sequence[Part], table: str) -> None:
    """Make a table of the complete lines after these parts."""
    start, before = parts[-1].stop if parts else 0, sum(part.rows for part in parts)
    with open(lines, "rb") as file:
        file.seek(start)
        content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        sealed = _sealed_before(file, start)
    canonical = canonical_lines(content, kind, lines, before=before, sealed=sealed)
    with writing(lines.parent), _source(canonical, kind, start) as source:
        engine.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {source}")


def _block(file: BufferedReader, start: int) -> bytes:
    """Return the whole block of lines at ``start``; nothing if there are less than `BLOCK` bytes of whole lines."""
    file.seek(start)
    content = file.read(BLOCK)
    if len(content) < BLOCK:
        return b""
    if not content.endswith(b"\n"):
        content += file.readline()
    return content if content.endswith(b"\n") else b""


def _sealed_before(file: BufferedReader, start: int) -> bool:
    """Return whether the line that ends at ``start`` has a seal."""
    file.seek(max(0, start - 30))
    return SEAL in file.read(min(start, 30))


def _part(path: Path, name: re.Match[str] | None, lines: BufferedReader, start: int) -> Part | None:
    """Return a Parquet file as a part if it is undamaged and made of the lines at ``start``."""
    if name is None or int(name[1]) != start:
        return None
    stop = int(name[2])
    if _digest_of(lines, start, stop) != name[4]:
        return None
    with open(path, "rb") as file:
        return Part(path, start, stop, int(name[3])) if _digest_of(file, 0, path.stat().st_size) == name[5] else None


def _digest_of(file: BufferedReader, start: int, stop: int) -> str:
    """Return the digest of a range of bytes, which are not in memory together."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(2**18))
    file.seek(start)
    while start < stop and (count := file.readinto(buffer[: stop - start])):
        digest.update(buffer[:count])
        start += count
    return digest.hexdigest()[:16]


def _make(
    engine: Any, folder: Path, lines: Path, kind: type, content: bytes, start: int, before: int, *, sealed: bool
) -> Part:
    canonical = canonical_lines(content, kind, lines, before=before, sealed=sealed)
    rows, stop = canonical.count(b"\n"), start + len(content)
    temporary = neighbour(folder / "part")
    with writing(folder), _source(canonical, kind, start) as source:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            engine.execute(f"COPY ({source}) TO {quoted(temporary)} (FORMAT parquet, COMPRESSION zstd)")
            with open(temporary, "rb") as file:
                digest = _digest_of(file, 0, temporary.stat().st_size)
                os.fsync(file.fileno())
            path = folder / f"{start:015}-{stop:015}-{rows}-{_digest(content)}-{digest}.parquet"
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return Part(path, start, stop, rows)


@contextmanager
def _source(canonical: bytes, kind: type, start: int) -> Iterator[str]:
    """Yield SQL that reads these lines; ``place`` is larger for later lines of the file."""
    columns = ", ".join(f"'{name}': '{sql}'" for name, sql in schema(kind).items())
    with tempfile.TemporaryDirectory(prefix="jaxiqa-rows-") as folder:
        path = Path(folder) / "lines.json"
        path.write_bytes(canonical)
        reader = f"read_json({quoted(path)}, format = 'newline_delimited', columns = {{{columns}}})"
        yield f"SELECT {start} + row_number() OVER () AS place, * FROM {reader}"


def quoted(text: object) -> str:
    """Return text as a literal in SQL.

    >>> quoted("it's")
    "'it''s'"
    """
    return "'" + str(text).replace("'", "''") + "'"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
