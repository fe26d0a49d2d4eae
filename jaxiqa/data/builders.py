"""Write a data set as array_record files, by tensorflow-datasets without TensorFlow."""

import io
import shutil
import types
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxiqa.core.files import locked, sealed_json, write_text, writing
from jaxiqa.data.array_record import DIGESTS, VERSION, check_out, digests_of
from jaxiqa.data.split import Split


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # of a base without types
    """Write given splits in their order. Images are stored as PNG, as `jaxiqa.data.read_image` decodes them.

    Names and scores are in the metadata too, so that a data set can be opened without reading all its images.
    """

    VERSION = tfds.core.Version(VERSION)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)

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
        parts = {
            part: {
                "ids": list(split.ids),
                "mos": None if split.mos is None else split.mos.tolist(),
                "regions": split.regions and [split.regions.boxes.tolist(), split.regions.mos.tolist()],
            }
            for part, split in self._splits.items()
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # otherwise the records are in the order of their hashes
            metadata=tfds.core.MetadataDict({"mos_range": first.mos_range, "parts": parts}),
        )

    def _split_generators(self, manager: Any) -> dict[str, Any]:
        return {part: self._generate_examples(split) for part, split in self._splits.items()}

    def _generate_examples(self, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(len(split)):
            example = split[index]
            buffer = io.BytesIO()
            Image.fromarray(example.pop("image")).save(buffer, "PNG")
            buffer.seek(0)
            yield index, {"image": buffer, **example}


def _builder_class(name: str) -> type[_Builder]:
    """The builder of one data set: tensorflow-datasets takes the name of its folder from the class."""
    members = {"name": name, "__module__": __name__, "__doc__": f"The images of jaxiqa's data set {name}."}
    return types.new_class(name, (_Builder,), {"skip_registration": True}, lambda body: body.update(members))


def _remove_remains(folder: Path) -> None:
    for left in folder.glob(f"incomplete.??????_{VERSION}"):
        shutil.rmtree(left)


def write(name: str, splits: dict[str, Split], out: Path) -> Path:
    """Write the splits of data set ``name`` below ``out``; return the folder of the data set.

    An interrupted write leaves nothing. The remains of a killed one are not read as a data set; the next write removes
    them.

    Raises:
        ValueError: ``out`` already holds that data set.
        WriteError: ``out`` is not a folder or cannot be written, or the disk is full; the message names the path and
            says what to do.
        BlockingIOError: another process writes there.
    """
    check_out(name, out)
    with locked(out / name), writing(out / name / VERSION):
        _remove_remains(out / name)
        builder = _builder_class(name)(splits=splits, data_dir=str(out))
        try:
            with TemporaryDirectory() as downloads:  # tensorflow-datasets needs a folder for downloads
                builder.download_and_prepare(download_dir=downloads)
        except BaseException:  # an interrupt before tensorflow-datasets is ready to remove its folder
            _remove_remains(out / name)
            raise
        folder = Path(builder.data_dir)
        write_text(folder / DIGESTS, sealed_json(digests_of(folder)))
    return folder
