"""Write a data set as array_record files, by tensorflow-datasets without TensorFlow.

    jaxiqa prepare NAME --source DIR --out DIR

Then set ``data.source`` to OUT (or use JAXIQA_DATA/NAME as OUT) to read the prepared data set like the original one.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxiqa.cli.options import options_last, parse_options
from jaxiqa.cli.runtime import explained
from jaxiqa.core.checks import check_choice


@dataclass(frozen=True)
class Arguments:
    """Arguments of the program."""

    name: Annotated[str, tyro.conf.Positional]
    """builtin, clive, flive, koniq10k, nips2017 or folder."""
    out: Path
    """Folder to write to; the data set is written to OUT/NAME/VERSION, which must not exist."""
    source: Path | None = None
    """Folder of the images; default: $JAXIQA_DATA/NAME. Not for builtin, which is made in memory."""
    options: tuple[str, ...] = ()
    """Options of the data set, such as: csv=labels.csv score_column=score split=0.7,0.1,0.2"""


def main(arguments: Sequence[str] | None = None, program: str = "jaxiqa prepare") -> None:
    """Run the command line."""
    words = options_last(sys.argv[1:] if arguments is None else arguments)
    with explained("the unfinished data set is not used; run the same command again"):
        prepare(tyro.cli(Arguments, prog=program, description=__doc__, args=words))


def prepare(arguments: Arguments) -> None:
    """Load a data set, check every image, write it, and print the result."""
    from jaxiqa import data
    from jaxiqa.data import array_record, builders

    name, out = arguments.name, arguments.out.absolute()
    source = str(arguments.source.absolute()) if arguments.source else None
    check_choice("data set", name, data.DATASETS)
    array_record.check_out(name, out)
    splits = data.load(name, source=source, **parse_options(arguments.options))
    for split in splits.values():
        data.validate(split)
    if not sys.stderr.isatty():
        import tensorflow_datasets as tfds

        tfds.disable_progress_bar()
    folder = builders.write(name, splits, out)
    counts = ", ".join(f"{len(split)} {part}" for part, split in splits.items())
    print(f"{name}: {counts} images in {folder}")
