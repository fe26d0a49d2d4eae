"""Search folders for image files; everything that is skipped is reported."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxiqa.data.decode import file_fault
from jaxiqa.data.formats import SUFFIXES


@dataclass
class Found:
    """The result of a search: image files, other files, paths that cannot be read, and remarks on skipped folders."""

    paths: list[Path]
    skipped: list[Path]
    faults: dict[Path, str]
    remarks: list[str]


def find(places: Sequence[Path]) -> Found:
    """Find image files: each once, in the given order, sorted within a folder. Links to folders are followed.

    Raises:
        ValueError: no image was found.
    """
    found = Found([], [], {}, [])
    for place in places:
        if os.path.isdir(place):
            _search(place, found)
        else:
            found.paths.append(place)
    found.paths = list(dict.fromkeys(found.paths))
    if not found.paths and not found.faults:
        raise ValueError(f"there are no images in {', '.join(map(str, places)) or 'the empty list of folders'}")
    return found


def _search(place: Path, found: Found) -> None:
    searched: dict[tuple[int, int], str] = {}

    def unreadable(error: OSError) -> None:
        found.faults[Path(error.filename)] = f"cannot be searched: {error.strerror}"

    files = []
    for folder, inner, names in os.walk(place, followlinks=True, onerror=unreadable):
        status = os.stat(folder)
        before = searched.setdefault((status.st_dev, status.st_ino), folder)
        if before != folder:
            found.remarks.append(f"skipped {folder}: it is the folder {before}, which was searched already")
            inner.clear()
            continue
        inner.sort()
        files += [Path(folder, name) for name in names]
    for path in sorted(files):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            found.skipped.append(path)
        elif fault := file_fault(path):
            found.faults[path] = fault
        else:
            found.paths.append(path)
