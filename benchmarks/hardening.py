"""What a change of a metric's training leaves of its order under attack: variants of a config, fold by fold.

    RUN="--config configs/hardening_study.py --workdir runs/hardening --rows benchmarks/hardening/study.json"
    JAXIQA_DATA=/path/to/data python benchmarks/hardening.py $RUN --variants longer recommended     # five folds
    JAXIQA_DATA=/path/to/data python benchmarks/hardening.py $RUN --variants longer --fold 0 --seed 1
    python benchmarks/hardening.py $RUN --show frontier.png     # the table and the plot of what is stored

Trains the variants and their parents on a fold (`jaxiqa.data.folds`), and attacks the order of images that no training
has seen: `jaxiqa.attacks.rank_attacks` without Square, with transfer from the base. For each image the strongest attack
counts, and of the ensemble the one that leaves the smallest SROCC.

A row per fold, seed and variant is kept apart from the trained models, with the scores of each image: a row that is
there is not measured again, so a study goes on over sessions and machines that share only this file. ``git`` history
tells which code made it.
"""

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from folds import config_digest, scores
from matplotlib.figure import Figure

from jaxiqa import data, models
from jaxiqa.attacks import Maximize, invert_ranks, rank_attacks
from jaxiqa.cli.train import train
from jaxiqa.config import Average, Experiment, folded, load_config, run_folder
from jaxiqa.core.files import write_text
from jaxiqa.data.pipeline import scoring_batches
from jaxiqa.lipschitz import gradient_norms
from jaxiqa.measures import ranks
from jaxiqa.measures.correlation import plcc, srocc
from jaxiqa.reports.drawing import COLOURS, DPI, MARKERS, SMALL

BASE = "base"
EPSILONS = (0.5, 1.0, 2.0)  # of 255
IMAGES, BATCH = 32, 8

Row = dict[str, Any]


def with_parents(experiment: Experiment, name: str) -> dict[str, Any]:
    """Return a variant and all that it starts from, those first."""
    variant = experiment.variants[name]
    training = getattr(variant, "training", None)
    needs = [BASE, getattr(variant, "parent", None), training and training.distil and training.distil.teacher]
    needs += variant.members if isinstance(variant, Average) else []
    found: dict[str, Any] = {}
    for other in dict.fromkeys(need for need in needs if need and need != name):
        found |= with_parents(experiment, other)
    return found | {name: variant}


def chosen_places(mos: np.ndarray, count: int) -> np.ndarray:
    """Return the places of ``count`` images, spread evenly over the order of their labels.

    >>> chosen_places(np.array([3.0, 1.0, 2.0, 5.0, 4.0]), 3).tolist()
    [1, 0, 3]
    """
    return np.argsort(mos, kind="stable")[np.linspace(0, len(mos) - 1, min(count, len(mos))).round().astype(int)]


def attacked(experiment: Experiment, name: str, seed: int, split: data.Split, images: int) -> Row:
    """Return what attacks on the order leave of a model's scores, for images that are spread over the order."""
    size = experiment.model.input_size
    places = chosen_places(split.mos, images)
    chosen, mos = split.select(places), split.mos[places]
    signs = np.asarray(invert_ranks(mos).sign)
    own, *others = (
        models.score_fn(models.load_run(run_folder(experiment, one, seed)), size) for one in dict.fromkeys((name, BASE))
    )
    score, slopes = jax.jit(lambda f, x: f(x)), jax.jit(lambda f, x: gradient_norms(f, x, "linf"))
    found: dict[str, dict[str, list[float]]] = {str(epsilon): {} for epsilon in EPSILONS}
    clean, slope = [], []
    for first, (pixels, valid, _) in enumerate(scoring_batches(chosen, BATCH, size=size)):
        place = np.minimum(np.arange(len(pixels)) + first * len(pixels), len(chosen) - 1)  # the last batch is padded
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), first), len(pixels))
        clean += np.asarray(score(own, pixels))[:valid].tolist()
        slope += (np.asarray(slopes(own, pixels)) / 255)[:valid].tolist()
        for epsilon in EPSILONS:
            several = rank_attacks(epsilon / 255, Maximize(signs[place]), sources=others, queries=0)
            for label, attack in several.items():
                moved = np.asarray(score(own, attack(own, pixels, keys)))[:valid]
                found[str(epsilon)].setdefault(label, []).extend(moved.tolist())
        print(f"{name}: {len(clean)} of {len(chosen)} images attacked", flush=True)
    row: Row = {"mos": mos.tolist(), "clean": clean, "slope": float(np.mean(slope) / np.std(clean))}
    for epsilon, by_attack in found.items():
        values = {label: np.array(one) for label, one in by_attack.items()}
        row[epsilon] = {
            "worst": dict(zip(("srocc", "attack"), ranks.worst_srocc(values, mos), strict=True)),
            "gain": float(np.mean(signs * (ranks.combined(values, mos) - np.array(clean))) / np.std(clean)),
            "scores": [round(float(value), 3) for value in ranks.combined(values, mos)],
        }
    return row


def measure(experiment: Experiment, name: str, seed: int, images: int) -> Row:
    """Train what the experiment has, and return the row of one variant."""
    train(experiment)
    split = data.load(experiment.data.name, **experiment.data.arguments)["test"]
    folder = run_folder(experiment, name, seed)
    whole = scores(models.load_run(folder), split, experiment.model.input_size)
    trained = json.loads((folder / "training.json").read_text())
    return {
        "srocc": srocc(whole, split.mos),
        "plcc": plcc(whole, split.mos),
        "epoch seconds": trained.get("seconds_per_epoch"),
        **attacked(experiment, name, seed, split, images),
    }


def table(rows: list[Row]) -> str:
    """Return means ± standard deviations over folds and seeds, and differences from the base of the same run.

    >>> row = {"fold": 0, "seed": 0, "model": "base", "srocc": 0.8, "slope": 2.0, "cost": 1.0}
    >>> row |= {str(epsilon): {"worst": {"srocc": -0.5}, "gain": 3.0} for epsilon in EPSILONS}
    >>> print(table([row, row | {"model": "other", "srocc": 0.7}]).splitlines()[-1])
    | other | 1 | .700 | −.100 | −.500 | −.500 | −.500 | 3.00 | 3.00 | 3.00 | 2.00 |
    """
    heads = ["model", "runs", "SROCC", "− base"]
    heads += [f"worst SROCC at {epsilon:g}/255" for epsilon in EPSILONS]
    heads += [f"gain at {epsilon:g}/255" for epsilon in EPSILONS] + ["slope per 1/255"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    bases = {(row["fold"], row["seed"]): row["srocc"] for row in rows if row["model"] == BASE}
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        lost = [row["srocc"] - bases[row["fold"], row["seed"]] for row in own]
        cells = [str(len(own)), spread([row["srocc"] for row in own]), spread(lost)]
        cells += [spread([row[str(epsilon)]["worst"]["srocc"] for row in own]) for epsilon in EPSILONS]
        cells += [spread([row[str(epsilon)]["gain"] for row in own], 2) for epsilon in EPSILONS]
        lines.append(f"| {name} | " + " | ".join([*cells, spread([row["slope"] for row in own], 2)]) + " |")
    return "\n".join(lines)


def spread(values: list[float], digits: int = 3) -> str:
    """Return mean ± standard deviation; of a single value, the value."""
    text = f"{np.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.{digits}f}"
    return re.sub(r"\b0\.(?=\d{3})", ".", text).replace("-", "−")


def draw(rows: list[Row], path: Path) -> None:
    """Plot the agreement on clean images against what attacks leave of it: means over runs, bars of one deviation."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(4 * len(EPSILONS), 4), layout="constrained")
    for epsilon, axes in zip(EPSILONS, figure.subplots(1, len(EPSILONS), sharey=True), strict=True):
        for number, name in enumerate(names):
            own = [row for row in rows if row["model"] == name]
            x, y = [row["srocc"] for row in own], [row[str(epsilon)]["worst"]["srocc"] for row in own]
            bars = {"xerr": np.std(x), "yerr": np.std(y), "capsize": 2, "elinewidth": 0.8, "markersize": 6}
            style = {"color": COLOURS[number % len(COLOURS)], "fmt": MARKERS[number % len(MARKERS)]}
            axes.errorbar(np.mean(x), np.mean(y), label=name, **style, **bars)
        axes.axhline(0, color="#999999", linewidth=0.8)
        axes.set_title(f"ε = {epsilon:g}/255", fontsize=SMALL)
        axes.set_xlabel("SROCC, clean images")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("worst SROCC under attack")
    figure.axes[-1].legend(fontsize=SMALL, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=DPI)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path)
    parser.add_argument("--backbone", help="the parameter of that name of the config")
    parser.add_argument("--workdir", required=True, type=Path, help="folder of the trained models")
    parser.add_argument("--rows", required=True, type=Path, help="the file of the numbers")
    parser.add_argument("--variants", nargs="+", default=[], help="the base is always among them")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--fold", type=int, nargs="+", help="these folds only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=IMAGES, help="attacked images of each fold")
    parser.add_argument("--show", type=Path, metavar="PLOT", help="print the table, write the plot, measure nothing")
    given = parser.parse_args()
    if given.show:
        rows = json.loads(given.rows.read_text())
        print(table(rows))
        draw(rows, given.show)
        return
    experiment = load_config(given.config, **({"backbone": given.backbone} if given.backbone else {}))
    if unknown := set(given.variants) - set(experiment.variants):
        parser.error(f"--variants: no {', '.join(sorted(unknown))}; the config has {', '.join(experiment.variants)}")
    numbers = given.fold if given.fold is not None else range(given.folds)
    if not set(numbers) <= set(range(given.folds)):
        parser.error(f"--fold: {numbers}; there are {given.folds} folds, from 0")
    parts = folded(replace(experiment, folds=given.folds, workdir=str(given.workdir)))
    for number in numbers:
        for name in dict.fromkeys((BASE, *given.variants)):
            part = replace(parts[number], variants=with_parents(parts[number], name), seeds=(given.seed,))
            told = {"fold": number, "seed": given.seed, "model": name, "images": given.images}
            rows = json.loads(given.rows.read_text()) if given.rows.exists() else []
            known = [row for row in rows if told.items() <= row.items()]
            told["config"] = config_digest(part)
            if any(row["config"] != told["config"] for row in known):
                parser.error(f"{given.rows}: {name} of fold {number} belongs to another config; name another file")
            if known:
                continue
            given.rows.parent.mkdir(parents=True, exist_ok=True)
            rows.append(told | measure(part, name, given.seed, given.images))
            write_text(given.rows, json.dumps(rows, indent=None).replace('{"fold"', '\n{"fold"') + "\n")
            print(table(rows), flush=True)


if __name__ == "__main__":
    main()
