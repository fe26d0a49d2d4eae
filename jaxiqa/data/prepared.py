"""Data sets as tensorflow-datasets builders, written and read without TensorFlow (array_record files)."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxiqa.data.decode import decode
from jaxiqa.data.split import Split

VERSION = "1.0.0"


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes given splits. Pictures become PNG files of what `jaxiqa.data.read_image` makes of them: lossless."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, splits: dict[str, Split], **options: Any) -> None:
        self._splits = splits
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "id": tfds.features.Text(),
        }
        first = next(iter(self._splits.values()))
        if first.mos is not None:
            features["mos"] = tfds.features.Scalar(np.float32)
        low, high = first.mos_range or (None, None)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict({"mos_low": low, "mos_high": high}),
        )

    def _split_generators(self, manager: Any) -> dict[str, Any]:
        return {part: self._generate_examples(split) for part, split in self._splits.items()}

    def _generate_examples(self, split: Split) -> Any:
        for index in range(len(split)):
            example = split[index]
            buffer = io.BytesIO()
            Image.fromarray(example.pop("image")).save(buffer, "PNG")
            buffer.seek(0)
            yield f"{index:08d}", {"image": buffer, **example}


class Builtin(_Builder, skip_registration=True):
    """Procedural pictures."""

    name = "builtin"


class Clive(_Builder, skip_registration=True):
    """LIVE In the Wild."""

    name = "clive"


class Koniq10k(_Builder, skip_registration=True):
    """KonIQ-10k."""

    name = "koniq10k"


class Nips2017(_Builder, skip_registration=True):
    """Pictures of the NIPS 2017 adversarial competition."""

    name = "nips2017"


class Folder(_Builder, skip_registration=True):
    """A user's own folder."""

    name = "folder"


BUILDERS = {"builtin": Builtin, "clive": Clive, "koniq10k": Koniq10k, "nips2017": Nips2017, "folder": Folder}


def write(name: str, splits: dict[str, Split], out: Path) -> Path:
    """Write the splits of data set ``name`` below ``out`` and return the folder that holds them."""
    builder = BUILDERS[name](splits=splits, data_dir=str(out))
    builder.download_and_prepare()
    return Path(builder.data_dir)


def is_prepared(folder: Path, name: str) -> bool:
    """Whether `write` has put data set ``name`` below ``folder``."""
    return (folder / name / VERSION / "dataset_info.json").is_file()


@dataclass(frozen=True)
class Records:
    """Reads pictures from a tfds data source."""

    source: Any
    positions: tuple[int, ...]
    ids: tuple[str, ...]

    def __call__(self, index: int) -> np.ndarray:
        content = self.source[self.positions[index]]["image"]
        return decode(bytes(content), self.ids[index])


def read(folder: Path, name: str) -> dict[str, Split]:
    """The splits that `write` wrote, pictures in their original order within each split."""
    builder = tfds.builder_from_directory(str(folder / name / VERSION))
    undecoded = {"image": tfds.decode.SkipDecoding()}
    metadata = builder.info.metadata or {}
    low, high = metadata.get("mos_low"), metadata.get("mos_high")
    splits = {}
    for part in builder.info.splits:
        source = builder.as_data_source(split=part, decoders=undecoded)
        rows = [(_text(row["id"]), row.get("mos")) for row in (source[i] for i in range(len(source)))]
        order = sorted(range(len(rows)), key=lambda i: rows[i][0])
        ids = tuple(rows[i][0] for i in order)
        labelled = rows[0][1] is not None
        splits[part] = Split(
            name=f"{name}/{part}",
            ids=ids,
            mos=np.asarray([rows[i][1] for i in order], np.float32) if labelled else None,
            mos_range=None if low is None else (low, high),
            read=Records(source, tuple(order), ids),
        )
    return splits


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
