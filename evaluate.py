"""Attack the trained variants of an experiment, defend them, and write tables, plots and report.

Writes WORKDIR/results.jsonl (one row per image, model, attack and strength) and, with defenses, the attacked images as
PNG files, defenses.jsonl and certificates.jsonl; then table.csv, defenses.csv, leaderboard.csv, the plots, the example
sheet and report.html. Kill it whenever you like: the same command goes on and repeats nothing. Rows of models that were
trained anew in the meantime are refused, not mixed.

``--defense [LABEL=]NAME[,OPTION=VALUE...]`` adds a defense to those of the config, as often as you like; NAME is one of
the library's purifiers or a file of your own, as in ``--defense my_file.py:MyPurifier``.
"""

import itertools
import shlex
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from jaxiqa.config import Experiment, check_experiment, from_command_line, root_folder, run_folder
from jaxiqa.config.command_line import take_defenses


def main() -> None:
    experiment = read_arguments(sys.argv[1:])
    check_experiment(experiment)
    from jaxiqa.core.files import locked, remove_leftovers
    from jaxiqa.core.progress import console, start_jax
    from jaxiqa.evaluation import build_defense, certify_stage
    from jaxiqa.evaluation.attack_stage import attack_all
    from jaxiqa.evaluation.clean_stage import check_gradients, predict
    from jaxiqa.evaluation.defense_stage import defend_all
    from jaxiqa.evaluation.fingerprint import FOLDERS, check_same_evaluation
    from jaxiqa.evaluation.images import checked, fitted_on, load_attacked, load_split
    from jaxiqa.evaluation.startup import check_evaluation_start
    from jaxiqa.evaluation.subject import Subject
    from jaxiqa.train.startup import check_training

    start_jax()
    began = time.perf_counter()
    check_training(experiment)
    evaluation = experiment.evaluation
    check_training(experiment)
    check_evaluation_start(experiment)
    built = {label: build_defense.build(label, defense) for label, defense in evaluation.defenses.items()}
    root, runs = root_folder(experiment), list(itertools.product(experiment.seeds, experiment.variants))
    for seed, name in runs:
        if not run_folder(experiment, name, seed).is_dir():
            folder = run_folder(experiment, name, seed)
            raise SystemExit(f"{folder} does not exist; train first, with train.py and the same arguments")
    split = load_split(experiment.data, evaluation.split)
    labelled_images = checked(split, uniform=experiment.model.input_size is None)
    attacked_images = load_attacked(evaluation)
    digests = {"labelled images": labelled_images.sha256, "attacked images": attacked_images.sha256}
    for label, attack in evaluation.attacks.items():
        if attack.fit_on:
            digests[f"images of attack {label}"] = fitted_on(label, attack, attacked_images)
    labelled, attacked = labelled_images.split, attacked_images.split
    defending = bool(evaluation.defenses or evaluation.certifiers)
    with ExitStack() as locks:
        # Nothing of the folder is read before it is ours, nor a model that is being trained.
        for folder in (root, *(run_folder(experiment, name, seed) for seed, name in runs)):
            locks.enter_context(locked(folder))
        for name in FOLDERS:
            remove_leftovers(root / name)
        check_same_evaluation(experiment, digests)
        for seed, name in runs:
            subject = Subject(
                name,
                seed,
                root=root,
                folder=run_folder(experiment, name, seed),
                size=attacked.read(0).shape[:2],
                batch=evaluation.batch_size,
            )
            for label, purifier in built.items():
                build_defense.check_size(subject, label, purifier)
            predict(subject, labelled, experiment.model.input_size)
            check_gradients(subject, attacked, evaluation.masking)
            examples = evaluation.examples if seed == experiment.seeds[0] else 0
            attack_all(subject, evaluation, attacked, store=defending or evaluation.save_images, examples=examples)
            if evaluation.defenses:
                defend_all(subject, evaluation, attacked)
            certify_stage.certify_all(subject, evaluation, attacked)
        write_reports(experiment, labelled, attacked)
    console.print(f"evaluated in {(time.perf_counter() - began) / 60:.1f} minutes")


def read_arguments(arguments: list[str]) -> Experiment:
    """The config, with ``--field value`` and ``--defense`` on top."""
    arguments, defenses = take_defenses(arguments)
    experiment = from_command_line(__doc__, arguments)
    evaluation = experiment.evaluation
    return replace(experiment, evaluation=replace(evaluation, defenses={**evaluation.defenses, **defenses}))


def write_reports(experiment: Experiment, labelled: Any, attacked: Any) -> None:
    """Tables, plots and report.html from the rows of this experiment's models, seeds, attacks and defenses."""
    from rich.markup import escape

    from jaxiqa.core.progress import console, device_name
    from jaxiqa.core.types import UNDEFENDED, CertificateRow, DefenseRow, MaskingRow, ModelRow, PredictionRow, ResultRow
    from jaxiqa.evaluation.attack_stage import example_path
    from jaxiqa.evaluation.strengths import keys_of
    from jaxiqa.evaluation.subject import FILES
    from jaxiqa.reports import write_defenses, write_report
    from jaxiqa.reports.attacks.summary import ends_of, summarise
    from jaxiqa.reports.attacks.tables import notes, render
    from jaxiqa.reports.defenses.summary import summarise_defenses
    from jaxiqa.reports.defenses.tables import certificates
    from jaxiqa.reports.examples import load
    from jaxiqa.results.jsonl import read_rows

    root, evaluation = root_folder(experiment), experiment.evaluation
    names, seeds, order = list(experiment.variants), experiment.seeds, list(evaluation.attacks)

    def mine(kind: type) -> list:
        rows = read_rows(root / FILES[kind], kind)
        return [row for row in rows if row.model in names and row.seed in seeds]

    models = sorted(mine(ModelRow), key=lambda row: (names.index(row.model), row.seed))
    keys = {label: set(keys_of(attack)) for label, attack in evaluation.attacks.items()}  # of the present strengths
    results = [row for row in mine(ResultRow) if (row.level or row.epsilon) in keys.get(row.attack, ())]
    results.sort(key=lambda row: order.index(row.attack))
    masking = [row for row in mine(MaskingRow) if row.images == evaluation.masking]
    ranges = {"score_range": evaluation.score_range, "mos_range": labelled.mos_range}
    summary = summarise(results, mine(PredictionRow), models, masking=masking, **ranges)
    paths = [
        example_path(root, name, label, number)
        for number in range(evaluation.examples)
        for label in order
        for name in (names[0], names[-1])
    ]
    examples = [load(path) for path in dict.fromkeys(paths) if path.exists()]
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "device": device_name(),
        "date": time.strftime("%Y-%m-%d"),
        "labelled images": labelled.name,
        "attacked images": attacked.name,
    }
    ends = ends_of(models, results, **ranges)
    mos = None if attacked.mos is None else dict(zip(attacked.ids, attacked.mos.tolist(), strict=True))
    rows = [row for row in mine(DefenseRow) if (row.level or row.epsilon) in keys.get(row.attack, ())]
    labels = [UNDEFENDED, *evaluation.defenses]
    chosen = sorted((row for row in rows if row.defense in labels), key=lambda row: labels.index(row.defense))
    how = {"mos": mos, "psnr_cap": evaluation.psnr_cap}
    proofs = [row for row in mine(CertificateRow) if row.certifier in evaluation.certifiers]
    defended, figures = write_defenses(
        root,
        summarise_defenses(chosen, ends, **how),
        summarise_defenses(rows, ends, **how),
        certificates(proofs, ends, mos),
        title=experiment.name,
        facts=facts,
    )
    page = write_report(root, summary, examples, title=experiment.name, facts=facts, defended=defended, figures=figures)
    console.print(render(summary))
    for note in notes(summary):
        console.print(f"[dim]{escape(note)}[/]", highlight=False)
    for sheet in defended:
        if len(sheet.header) <= 10:  # the leaderboard is too wide for a terminal
            console.print(sheet.render())
    console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    from jaxiqa.core.progress import explained

    with explained():
        main()
