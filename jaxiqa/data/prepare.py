"""Write a data set as array_record files, through tensorflow-datasets and without TensorFlow.

    python -m jaxiqa.data.prepare NAME --source DIR --out DIR

Afterwards ``data.source=OUT`` (or JAXIQA_DATA) reads the prepared set like the plain one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Options:
    """What to prepare, from where, to where."""

    name: Annotated[str, tyro.conf.Positional]
    """builtin, clive, koniq10k, nips2017 or folder."""
    out: Path
    """Folder to write to; the set goes to OUT/NAME/VERSION."""
    source: Path | None = None
    """Folder of the pictures; not needed for builtin."""


def main(options: Options) -> None:
    """Load, check every picture, write, and say what was written."""
    from jaxiqa import data
    from jaxiqa.data import prepared

    splits = data.load(options.name, source=str(options.source.absolute()) if options.source else None)
    for split in splits.values():
        data.validate(split)
    folder = prepared.write(options.name, splits, options.out.absolute())
    counts = ", ".join(f"{len(split)} {part}" for part, split in splits.items())
    print(f"{options.name}: {counts} pictures in {folder}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
