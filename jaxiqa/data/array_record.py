"""Data sets that were written as array_record files: the same splits, same order, same pixels."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxiqa.core.files import DamagedError, check_folder, open_sealed
from jaxiqa.data.decode import decode
from jaxiqa.data.split import Split

VERSION = "1.0.0"
DIGESTS = "digests.sealed"
"""The file by which changes of the other ones are noticed."""


def is_prepared(folder: Path, name: str) -> bool:
    """Whether `write` has put data set ``name`` below ``folder``."""
    return (folder / name / VERSION / "dataset_info.json").is_file()


def check_out(name: str, out: Path) -> None:
    """Raise ``ValueError`` unless data set ``name`` can be written below ``out`` and is not there yet."""
    place = out / name / VERSION
    if is_prepared(out, name):
        raise ValueError(f"out: {place} already holds a prepared {name}; delete it or choose another folder")
    if os.path.lexists(place):
        raise ValueError(f"out: {place} is there, but is no prepared {name}; delete it or choose another folder")
    check_folder(out / name)


def digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 of the descriptions; records check themselves when they are read."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.json"))}


def read(folder: Path, name: str) -> dict[str, Split]:
    """The splits that `write` wrote below ``folder``.

    Raises:
        ValueError: a description of them is damaged or missing; names the folder. Records are read later.
    """
    place = folder / name / VERSION
    try:
        digests = place / DIGESTS
        if digests.exists():
            before, now = open_sealed(digests.read_text()), digests_of(place)
            if changed := [file for file in sorted(before | now) if before.get(file) != now.get(file)]:
                raise DamagedError(f"{changed[0]} was {'changed' if changed[0] in now else 'removed'}")
        return _read(place, name)
    except Exception as error:  # tensorflow-datasets raises errors of many kinds for files that are no such files
        raise ValueError(f"{place} is damaged ({error}); delete it, and prepare the data set anew") from error


def _read(place: Path, name: str) -> dict[str, Split]:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(place))
    mos_range, parts = builder.info.metadata["mos_range"], builder.info.metadata["parts"]
    splits = {}
    for part, listed in parts.items():
        source = builder.as_data_source(split=part, decoders={"image": tfds.decode.SkipDecoding()})
        if len(source) != len(listed["ids"]):
            raise ValueError(f"{part} has {len(source)} records, but lists {len(listed['ids'])}")
        splits[part] = Split(
            name=f"{name}/{part}",
            ids=tuple(listed["ids"]),
            mos=None if listed["mos"] is None else np.asarray(listed["mos"], np.float32),
            mos_range=None if mos_range is None else tuple(mos_range),
            read=Records(source, tuple(listed["ids"])),
        )
    return splits


@dataclass(frozen=True)
class Records:
    """Reads pictures from a tfds data source."""

    source: Any
    ids: tuple[str, ...]

    def __call__(self, index: int) -> np.ndarray:
        try:
            content = bytes(self.source[index]["image"])
        except (RuntimeError, OSError, ValueError, TypeError, LookupError) as error:  # None where a file is cut
            raise ValueError(f"{self.ids[index]}: the prepared record cannot be read: {error}") from error
        return decode(content, self.ids[index])
