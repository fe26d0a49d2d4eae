"""Search folders for image files: nothing is left out without a word."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxiqa.data.decode import file_fault
from jaxiqa.data.formats import SUFFIXES


@dataclass
class Found:
    """What a search found: pictures, other files, links and folders that lead nowhere, and what was left out."""

    paths: list[Path]
    skipped: list[Path]
    faults: dict[Path, str]
    remarks: list[str]


def find(places: Sequence[Path]) -> Found:
    """Picture files, each once, in the order given, those of a folder sorted. Links to folders are followed.

    Raises:
        ValueError: there is no picture at all.
    """
    found = Found([], [], {}, [])
    for place in places:
        if os.path.isdir(place):
            _search(place, found)
        else:
            found.paths.append(place)
    found.paths = list(dict.fromkeys(found.paths))
    if not found.paths and not found.faults:
        raise ValueError(f"there are no pictures in {', '.join(map(str, places)) or 'the empty list of folders'}")
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
            found.remarks.append(f"{folder} is left out: it is the folder {before}, which is searched already")
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
