"""Attack the trained variants of an experiment, defend them, and write tables, plots and report.

Writes WORKDIR/results.jsonl (one row per image, model, attack and strength) and, with defenses, the attacked images as
PNG files, defenses.jsonl and certificates.jsonl; then table.csv, defenses.csv, leaderboard.csv, the plots, the example
sheet and report.html. Kill it whenever you like: the same command goes on and repeats nothing. Rows of models that were
trained anew in the meantime are refused, not mixed.

``--defense [LABEL=]NAME[,OPTION=VALUE...]`` adds a defense to those of the config, as often as you like; NAME is one of
the library's purifiers or a file of your own, as in ``--defense my_file.py:MyPurifier``.
"""

import itertools
import json
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jaxiqa.config import Experiment, check_experiment, from_command_line, root_folder, run_folder
from jaxiqa.config.command_line import take_defenses


def main() -> None:
    experiment = read_arguments(sys.argv[1:])
    check_experiment(experiment)
    from jaxiqa import data
    from jaxiqa.evaluation import certified, purifiers
    from jaxiqa.evaluation.attacked import attack_all
    from jaxiqa.evaluation.clean import check_gradients, predict
    from jaxiqa.evaluation.defended import defend_all
    from jaxiqa.evaluation.pictures import load_attacked, load_split
    from jaxiqa.evaluation.subject import Subject
    from jaxiqa.files import locked
    from jaxiqa.terminal import console, start_jax

    start_jax()
    began = time.perf_counter()
    evaluation = experiment.evaluation
    # what is wrong is said now, not after the attacks
    built = {label: purifiers.build(label, defense) for label, defense in evaluation.defenses.items()}
    for label, certifier in evaluation.certifiers.items():
        certified.build(label, certifier)
    check_same_evaluation(experiment)
    labelled = load_split(experiment.data, evaluation.split)
    data.validate(labelled, uniform=experiment.model.input_size is None)
    attacked = load_attacked(evaluation)
    defending = bool(evaluation.defenses or evaluation.certifiers)
    with locked(root_folder(experiment)):
        for seed, name in itertools.product(experiment.seeds, experiment.variants):
            subject = Subject(
                name,
                seed,
                root=root_folder(experiment),
                folder=run_folder(experiment, name, seed),
                size=attacked.read(0).shape[:2],
                batch=evaluation.batch_size,
            )
            for label, purifier in built.items():
                purifiers.check_size(subject, label, purifier)
            predict(subject, labelled, experiment.model.input_size)
            check_gradients(subject, attacked, evaluation.masking)
            examples = evaluation.examples if seed == experiment.seeds[0] else 0
            attack_all(subject, evaluation, attacked, store=defending or evaluation.save_images, examples=examples)
            if evaluation.defenses:
                defend_all(subject, evaluation, attacked)
            certified.certify_all(subject, evaluation, attacked)
        write_reports(experiment, labelled, attacked)
    console.print(f"evaluated in {(time.perf_counter() - began) / 60:.1f} minutes")


def read_arguments(arguments: list[str]) -> Experiment:
    """The config, with ``--field value`` and ``--defense`` on top."""
    arguments, defenses = take_defenses(arguments)
    experiment = from_command_line(__doc__, arguments)
    evaluation = experiment.evaluation
    return replace(experiment, evaluation=replace(evaluation, defenses={**evaluation.defenses, **defenses}))


def check_same_evaluation(experiment: Experiment) -> None:
    """Refuse to mix rows: the models, images, attacks and defenses of earlier rows must be those of today."""
    from jaxiqa.evaluation.subject import FILES
    from jaxiqa.files import write_text

    root = root_folder(experiment)
    described = json.loads(json.dumps(describe(experiment)))
    path = root / "evaluation.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    changed = [key for key in described if key in earlier and earlier[key] != described[key]]
    changed = [key for key in changed if left_something(root, key)]
    defenses = [key for key in changed if key.startswith(("defense ", "certifier "))]
    attacks = [key for key in changed if key.startswith("attack ")]
    if defenses and defenses == changed:
        raise SystemExit(
            f"{root} has rows of another {', of another '.join(changed)}; give it another label, or delete its lines "
            "from defenses.jsonl or certificates.jsonl and its entry from evaluation.json there"
        )
    if changed:
        relabel = "give what changed another label, and only that is run; or " if len(attacks) == len(changed) else ""
        raise SystemExit(
            f"{root}/results.jsonl belongs to another evaluation ({', '.join(changed)} changed); "
            f"{relabel}delete evaluation.json, {', '.join(FILES.values())}, "
            "fitted/, aligned/, images/ and examples/ there"
        )
    write_text(path, json.dumps(earlier | described, indent=1))


def left_something(root: Path, key: str) -> bool:
    """Whether the folder may hold something made under this key of `describe`; if not, what it means may change."""
    from jaxiqa.evaluation.subject import FILES
    from jaxiqa.reports.rows import read_rows

    kind, _, label = key.partition(" ")
    if kind not in ("attack", "defense", "certifier"):
        return True
    labels = {label, label.removesuffix(", weights")}
    rows = (row for row_type, name in FILES.items() for row in read_rows(root / name, row_type))
    learnt = [path.name for folder in ("fitted", "aligned") for path in (root / folder).glob("*")]
    return any(getattr(row, kind, None) in labels for row in rows) or any(
        f"-{label}" in name for label in labels for name in learnt
    )


def describe(experiment: Experiment) -> dict[str, Any]:
    """All that decides a row, by what it is about."""
    from jaxiqa.evaluation.networks import weight_digests
    from jaxiqa.evaluation.purifiers import source_digest

    evaluation = experiment.evaluation
    described: dict[str, Any] = {}
    for label, attack in evaluation.attacks.items():
        described[f"attack {label}"] = {k: v for k, v in asdict(attack).items() if k != "aligned" or v is not None}
    for label, defense in evaluation.defenses.items():
        described[f"defense {label}"] = [asdict(defense), source_digest(defense), evaluation.adaptive.draws]
    for label, certifier in evaluation.certifiers.items():
        described[f"certifier {label}"] = [asdict(certifier)[key] for key in ("name", "options", "networks")]
    users = {"attack": evaluation.attacks, "defense": evaluation.defenses, "certifier": evaluation.certifiers}
    for kind, parts in users.items():
        for label, part in parts.items():
            if digests := weight_digests(part.networks):
                described[f"{kind} {label}, weights"] = digests
    described["attacked images"] = asdict(evaluation.data)
    subset = evaluation.subset and asdict(evaluation.subset)
    described["choice of attacked images"] = [evaluation.attacked_split, subset, evaluation.size]
    described["labelled images"] = [asdict(experiment.data), evaluation.split]
    for seed, name in itertools.product(experiment.seeds, experiment.variants):
        card = run_folder(experiment, name, seed) / "model.json"
        if not card.exists():
            raise SystemExit(f"{card} does not exist; train first, with train.py and the same arguments")
        described[f"model {name} seed {seed}"] = json.loads(card.read_text())["sha256"]
    return described


def write_reports(experiment: Experiment, labelled: Any, attacked: Any) -> None:
    """Tables, plots and report.html from the rows of this experiment's models, seeds, attacks and defenses."""
    from jaxiqa.evaluation.subject import FILES
    from jaxiqa.reports import write_defenses, write_report
    from jaxiqa.reports.defense_tables import certificates
    from jaxiqa.reports.defenses import summarise_defenses
    from jaxiqa.reports.examples import load
    from jaxiqa.reports.rows import read_rows
    from jaxiqa.reports.summary import ends_of, summarise
    from jaxiqa.reports.table import notes, render
    from jaxiqa.terminal import console, device_name
    from jaxiqa.types import UNDEFENDED, CertificateRow, DefenseRow, MaskingRow, ModelRow, PredictionRow, ResultRow

    root, evaluation = root_folder(experiment), experiment.evaluation
    names, seeds, order = list(experiment.variants), experiment.seeds, list(evaluation.attacks)

    def mine(kind: type) -> list:
        rows = read_rows(root / FILES[kind], kind)
        return [row for row in rows if row.model in names and row.seed in seeds]

    models = sorted(mine(ModelRow), key=lambda row: (names.index(row.model), row.seed))
    results = [row for row in mine(ResultRow) if row.attack in order]
    results.sort(key=lambda row: order.index(row.attack))
    ranges = {"score_range": evaluation.score_range, "mos_range": labelled.mos_range}
    summary = summarise(results, mine(PredictionRow), models, masking=mine(MaskingRow), **ranges)
    paths = [
        root / "examples" / f"{name}-{label}-{number}.npz"
        for number in range(evaluation.examples)
        for label in order
        for name in (names[0], names[-1])
    ]
    examples = [load(path) for path in dict.fromkeys(paths) if path.exists()]
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "device": device_name(),
        "date": time.strftime("%Y-%m-%d"),
        "labelled pictures": labelled.name,
        "attacked pictures": attacked.name,
    }
    ends = ends_of(models, results, **ranges)
    mos = None if attacked.mos is None else dict(zip(attacked.ids, attacked.mos.tolist(), strict=True))
    rows = [row for row in mine(DefenseRow) if row.attack in order]
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
        console.print(f"[dim]{note}[/]", highlight=False)
    for sheet in defended:
        if len(sheet.header) <= 10:  # the leaderboard is too wide for a terminal
            console.print(sheet.render())
    console.print(f"report: {page}")


if __name__ == "__main__":
    from jaxiqa.terminal import explained

    with explained():
        main()
