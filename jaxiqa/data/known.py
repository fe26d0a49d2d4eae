"""Files that were read before: one of the same size and times is not read again at the start of a program.

What is known of a folder's files is in one file in the user's cache folder. It ends with a digest of itself; if it is
damaged, all files are read again. Another version of this package or of the decoder has another file.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import PIL

from jaxiqa.core.files import WriteError, cache_folder, write_bytes
from jaxiqa.core.version import package_version
from jaxiqa.data.split import Files, Selected

_log = logging.getLogger(__name__)

FRESH = 2.0
"""Seconds: a file that changed more recently may change again without another time, so it is not remembered."""


class Image(NamedTuple):
    """A decoded image: height, width, and the SHA-256 digest of its shape and pixels."""

    height: int
    width: int
    digest: str


class Content(NamedTuple):
    """A file that is not decoded: the SHA-256 digest of its bytes."""

    digest: str


Fact = TypeVar("Fact", Image, Content)


class Stamp(NamedTuple):
    """What differs if a file was written: its size in bytes, and the times of content and of status in ns."""

    size: int
    written: int
    changed: int


Known = dict[str, Sequence[Sequence[Any]]]
"""Path -> the values of the file's stamp when it was read, and of what it was."""


def file_of(read: Any, index: int) -> Path | None:
    """Return the file whose pixels a reader returns unchanged; None for other readers.

    >>> file_of(Selected(Files((Path("a.png"), Path("b.png"))), (1,)), 0).name
    'b.png'
    """
    if isinstance(read, Selected):
        return file_of(read.read, read.indices[index])
    return read.paths[index] if isinstance(read, Files) else None


def stamp(path: Path | str) -> Stamp | None:
    """Return the stamp of a file; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def recall(paths: Iterable[Path], kind: type[Fact], together: Path | None = None) -> dict[Path, Fact]:
    """Return what is known of these files, if they are still the same.

    Args:
        paths: the files.
        kind: what to know of them.
        together: the folder that has all of them, however deep; without it, each folder has a file of its own.
    """
    found: dict[Path, Fact] = {}
    read: dict[str, Known] = {}
    for path in paths:
        name = os.path.abspath(path)
        folder = _folder(name, together)
        if folder not in read:
            read[folder] = _read(_place(folder, kind))
        before = read[folder].get(name)
        if before and tuple(before[0]) == stamp(name):
            found[path] = kind(*before[1])
    return found


def remember(facts: Mapping[Path, tuple[Stamp, Fact]], kind: type[Fact], together: Path | None = None) -> None:
    """Store what is known of files; a file that changed in the last seconds is left out.

    A cache that cannot be written is logged: it only saves time. Arguments are those of `recall`.
    """
    now = time.time_ns()
    folders: dict[str, Known] = {}
    for path, (before, fact) in facts.items():
        name = os.path.abspath(path)
        if before == stamp(name) and max(before.written, before.changed) < now - FRESH * 1e9:
            folders.setdefault(_folder(name, together), {})[name] = before, fact
    for folder, known in folders.items():
        place = _place(folder, kind)
        content = json.dumps(_read(place) | known).encode()
        try:
            write_bytes(place, content + b"\n" + hashlib.sha256(content).hexdigest().encode())
        except WriteError as error:
            _log.warning("%s; files are read again next time", error)


def _folder(name: str, together: Path | None) -> str:
    return os.path.dirname(name) if together is None else os.path.abspath(together)


def _place(folder: str, kind: type) -> Path:
    """Return the file with what is known of the files in a folder."""
    key = f"{kind.__name__} {_versions()} {folder}"
    return cache_folder() / "known" / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.json"


@cache
def _versions() -> str:
    return f"jaxiqa {package_version()}, Pillow {PIL.__version__}"


def _read(place: Path) -> Known:
    found = stamp(place)
    return _parsed(place, found) if found else {}


@lru_cache(1)
def _parsed(place: Path, version: Stamp) -> Known:
    """Return what a version of a file has; the splits of a data set ask for the same one."""
    try:
        content, _, digest = place.read_bytes().rpartition(b"\n")
    except OSError:
        return {}
    if hashlib.sha256(content).hexdigest().encode() != digest:
        _log.warning("%s is damaged; files are read again", place)
        return {}
    return json.loads(content)
