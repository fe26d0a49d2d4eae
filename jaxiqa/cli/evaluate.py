"""Attack the trained variants of an experiment, defend them, and write tables, plots and a report.

Writes WORKDIR/results.jsonl (one row per image, model, attack and strength) and, with defenses, the attacked images as
PNG files, defenses.jsonl and certificates.jsonl; then table.csv, tidy.csv (one number per line), differences.csv
(models compared on the same images), defenses.csv, leaderboard.csv, the plots, the example sheet and report.html; and
paper.md, the tables of a paper, if the config names one. You may stop it at any time: the same command continues and
repeats nothing. If a model was trained again since, its old rows are not mixed with new ones: the program stops with an
error.

With ``--folds 5`` every fold is evaluated in WORKDIR/foldN, and WORKDIR/folds.md has the means over folds.

``--defense [LABEL=]NAME[,OPTION=VALUE...]`` adds a defense to those of the config; it may be given several times. NAME
is a purifier of the library or a class in your own file, as in ``--defense my_file.py:MyPurifier``. One with a network
needs its file: ``--defense dncnn,weights=dncnn.safetensors`` (made by ``jaxiqa train-filter``, for example).
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from jaxiqa.cli.options import from_command_line, take_defenses
from jaxiqa.cli.runtime import explained
from jaxiqa.cli.workers import HELP, computing, take_workers
from jaxiqa.config import Experiment, check_experiment, folded, root_folder


def main(arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Run the command line."""
    with explained("finished batches are kept; run the same command again to continue"):
        words, pool = take_workers(list(sys.argv[1:] if arguments is None else arguments))
        experiment = read_arguments(words, program)
        check_experiment(experiment)
        from jaxiqa.cli.runtime import start_jax
        from jaxiqa.core.progress import console
        from jaxiqa.evaluation.experiment import evaluate_experiment
        from jaxiqa.reports import write_folds

        start_jax()
        began = time.perf_counter()
        parts = folded(experiment)
        with computing(pool) as compute:
            found = [evaluate_experiment(part, compute) for part in parts]
        if experiment.folds:
            for table in write_folds(root_folder(experiment), found, title=experiment.name):
                if len(table.header) <= 10:  # others are too wide for a terminal
                    console.print(table)
            console.print(f"all folds: {root_folder(experiment) / 'folds.md'}", markup=False, soft_wrap=True)
        console.print(f"evaluated in {(time.perf_counter() - began) / 60:.1f} minutes")


def read_arguments(arguments: Sequence[str] | None = None, program: str | None = None) -> Experiment:
    """Read the config and change it by ``--field value`` and ``--defense``."""
    arguments, defenses = take_defenses(list(sys.argv[1:] if arguments is None else arguments))
    experiment = from_command_line(f"{__doc__}\n{HELP}", arguments, program=program)
    evaluation = experiment.evaluation
    return replace(experiment, evaluation=replace(evaluation, defenses={**evaluation.defenses, **defenses}))
