"""Attack the trained variants of an experiment, defend them, and write tables, plots and report.

Writes WORKDIR/results.jsonl (one row per image, model, attack and strength) and, with defenses, the attacked images as
PNG files, defenses.jsonl and certificates.jsonl; then table.csv, defenses.csv, leaderboard.csv, the plots, the example
sheet and report.html. Kill it whenever you like: the same command goes on and repeats nothing. Rows of models that were
trained anew in the meantime are refused, not mixed.

``--defense [LABEL=]NAME[,OPTION=VALUE...]`` adds a defense to those of the config, as often as you like; NAME is one of
the library's purifiers or a file of your own, as in ``--defense my_file.py:MyPurifier``.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from jaxiqa.cli.options import from_command_line, take_defenses
from jaxiqa.cli.runtime import explained
from jaxiqa.config import Experiment, check_experiment


def main(arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line."""
    with explained("what was scored and attacked is kept, batch by batch; run the same command again to go on"):
        experiment = read_arguments(arguments, program)
        check_experiment(experiment)
        from jaxiqa.cli.runtime import start_jax
        from jaxiqa.core.progress import console
        from jaxiqa.evaluation.experiment import evaluate_experiment

        start_jax()
        began = time.perf_counter()
        evaluate_experiment(experiment)
        console.print(f"evaluated in {(time.perf_counter() - began) / 60:.1f} minutes")


def read_arguments(arguments: Sequence[str] | None = None, program: str | None = None) -> Experiment:
    """The config, with ``--field value`` and ``--defense`` on top."""
    arguments, defenses = take_defenses(list(sys.argv[1:] if arguments is None else arguments))
    experiment = from_command_line(__doc__, arguments, program=program)
    evaluation = experiment.evaluation
    return replace(experiment, evaluation=replace(evaluation, defenses={**evaluation.defenses, **defenses}))
