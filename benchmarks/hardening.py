"""What a change of a metric's training leaves of its order under attack: variants of a config, fold by fold.

    RUN="--config configs/hardening_study.py --workdir runs/hardening --rows benchmarks/hardening/study.json"
    JAXIQA_DATA=/path/to/data python benchmarks/hardening.py $RUN --variants longer recommended     # five folds
    JAXIQA_DATA=/path/to/data python benchmarks/hardening.py $RUN --variants longer --fold 0 --seed 1
    JAXIQA_DATA=/path/to/data python benchmarks/hardening.py $RUN --saved "certified=$PWD/runs/c/fold{fold}/base/seed0"

Trains the variants and their parents on a fold (`jaxiqa.data.folds`), and attacks images that no training has seen.
Their order, as an evaluation does: `jaxiqa.attacks.rank_attacks` without Square, with transfer from the base. And all
their scores, upwards: by `RAISING`, of which the strongest counts for each image.
``--saved`` attacks other trained metrics beside them; ``{fold}`` in a folder is the number of the fold, so that no
metric has learned from its images.

A row per fold, seed and variant is kept apart from the trained models. A row that is there is not measured again, so a
study goes on over sessions and machines that share only this file. Prints the table of all rows, and draws them beside
the file: agreement lost against what attacks leave of it.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from folds import agreement, config_digest, deviation, scores, spread
from matplotlib.figure import Figure

from jaxiqa import attacks, data, models
from jaxiqa.cli.runtime import start_jax
from jaxiqa.cli.train import train
from jaxiqa.config import Average, Experiment, Ranks, Saved, folded, load_config, run_folder
from jaxiqa.core.allocator import keep_freed_memory
from jaxiqa.core.files import write_bytes, write_text
from jaxiqa.data.pipeline import scoring_batches
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.evaluation.rank_stage import RankPlan, attack_order
from jaxiqa.measures.correlation import srocc
from jaxiqa.reports.attacks.order import summarise_order
from jaxiqa.reports.drawing import legend, png, style
from jaxiqa.results.rows import RankRow
from jaxiqa.results.store import Store

BASE = "base"
EPSILONS = (0.5, 1.0, 2.0, 4.0)
"""Strengths at which the order is attacked, in 255ths."""
GAINS = (2.0, 4.0, 8.0)
"""Strengths at which all scores are raised, in 255ths."""
RAISING: dict[str, tuple[str, dict[str, Any]]] = {"PGD-10": ("pgd", {"steps": 10}), "APGD-20": ("apgd", {"steps": 20})}
IMAGES, BATCH = 32, 8

Row = dict[str, Any]


def with_parents(experiment: Experiment, name: str) -> dict[str, Any]:
    """Return a variant and all that it starts from, those first."""
    variant = experiment.variants[name]
    training = getattr(variant, "training", None)
    needs = [BASE, getattr(variant, "parent", None), training and training.taught and training.taught.teacher]
    needs += variant.members if isinstance(variant, Average) else []
    found: dict[str, Any] = {}
    for other in dict.fromkeys(need for need in needs if need and need != name):
        found |= with_parents(experiment, other)
    return found | {name: variant}


def attacked(experiment: Experiment, name: str, seed: int, split: data.Split, images: int) -> Row:
    """Attack the order, as an evaluation does, and return what is left of it at every strength (`EPSILONS`, and 0)."""
    size, root = experiment.model.input_size, run_folder(experiment, name, seed)  # rows go with the model
    plan = RankPlan(split, size, Ranks(tuple(e / 255 for e in EPSILONS), images=images, queries=0))
    store, shape, names = Store(root), size or split.read(0).shape[:2], list(dict.fromkeys((name, BASE)))
    own, *others = (
        EvaluatedModel(one, seed, root, run_folder(experiment, one, seed), shape, BATCH, store) for one in names
    )
    attack_order(own, others, plan)
    order = summarise_order(plan.present(own.query(RankRow), names), [name], {(name, seed): own.model.score_range})
    assert order is not None
    if order.missing:
        raise SystemExit("; ".join(order.missing))
    left = {round(255 * epsilon, 6): found for (_, epsilon), found in order.left.items()}
    return {
        "left": {f"{e:g}": {"srocc": x.srocc[0], "attack": x.attacks[0], "gain": x.gain[0]} for e, x in left.items()},
        "slope": order.slopes[name][seed],
    }


def raised(model: models.metric.Metric, split: data.Split, size: tuple[int, int]) -> Row:
    """Raise the scores of all images, and return the mean gain as a share of the labels' range, and the SROCC after."""
    score_fn, found = models.score_fn(model, size), {}
    score = jax.jit(lambda score, images: score(images))
    for epsilon in GAINS:
        kinds = [attacks.make(kind, epsilon=epsilon / 255, **options) for kind, options in RAISING.values()]
        after, gains = [], []
        for number, (images, count, _) in enumerate(scoring_batches(split, BATCH, size=size)):
            key = jax.random.fold_in(jax.random.key(0), number)
            ways = [score(score_fn, attack(score_fn, images, key)) for attack in kinds]
            after += np.max(ways, axis=0)[:count].tolist()
            gains += (np.max(ways, axis=0) - np.asarray(score(score_fn, images)))[:count].tolist()
        found[f"{epsilon:g}"] = {"gain": float(np.mean(gains) / np.ptp(split.mos)), "srocc": srocc(after, split.mos)}
    return {"raised": found}


def measure(experiment: Experiment, name: str, seed: int, images: int) -> Row:
    """Train what the experiment has, and return the row of one variant."""
    train(experiment)
    split, size = data.load(experiment.data.name, **experiment.data.arguments)["test"], experiment.model.input_size
    model = models.load_run(run_folder(experiment, name, seed))
    some = split.select(RankPlan(split, size, Ranks(images=images)).places)
    whole = agreement(scores(model, split, size), split.mos) | raised(model, some, size)
    return whole | attacked(experiment, name, seed, split, images)


def differences(rows: list[Row], own: list[Row]) -> list[float]:
    """Return the SROCC of some rows minus that of the base of the same fold and seed."""
    bases = {(row["fold"], row["seed"]): row["srocc"] for row in rows if row["model"] == BASE}
    return [row["srocc"] - bases[row["fold"], row["seed"]] for row in own]


def table(rows: list[Row]) -> str:
    """Return means ± standard deviations over folds and seeds, and differences from the base of the same fold and seed.

    >>> row = {"fold": 0, "seed": 0, "model": "base", "srocc": 0.8, "slope": 0.5}
    >>> row |= {"left": {f"{epsilon:g}": {"srocc": -0.5, "gain": 3.0} for epsilon in EPSILONS}}
    >>> row |= {"raised": {f"{epsilon:g}": {"srocc": 0.25, "gain": 2.0} for epsilon in GAINS}}
    >>> print(table([row, row | {"model": "other", "srocc": 0.7}]).splitlines()[-1])
    | other | 1 | .700 | −.100 | −.500 | −.500 | −.500 | −.500 | 3.000 | .500 | 2.000 | .250 |
    """
    heads = ["model", "runs", "SROCC", "− base"]
    heads += [f"worst SROCC at {epsilon:g}/255" for epsilon in EPSILONS]
    heads += ["gain at 1/255, deviations", "slope per 1/255", "raised, 2 to 8/255", "SROCC raised at 4/255"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        columns = [[row["srocc"] for row in own], differences(rows, own)]
        columns += [[row["left"][f"{e:g}"]["srocc"] for row in own] for e in EPSILONS]
        columns += [[row["left"]["1"]["gain"] for row in own], [row["slope"] for row in own]]
        columns.append([np.mean([found["gain"] for found in row["raised"].values()]) for row in own])
        columns.append([row["raised"]["4"]["srocc"] for row in own])
        lines.append(f"| {name} | {len(own)} | " + " | ".join(map(spread, columns)) + " |")
    return "\n".join(lines)


def draw(rows: list[Row], path: Path) -> None:
    """Plot the agreement lost on clean images against what attacks leave: means over runs, bars of one deviation."""
    figure = Figure(figsize=(3.4 * len(EPSILONS), 3.6), layout="constrained")
    panels = figure.subplots(1, len(EPSILONS), sharey=True)
    for epsilon, panel in zip(EPSILONS, panels, strict=True):
        for number, name in enumerate(dict.fromkeys(row["model"] for row in rows)):
            own = [row for row in rows if row["model"] == name]
            x, y = differences(rows, own), [row["left"][f"{epsilon:g}"]["srocc"] for row in own]
            bars = {"xerr": deviation(x), "yerr": deviation(y), "capsize": 2}
            panel.errorbar(np.mean(x), np.mean(y), label=name, linestyle="", **style(number), **bars)
        panel.axhline(0, color="#999999", linewidth=0.8)
        panel.set(title=f"ε = {epsilon:g}/255", xlabel="SROCC − base →")
        panel.margins(0.18)
    panels[0].set_ylabel("worst SROCC under attack →")
    legend(figure, panels)
    write_bytes(path, png(figure))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path)
    parser.add_argument("--backbone", help="the parameter of that name of the config")
    parser.add_argument("--workdir", required=True, type=Path, help="folder of the trained models")
    parser.add_argument("--rows", required=True, type=Path, help="the file of the numbers")
    parser.add_argument("--variants", nargs="+", default=[], help="the base is always among them")
    parser.add_argument("--saved", nargs="+", default=[], metavar="NAME=FOLDER", help="trained metrics")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--fold", type=int, nargs="+", help="these folds only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=IMAGES, help="attacked images of each fold")
    given = parser.parse_args()
    keep_freed_memory()
    start_jax()
    experiment = load_config(given.config, **({"backbone": given.backbone} if given.backbone else {}))
    if unknown := set(given.variants) - set(experiment.variants):
        parser.error(f"--variants: no {', '.join(sorted(unknown))}; the config has {', '.join(experiment.variants)}")
    saved = dict(entry.split("=", 1) for entry in given.saved if "=" in entry)
    if len(saved) < len(given.saved) or saved.keys() & experiment.variants.keys():
        parser.error(f"--saved {' '.join(given.saved)}: expected NAME=FOLDER, each NAME once and not one of the config")
    variants = experiment.variants | {name: Saved(folder) for name, folder in saved.items()}
    numbers = given.fold if given.fold is not None else range(given.folds)
    if not set(numbers) <= set(range(given.folds)):
        parser.error(f"--fold: {numbers}; there are {given.folds} folds, from 0")
    parts = folded(replace(experiment, variants=variants, folds=given.folds, workdir=str(given.workdir)))
    rows = json.loads(given.rows.read_text()) if given.rows.exists() else []
    for number in numbers:
        for name in dict.fromkeys((BASE, *given.variants, *saved)):
            part = replace(parts[number], variants=with_parents(parts[number], name), seeds=(given.seed,))
            told = {"fold": number, "seed": given.seed, "model": name, "images": given.images}
            known = [row for row in rows if told.items() <= row.items()]
            told["config"] = config_digest(part)
            if any(row["config"] != told["config"] for row in known):
                parser.error(f"{given.rows}: {name} of fold {number} belongs to another config; name another file")
            if not known:
                given.rows.parent.mkdir(parents=True, exist_ok=True)
                rows.append(told | measure(part, name, given.seed, given.images))
                write_text(given.rows, json.dumps(rows, indent=1))
    print(table(rows), flush=True)
    draw(rows, given.rows.with_suffix(".png"))


if __name__ == "__main__":
    main()
