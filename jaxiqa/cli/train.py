"""Train the metrics of an experiment: first the baseline, then the variants that start from it.

Each variant is trained once per seed in WORKDIR/VARIANT/seedN, which holds config.json, metrics.jsonl,
checkpoints/ and, at the end, the model and training.json. You may stop it at any time: the same command continues
exactly from there. With ``--folds 5`` all of it is done once per fold of a cross-validation, in WORKDIR/foldN.
"""

import itertools
import shlex
import sys
import time
from collections.abc import Sequence

from jaxiqa.cli.options import from_command_line
from jaxiqa.cli.processes import HELP, processes, take_place
from jaxiqa.cli.runtime import explained
from jaxiqa.config import Experiment, check_experiment, folded, root_folder, run_folder, trained_variants
from jaxiqa.core.allocator import keep_freed_memory


def main(arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Run the command line."""
    with explained("finished epochs and models are kept; run the same command again to continue"):
        words = list(sys.argv[1:] if arguments is None else arguments)
        others, place = take_place(words)
        experiment = from_command_line(f"{__doc__}\n{HELP}", others, program=program)
        check_experiment(experiment)
        keep_freed_memory()  # training runs two programs all the time; an evaluation runs many
        with processes(place):
            for part in folded(experiment):
                train(part, command=shlex.join(["jaxiqa", "train", *words]))


def train(experiment: Experiment, *, command: str | None = None) -> None:
    """Check everything, train the variants that are not trained yet, and print a line for each run.

    ``command`` is the command line, for training.json.
    """
    from rich.markup import escape

    from jaxiqa.cli.runtime import start_jax
    from jaxiqa.core.processes import check_same, check_shared, first_does, locked_by_first
    from jaxiqa.core.progress import console, note
    from jaxiqa.core.version import package_version, source_commit
    from jaxiqa.evaluation.startup import check_evaluation_start
    from jaxiqa.train.experiment import finished_runs, load_data, train_variant
    from jaxiqa.train.startup import check_devices, check_files, check_training

    start_jax()
    began = time.perf_counter()
    check_training(experiment)
    check_devices(experiment)
    for remark in check_evaluation_start(experiment, later=True):
        note(f"before evaluate.py: {remark}")
    check_same("the version of jaxiqa or the experiment", repr((package_version(), experiment)))
    rows = first_does(lambda: finished_runs(experiment))
    check_shared(root_folder(experiment))
    runs = list(itertools.product(experiment.seeds, experiment.variants))
    pending = [name for name in experiment.variants if any((seed, name) not in rows for seed in experiment.seeds)]
    trained = [name for name in pending if name in trained_variants(experiment)]
    distances = check_files(experiment, trained)
    splits = load_data(experiment, trained) if pending else {}
    trunks: dict = {}
    origin = {"command": command, "version": package_version(), "commit": source_commit()}
    for seed, name in runs:
        if (seed, name) not in rows:
            with locked_by_first(run_folder(experiment, name, seed)):
                rows[seed, name] = train_variant(experiment, name, seed, splits, trunks, distances, origin=origin)
        row = rows[seed, name]
        epochs = f" at epoch {row['best_epoch']}, {row['seconds_per_epoch']:.1f} s per epoch"
        untrained = name not in trained_variants(experiment)
        console.print(
            f"[bold]{escape(name)}[/] seed {seed}: validation SROCC {row['validation_srocc']:.4f}"
            + (", not trained" if untrained else epochs)
        )
    minutes = (time.perf_counter() - began) / 60
    console.print(f"trained in {minutes:.1f} minutes; models are in {root_folder(experiment)}", markup=False)
