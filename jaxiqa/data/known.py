"""Images that were decoded before: a file of the same size and times is not decoded again at the start of a program.

What is known of a folder's files is in one file in the user's cache folder. It ends with a digest of itself; if it is
damaged, all images are decoded again.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxiqa.core.files import WriteError, cache_folder, write_bytes
from jaxiqa.data.split import Files, Selected

_log = logging.getLogger(__name__)

FRESH = 2.0
"""Seconds: a file that changed more recently may change again without another time, so it is not remembered."""


class Image(NamedTuple):
    """A decoded image: height, width, and the SHA-256 digest of its shape and pixels."""

    height: int
    width: int
    digest: str


class Stamp(NamedTuple):
    """What differs if a file was written: its size in bytes, and the times of content and of status in ns."""

    size: int
    written: int
    changed: int


Known = dict[str, tuple[Stamp, Image]]
"""Path -> the file's stamp when it was decoded, and its image."""


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


def recall(paths: Iterable[Path]) -> dict[Path, Image]:
    """Return what is known of these files, if they are still the same."""
    found: dict[Path, Image] = {}
    read: dict[str, Known] = {}
    for path in paths:
        name = os.path.abspath(path)
        folder = os.path.dirname(name)
        if folder not in read:
            read[folder] = _read(_place(folder))
        before = read[folder].get(name)
        if before and before[0] == stamp(name):
            found[path] = before[1]
    return found


def remember(images: Mapping[Path, tuple[Stamp, Image]]) -> None:
    """Store what is known of files. A cache that cannot be written is logged: it only saves time."""
    now = time.time_ns()
    folders: dict[str, Known] = {}
    for path, (before, image) in images.items():
        name = os.path.abspath(path)
        if before == stamp(name) and max(before.written, before.changed) < now - FRESH * 1e9:
            folders.setdefault(os.path.dirname(name), {})[name] = before, image
    for folder, known in folders.items():
        place = _place(folder)
        content = json.dumps(_read(place) | known).encode()
        try:
            write_bytes(place, content + b"\n" + hashlib.sha256(content).hexdigest().encode())
        except WriteError as error:
            _log.warning("%s; images are decoded again next time", error)


def _place(folder: str) -> Path:
    """Return the file with what is known of the files in a folder."""
    return cache_folder() / "known" / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json"


def _read(place: Path) -> Known:
    try:
        content, _, digest = place.read_bytes().rpartition(b"\n")
    except OSError:
        return {}
    if hashlib.sha256(content).hexdigest().encode() != digest:
        _log.warning("%s is damaged; images are decoded again", place)
        return {}
    return {name: (Stamp(*of[0]), Image(*of[1])) for name, of in json.loads(content).items()}
