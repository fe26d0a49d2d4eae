"""Export a metric with its weights as one StableHLO file, read it back and compare the scores.

    jaxiqa export jaxiqa-base base.jaxexport
    jaxiqa export linearity --weights p1q2.pth linearity.jaxexport
    jaxiqa export linearity --weights runs/quickstart/robust_block --size 88 88 robust.jaxexport

Batch and size stay variable if the program of the metric does not depend on them; a hardened metric needs --size.
In Python: score = jaxiqa.models.load_exported("linearity.jaxexport").
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxiqa.cli.options import options_last, parse_options
from jaxiqa.cli.runtime import explained

TOLERANCE = 1e-4
"""Largest relative difference of the scores; another order of sums changes them a little."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of the program."""

    model: Annotated[str, tyro.conf.Positional]
    """A metric, such as linearity or jaxiqa-base, or an address on the hub."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """File to write; an existing file is replaced."""
    weights: str | None = None
    """File of published weights, name of published weights, folder of a training run, or address on the hub; none for a
    metric that comes with jaxiqa or is an address."""
    size: tuple[int, int] | None = None
    """Height and width of the images, if the program depends on them; orthogonal maps are then built in."""
    batch: int = 1
    """Number of images, if the program depends on it."""
    options: tuple[str, ...] = ()
    """Options of the model, such as: protocol=pyiqa"""


def main(arguments: Sequence[str] | None = None, program: str = "jaxiqa export") -> None:
    """Run the command line."""
    words = options_last(sys.argv[1:] if arguments is None else arguments)
    with explained("nothing is written; run the same command again"):
        run(tyro.cli(Arguments, prog=program, description=__doc__, args=words))


def run(arguments: Arguments) -> None:
    """Export, write, read back, compare, and print which dimensions stay variable."""
    from jaxiqa.core.checks import check_count
    from jaxiqa.core.files import check_file

    check_count("batch", arguments.batch, 1)
    for side in arguments.size or ():
        check_count("size", side, 1)
    options = parse_options(arguments.options)
    target = check_file("out", arguments.out)
    from jaxiqa.cli.runtime import start_jax

    start_jax()
    import jax
    import numpy as np

    from jaxiqa import models
    from jaxiqa.core.progress import say
    from jaxiqa.models.exporting import export_widest, load_exported, save_exported

    score = models.score_fn(models.load(arguments.model, arguments.weights, **options), arguments.size)
    exported, shape = export_widest(score, arguments.size, arguments.batch)
    save_exported(exported, target)
    height, width = arguments.size or (256, 272)
    images = jax.random.uniform(jax.random.key(0), (arguments.batch, height, width, 3))
    before, after = (np.asarray(f(images)) for f in (jax.jit(lambda x: score(x)), load_exported(target)))
    difference = float(np.abs(before - after).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(before).max())):
        raise ValueError(f"{arguments.out}: scores of the exported metric differ by {difference:.3g}; do not use it")
    say(
        f"{arguments.out}: images {shape}, {target.stat().st_size / 2**20:.1f} MiB, for {', '.join(exported.platforms)}"
    )
    say(f"read back: scores differ by at most {difference:.2g}")
