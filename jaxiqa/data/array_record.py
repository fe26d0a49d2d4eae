"""Read data sets that were written as array_record files: same splits, same order, same pixels."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxiqa.core.files import DamagedError, check_folder, open_sealed
from jaxiqa.data.decode import decode
from jaxiqa.data.regions import Regions
from jaxiqa.data.split import Split

VERSION = "1.0.0"
DIGESTS = "digests.sealed"
"""The file with the digests of the other files, to detect changes."""


def is_prepared(folder: Path, name: str) -> bool:
    """Return whether ``folder`` holds data set ``name`` as `jaxiqa.data.builders.write` writes it."""
    return (folder / name / VERSION / "dataset_info.json").is_file()


def check_out(name: str, out: Path) -> None:
    """Check that data set ``name`` can be written below ``out`` and does not exist there; else ``ValueError``."""
    place = out / name / VERSION
    if is_prepared(out, name):
        raise ValueError(f"out: {place} already holds a prepared {name}; delete it or choose another folder")
    if os.path.lexists(place):
        raise ValueError(f"out: {place} exists but is not a prepared {name}; delete it or choose another folder")
    check_folder(out / name)


def digests_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 digests of the descriptions (json files); records are checked when they are read."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.json"))}


def read(folder: Path, name: str) -> dict[str, Split]:
    """Read the splits of a prepared data set below ``folder``.

    Raises:
        ValueError: a description is damaged or missing; the message names the folder. Records are read later.
    """
    place = folder / name / VERSION
    try:
        digests = place / DIGESTS
        if digests.exists():
            before, now = open_sealed(digests.read_text()), digests_of(place)
            if changed := [file for file in sorted(before | now) if before.get(file) != now.get(file)]:
                raise DamagedError(f"{changed[0]} was {'changed' if changed[0] in now else 'removed'}")
        return _read(place, name)
    except Exception as error:  # tensorflow-datasets raises errors of many types for invalid files
        raise ValueError(f"{place} is damaged ({error}); delete it and prepare the data set again") from error


def _read(place: Path, name: str) -> dict[str, Split]:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(place))
    mos_range, parts = builder.info.metadata["mos_range"], builder.info.metadata["parts"]
    splits = {}
    for part, listed in parts.items():
        source = builder.as_data_source(split=part, decoders={"image": tfds.decode.SkipDecoding()})
        if len(source) != len(listed["ids"]):
            raise ValueError(f"{part} has {len(source)} records, but its list has {len(listed['ids'])}")
        splits[part] = Split(
            name=f"{name}/{part}",
            ids=tuple(listed["ids"]),
            mos=None if listed["mos"] is None else np.asarray(listed["mos"], np.float32),
            mos_range=None if mos_range is None else tuple(mos_range),
            read=Records(source, tuple(listed["ids"])),
            regions=_regions(*listed["regions"]) if listed.get("regions") else None,
        )
    return splits


def _regions(boxes: list, mos: list) -> Regions:
    return Regions(np.asarray(boxes, np.float64), np.asarray(mos, np.float32))


@dataclass(frozen=True)
class Records:
    """Reader of images from a tfds data source."""

    source: Any
    ids: tuple[str, ...]

    def __call__(self, index: int) -> np.ndarray:
        try:
            content = bytes(self.source[index]["image"])
        except (RuntimeError, OSError, ValueError, TypeError, LookupError) as error:  # None if a file is cut off
            raise ValueError(f"{self.ids[index]}: the prepared record cannot be read: {error}") from error
        return decode(content, self.ids[index])
