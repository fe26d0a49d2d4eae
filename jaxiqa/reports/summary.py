"""From rows to the numbers of the tables: per model, mean and spread over seeds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxiqa.checks import check_choice
from jaxiqa.metrics.correlation import krocc, plcc, srocc
from jaxiqa.metrics.robustness import abs_gain, auc, magnitude_gain, r_score
from jaxiqa.types import ModelRow, PredictionRow, ResultRow

SCORE_RANGES = {
    "mos": "the ends of the human scores' scale",
    "baseline": "lowest and highest clean score of the first model on the attacked images",
    "model": "each model's lowest and highest score on its training images",
}
GAINS = {"AbsGain": abs_gain, "|Gain|": magnitude_gain, "R-score": r_score}


@dataclass(frozen=True)
class Value:
    """A number per seed, summarised; ``std`` is the sample deviation, 0 for one seed."""

    mean: float
    std: float
    seeds: int


@dataclass(frozen=True)
class Summary:
    """What tables and plots are made of."""

    models: tuple[str, ...]
    attacks: dict[str, tuple[float | None, ...]]
    """Label -> its strengths, in increasing order."""
    cells: dict[tuple[str, str], Value]
    """(model, column) -> value; columns are such as "SROCC", "AbsGain AUC PGD-1" or "AbsGain PGD-1 @ 4/255"."""
    seeds: tuple[int, ...]
    attacked_images: int
    test_images: int
    score_range: str
    missing: tuple[str, ...]
    """What could not be computed, and why."""


def column(gain: str, attack: str, epsilon: float | None = None, *, auc: bool = False) -> str:
    """The name of a column.

    >>> column("AbsGain", "PGD-1", 4 / 255), column("AbsGain", "PGD-1", auc=True), column("AbsGain", "stAdv")
    ('AbsGain PGD-1 @ 4/255', 'AbsGain AUC PGD-1', 'AbsGain stAdv')
    """
    if auc:
        return f"{gain} AUC {attack}"
    return f"{gain} {attack}" if epsilon is None else f"{gain} {attack} @ {in_255ths(epsilon)}"


def in_255ths(epsilon: float) -> str:
    """A strength as people write it.

    >>> in_255ths(8 / 255), in_255ths(0.01)
    ('8/255', '2.55/255')
    """
    return f"{round(epsilon * 255, 3):g}/255"


def summarise(
    results: Sequence[ResultRow],
    predictions: Sequence[PredictionRow],
    models: Sequence[ModelRow],
    *,
    score_range: str,
    mos_range: tuple[float, float] | None = None,
) -> Summary:
    """Compute every cell per seed, then mean and deviation over seeds.

    Args:
        results, predictions, models: rows; the order of ``models`` is the order of the table, its first the baseline.
        score_range: what gains are divided by; a key of `SCORE_RANGES`.
        mos_range: ends of the human scores' scale, for ``score_range="mos"``.

    Raises:
        ValueError: an unknown range, or ``"mos"`` without its ends.
    """
    check_choice("score_range", score_range, SCORE_RANGES)
    if score_range == "mos" and mos_range is None:
        raise ValueError('score_range="mos" needs mos_range, the ends of the scale; this data set states none')
    names = tuple(dict.fromkeys(row.model for row in models))
    seeds = tuple(sorted({row.seed for row in models}))
    attacks: dict[str, set] = defaultdict(set)
    scores: dict[tuple, dict[str, tuple[float, float]]] = defaultdict(dict)
    for row in results:
        attacks[row.attack].add(row.epsilon)
        scores[row.model, row.seed, row.attack, row.epsilon][row.image] = (row.score, row.attacked)
    strengths = {label: tuple(sorted(found, key=lambda e: -1 if e is None else e)) for label, found in attacks.items()}
    images = {row.image for row in results}
    labelled: dict[tuple, list[tuple[float, float]]] = defaultdict(list)
    for row in predictions:
        labelled[row.model, row.seed].append((row.score, row.mos))

    missing: list[str] = []
    per_seed: dict[tuple[str, str], list[float]] = defaultdict(list)
    for card in models:
        key = (card.model, card.seed)
        found = {
            "parameters": float(card.parameters),
            "s / epoch": card.seconds_per_epoch,
            "s / test": card.seconds_per_test,
            **_agreement(labelled[key], f"{card.model} seed {card.seed}", missing),
        }
        for label, epsilons in strengths.items():
            values: dict[str, list[float]] = defaultdict(list)
            for epsilon in epsilons:
                cell = scores.get((*key, label, epsilon), {})
                if set(cell) != images:
                    where = f"{label} {'' if epsilon is None else in_255ths(epsilon)}"
                    missing.append(f"{card.model} seed {card.seed}: {where}: {len(cell)} of {len(images)} images")
                    continue
                clean, attacked = np.array([cell[image] for image in sorted(cell)]).T
                ends = _ends(score_range, mos_range, card, names[0], scores, label)
                for gain, function in GAINS.items():
                    value = float(function(clean, attacked, *ends).mean())
                    found[column(gain, label, epsilon)] = value
                    values[gain].append(value)
            for gain, curve in values.items():
                if None not in epsilons and len(curve) == len(epsilons):
                    found[column(gain, label, auc=True)] = auc(np.array(epsilons), np.array(curve))
        for name, value in found.items():
            per_seed[card.model, name].append(value)

    cells = {
        key: Value(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, len(values))
        for key, values in per_seed.items()
    }
    test_images = max((card.test_images for card in models), default=0)
    return Summary(names, strengths, cells, seeds, len(images), test_images, score_range, tuple(missing))


def _agreement(pairs: list[tuple[float, float]], where: str, missing: list[str]) -> dict[str, float]:
    try:
        scores, mos = np.array(pairs, np.float64).reshape(-1, 2).T
        return {"SROCC": srocc(scores, mos), "PLCC": plcc(scores, mos), "KROCC": krocc(scores, mos)}
    except ValueError as error:
        missing.append(f"{where}: correlations: {error}")
        return {}


def _ends(score_range, mos_range, card, baseline, scores, label) -> tuple[float, float]:
    if score_range == "mos":
        return mos_range
    if score_range == "model":
        return card.score_low, card.score_high
    rows = [
        row
        for (model, seed, _, _), cell in scores.items()
        if (model, seed) == (baseline, card.seed)
        for row in cell.values()
    ]
    clean = [before for before, _ in rows]
    return min(clean), max(clean)
