"""Convert published weights to one .safetensors file, and print where every array goes.

    jaxiqa convert NAME IN OUT.safetensors

IN is anything that ``jaxiqa.load(NAME, weights=IN)`` takes, except a training run; it takes OUT too. OUT holds the
arrays under the names of this project's module; its header holds the name of the model and its options.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxiqa.cli.options import options_last, parse_options
from jaxiqa.cli.runtime import explained
from jaxiqa.core.files import check_file, write_bytes


@dataclass(frozen=True)
class Arguments:
    """Arguments of the program."""

    name: Annotated[str, tyro.conf.Positional]
    """A model, such as linearity."""
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """File of the authors, or name of published weights, which are downloaded."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.safetensors")]
    """File to write; an existing file is replaced. It must not be IN."""
    options: tuple[str, ...] = ()
    """Options of the model, such as: protocol=pyiqa"""


def main(arguments: Sequence[str] | None = None, program: str = "jaxiqa convert") -> None:
    """Run the command line."""
    words = options_last(sys.argv[1:] if arguments is None else arguments)
    with explained("nothing is written; run the same command again"):
        convert(tyro.cli(Arguments, prog=program, description=__doc__, args=words))


def convert(arguments: Arguments) -> None:
    """Load the weights, write them, and print the mapping."""
    import safetensors.numpy

    from jaxiqa.models import loading

    if arguments.out.suffix != ".safetensors":
        raise ValueError(f"out={str(arguments.out)!r} must end in .safetensors")
    if os.path.realpath(arguments.out) == os.path.realpath(arguments.source):
        raise ValueError(f"out: {arguments.out} is IN itself; give another name")
    target = check_file("out", arguments.out)
    loaded = loading.load_and_report(arguments.name, arguments.source, **parse_options(arguments.options))
    if not loaded.mapped:
        raise ValueError(f"{arguments.source} is a training run, which needs no conversion; give published weights")
    content = safetensors.numpy.save(arrays(loaded), metadata(arguments.name, loaded.options))
    write_bytes(target, content)
    print("\n".join(report(loaded)))
    print(f"{arguments.out}: {len(content) / 2**20:.1f} MiB")


def arrays(loaded: Any) -> dict[str, Any]:
    """Return the arrays of the file: the parameters, and the calibration if there is one."""
    import numpy as np

    from jaxiqa.pretrained.key_map import parameters

    numbers = {name: np.asarray(variable[...]) for name, variable in parameters(loaded.model).items()}
    return numbers | {name: np.ascontiguousarray(extra) for name, extra in loaded.extras.items()}


def metadata(name: str, options: dict[str, Any]) -> dict[str, str]:
    """Return the header of the file, by which `jaxiqa.load` recognises it."""
    from jaxiqa.models.loading import MODEL, OPTIONS

    return {MODEL: name, OPTIONS: json.dumps(options), "format": "1"}


def report(loaded: Any) -> Iterator[str]:
    """Yield lines: source, shape, target and shape of each array; dropped arrays; other entries; counts."""
    placed = [row for row in loaded.mapped if row.target]
    dropped = [row for row in loaded.mapped if not row.target]
    widths = [max(map(len, column), default=0) for column in zip(*(_cells(row) for row in placed), strict=True)]
    for row in placed:
        source, shape, target, target_shape = (
            text.ljust(width) for text, width in zip(_cells(row), widths, strict=True)
        )
        yield f"{source}  {shape}  ->  {target}  {target_shape}".rstrip()
    for title, lines in (
        ("used unchanged:", [f"{name} = {extra.tolist()}" for name, extra in loaded.extras.items()]),
        ("dropped, because nothing depends on them:", [f"{row.source}  {_text(row.shape)}" for row in dropped]),
        ("in the file but not part of the model:", [f"{name}: {what}" for name, what in loaded.left_out.items()]),
    ):
        if lines:
            yield f"\n{title}"
            yield from (f"  {line}" for line in lines)
    size = sum(_size(row.shape) for row in placed)
    yield (
        f"\n{len(placed)} arrays with {size:,} numbers mapped, {len(dropped)} dropped, "
        f"{len(loaded.left_out)} other entries of the file left out"
    )


def _cells(row: Any) -> tuple[str, str, str, str]:
    return row.source, _text(row.shape), row.target, _text(row.target_shape)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
