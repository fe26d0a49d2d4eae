"""Data sets that were written as array_record files: the same splits, same order, same pixels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxiqa.data.decode import decode
from jaxiqa.data.split import Split

VERSION = "1.0.0"


def is_prepared(folder: Path, name: str) -> bool:
    """Whether `write` has put data set ``name`` below ``folder``."""
    return (folder / name / VERSION / "dataset_info.json").is_file()


def read(folder: Path, name: str) -> dict[str, Split]:
    """The splits that `write` wrote below ``folder``."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder / name / VERSION))
    mos_range, parts = builder.info.metadata["mos_range"], builder.info.metadata["parts"]
    splits = {}
    for part, listed in parts.items():
        source = builder.as_data_source(split=part, decoders={"image": tfds.decode.SkipDecoding()})
        if len(source) != len(listed["ids"]):
            raise ValueError(f"{folder / name}: {part} has {len(source)} records, but lists {len(listed['ids'])}")
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
            record = self.source[index]
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{self.ids[index]}: the prepared record cannot be read: {error}") from error
        return decode(bytes(record["image"]), self.ids[index])
