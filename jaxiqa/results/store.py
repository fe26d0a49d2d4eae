"""The rows of one experiment's folder: sealed lines are appended, DuckDB reads them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxiqa.core.files import neighbour
from jaxiqa.results.engine import Rows, connect, writes
from jaxiqa.results.jsonl import append_rows
from jaxiqa.results.parts import BLOCK, Part, load_lines, parts_of, quoted
from jaxiqa.results.rows import FILES

Stamp = tuple[int, int, int]
"""What changes if another program writes a file: inode, size, time."""


@dataclass
class _Read:
    """What is known of a file of lines."""

    checked: Stamp | None = None  # the parts were compared with the lines
    loaded: Stamp | None = None  # the lines after them were read
    parts: Sequence[Part] = ()


class Store:
    """All rows of a folder. Lines are checked against their seals once, and again if another program changes them.

    Args:
        root: folder of the experiment. For `append`, the caller holds its lock.

    >>> import tempfile
    >>> from jaxiqa.results.rows import PredictionRow
    >>> store = Store(Path(tempfile.mkdtemp()))
    >>> store.append([PredictionRow("a", "m", 0, 1.0, 2.0)])
    >>> store.rows(PredictionRow).all()
    [PredictionRow(image='a', model='m', seed=0, mos=1.0, score=2.0)]
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._read: dict[type, _Read] = {}

    @cached_property
    def _engine(self) -> Any:
        return connect(neighbour(self.root / "parquet" / "spill"))

    def rows(self, kind: type) -> Rows:
        """Return the rows of one kind; none if there is no file.

        What is returned also has the rows that later calls of this method and of `append` read, but no row twice.
        A last line without its newline is the result of a kill: it is left out.

        Raises:
            ValueError: a line is damaged; the message names it.
            WriteError: a folder cannot be written.
        """
        path, name = self.root / FILES[kind], FILES[kind].removesuffix(".jsonl")
        if not path.exists():
            return Rows.of([], kind)
        read, now = self._read.setdefault(kind, _Read()), _stamp(path)
        if read.loaded != now:
            with writes(path.parent):
                read.parts = parts_of(self._engine, path, kind, read.parts if read.checked == now else ())
                load_lines(self._engine, path, kind, read.parts, f"{name}_lines")
            source = f"SELECT * FROM {name}_lines"
            if read.parts:
                files = ", ".join(quoted(part.path) for part in read.parts)
                source = f"SELECT * FROM read_parquet([{files}]) UNION ALL {source}"
            self._engine.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {source}")
            read.checked = read.loaded = now
        return Rows(kind, self._engine, name)

    def append(self, rows: Sequence[Any]) -> None:
        """Append rows of one kind by one write; compact the lines of a whole block.

        Raises:
            ValueError, WriteError: as of `jaxiqa.results.jsonl.append_rows`.
        """
        if not rows:
            return
        kind = type(rows[0])
        path, read = self.root / FILES[kind], self._read.get(kind)
        known = read is not None and path.exists() and read.checked == _stamp(path)
        append_rows(path, rows)
        if read is not None and known:
            read.checked = _stamp(path)  # the checked lines are still the same
            if read.checked[1] - (read.parts[-1].stop if read.parts else 0) > BLOCK:
                self.rows(kind)


def _stamp(path: Path) -> Stamp:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns
