"""The table of adversarial training of a benchmark of defenses.

"Guardians of Image Quality: Benchmarking Defenses Against Adversarial Attacks on Image Quality Metrics",
arXiv:2408.01541.

Models are found by the names of their variants: ``base``, and ``LABEL_STRENGTH`` for the six set-ups.
"""

import numpy as np

from jaxiqa.measures.correlation import srocc
from jaxiqa.measures.defense import d_score
from jaxiqa.reports.cells import Curves, Scores, over_seeds
from jaxiqa.reports.papers.paper import Paper, Run, common_notes, compared, differences, published
from jaxiqa.reports.table import Compared, Entry, Table

NAME = "guardians"
SETUPS = {
    "base": "no defense",
    **{
        f"{label.lower()}_{strength}": f"{label}, {strength}/255"
        for label in ("SSIM", "LPIPS")
        for strength in (2, 4, 8)
    },
}
"""Variant -> its row."""
COLUMNS = {
    "D": "100 · mean |f'(x') − f(x)| / (high − low), with f the metric before adversarial training, f' after it and x' "
    "attacked against f': lower is better",
    "D(D)": "100 · mean |f'(x') − f'(x)| / (high − low)",
    "SROCC clear": "of f'(x) with the human scores",
    "SROCC adv": "of f'(x') with the human scores, averaged over attacks and strengths",
}
"""Column -> definition."""


def tables(run: Run) -> list[Table]:
    """Return the table: a row per set-up, numbers averaged over all attacks and strengths."""
    scores = Curves(run.results)
    rows: list[list[str | Compared]] = []
    for model, label in SETUPS.items():
        cells = _cells(run, scores, model).items()
        numbers = [compared(entry, published(NAME, run.metric, "1", model, name)) for name, entry in cells]
        rows.append([label, run.metric, *numbers])
    attacks = ", ".join(run.summary.attacks) or "none"
    notes = [
        *common_notes(NAME, run),
        *(f"{name}: {what}." for name, what in COLUMNS.items()),
        f"Attacks: {attacks}. Each attack is made against the model in its row.",
        "The benchmark's Q, the quality of defended images, is left out: adversarial training changes no image.",
    ]
    differ = {"What differs from the paper's protocol": differences(NAME, run)}
    return [
        Table(
            f"{PAPER.title}. Adversarial training",
            ["set-up", "metric", *COLUMNS],
            rows,
            notes,
            text=2,
            lists=differ,
        )
    ]


def _cells(run: Run, scores: Curves, model: str) -> dict[str, Entry]:
    per_seed: dict[str, list[float | None]] = {name: [] for name in COLUMNS}
    for seed in run.summary.seeds:
        mine = {key[2]: scores[key] for key in scores if key[:2] == (model, seed)}
        if set(mine) != set(run.summary.attacks) or not mine or (model, seed) not in run.ends:
            continue  # numbers over other attacks could not be compared
        for name, value in _numbers(run, scores, mine, model, seed).items():
            per_seed[name].append(value)
    return {name: over_seeds(values, 2 if name.startswith("D") else 3) for name, values in per_seed.items()}


def _numbers(run: Run, scores: Curves, mine: dict, model: str, seed: int) -> dict[str, float | None]:
    """Return the numbers of one model and seed: means over attacks and strengths."""
    low, high = run.ends[model, seed]
    before = next((key for key in scores if key[:2] == ("base", seed)), None)
    every: list[Scores] = [of for by_strength in mine.values() for of in by_strength.values()]
    found: dict[str, float | None] = dict.fromkeys(COLUMNS)
    found["D(D)"] = float(np.mean([d_score(of.clean, of.attacked, low, high) for of in every]))
    if before:
        clean = next(iter(scores[before].values())).clean  # the same for every attack
        found["D"] = float(np.mean([d_score(clean, of.attacked, low, high) for of in every]))
    if run.mos is not None:
        human = np.array([run.mos[image] for image in every[0].images])
        found["SROCC clear"] = _correlation(every[0].clean, human)
        values = [_correlation(of.attacked, human) for of in every]
        known = [value for value in values if value is not None]
        found["SROCC adv"] = float(np.mean(known)) if len(known) == len(values) else None
    return found


def _correlation(scores: np.ndarray, human: np.ndarray) -> float | None:
    try:
        return srocc(scores, human)
    except ValueError:  # all equal: undefined
        return None


PAPER = Paper(
    title='"Guardians of Image Quality", arXiv:2408.01541', metrics=("linearity", "koncept512"), tables=tables
)
