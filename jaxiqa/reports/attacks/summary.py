"""Compute the numbers of the tables from rows: per model, mean and deviation over seeds."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxiqa.core.checks import check_choice
from jaxiqa.measures.correlation import krocc, plcc, srocc
from jaxiqa.measures.robustness import abs_gain, auc, interval95, magnitude_gain, r_score
from jaxiqa.reports.strengths import format_strength, in_order
from jaxiqa.results.rows import MaskingRow, ModelRow, PredictionRow, ResultRow, StrengthKey

SCORE_RANGES = {
    "mos": "the ends of the human scores' scale",
    "baseline": "lowest and highest clean score of the first model on the attacked images",
    "model": "each model's lowest and highest score on its training images",
}
GAINS = {
    "AbsGain": (abs_gain, 1),
    "|Gain|": (magnitude_gain, 1),
    "R-score": (r_score, 1),
    "AbsGain, 8 bit": (abs_gain, 2),
}
"""Name -> the function, and the score that it compares with the clean one: of the attacked image (1), or of that image
in 8 bits, rounded towards the clean one (2)."""

CHANGES = {"SSIM": (3, 1.0), "255 · Linf": (4, 255.0)}
"""Name -> a measure of the change of an image: its index in a row of numbers, and its factor."""

CERTIFIED = "certified @ 2/255"
"""Column of the largest AbsGain that any perturbation of 2/255 in Linf can reach, where the architecture bounds it."""


@dataclass(frozen=True)
class Value:
    """A number per seed, summarised; ``std`` is the sample deviation, 0 for one seed."""

    mean: float
    std: float
    seeds: int
    interval: tuple[float, float] | None = None
    """For a mean over images: its 95 % Student-t interval over the images, each first averaged over seeds."""


@dataclass(frozen=True)
class Summary:
    """The numbers for tables and plots."""

    models: tuple[str, ...]
    attacks: dict[str, tuple[StrengthKey, ...]]
    """Label -> its strengths, in increasing order."""
    cells: dict[tuple[str, str], Value]
    """(model, column) -> value; columns are for example "SROCC", "AbsGain AUC PGD-1" or "AbsGain PGD-1 @ 4/255"."""
    seeds: tuple[int, ...]
    attacked_images: int
    test_images: int
    score_range: str
    missing: tuple[str, ...]
    """What could not be computed, and why."""
    checks: tuple[MaskingRow, ...] = ()
    """The checks for masked gradients of these models."""
    by_seed: Mapping[tuple[str, int, str], float] = field(default_factory=dict)
    """(model, seed, column) -> value."""
    by_image: Mapping[tuple[str, int, str], np.ndarray] = field(default_factory=dict)
    """(model, seed, column) -> one value per attacked image, in the same order for all; of columns that are means."""


def column(gain: str, attack: str, strength: StrengthKey = None) -> str:
    """Return the name of the column of one strength.

    >>> column("AbsGain", "PGD-1", 4 / 255), column("AbsGain", "PGD-1", "weak"), column("AbsGain", "stAdv")
    ('AbsGain PGD-1 @ 4/255', 'AbsGain PGD-1 @ weak', 'AbsGain stAdv')
    """
    return f"{gain} {attack}" if strength is None else f"{gain} {attack} @ {format_strength(strength)}"


def overall(gain: str, attack: str, strengths: Sequence[StrengthKey]) -> str:
    """Return the name of the column that summarises all strengths of an attack.

    >>> overall("AbsGain", "PGD-1", (2 / 255, 4 / 255)), overall("AbsGain", "SSAH", ("weak", "strong"))
    ('AbsGain AUC PGD-1', 'AbsGain mean SSAH')
    """
    if None in strengths:
        return column(gain, attack)
    return f"{gain} {'mean' if isinstance(strengths[0], str) else 'AUC'} {attack}"


def summarise(
    results: Sequence[ResultRow],
    predictions: Sequence[PredictionRow],
    models: Sequence[ModelRow],
    *,
    score_range: str,
    mos_range: tuple[float, float] | None = None,
    masking: Sequence[MaskingRow] = (),
) -> Summary:
    """Compute every cell per seed, then mean and deviation over seeds.

    Args:
        results, predictions, models: rows; the order of ``models`` is the order of the table, its first the baseline.
        score_range: divides the gains; a key of `SCORE_RANGES`.
        mos_range: ends of the human scores' scale, for ``score_range="mos"``.
        masking: rows of the checks for masked gradients.

    Raises:
        ValueError: an unknown range, ``"mos"`` without its ends, a duplicate row, an attack with some rows that have a
            strength and some that do not, or a range with low ≥ high.
    """
    check_choice("score_range", score_range, SCORE_RANGES)
    if score_range == "mos" and mos_range is None:
        raise ValueError('score_range="mos" needs mos_range, the ends of the scale; this data set states none')
    names = tuple(dict.fromkeys(row.model for row in models))
    keys = [(card.model, card.seed) for card in models]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise ValueError(f"several model rows for (model, seed) {sorted(twice)}")
    scores, labelled = _by_cell(results), _by_model(predictions)
    strengths = _strengths(results)
    images = {row.image for row in results}
    rows: tuple[ResultRow | PredictionRow, ...] = (*results, *predictions)
    unknown = {(row.model, row.seed) for row in rows} - set(keys)
    missing = [f"{model} seed {seed}: rows, but no model row, so left out" for model, seed in sorted(unknown)]

    scales = ends_of(models, results, score_range=score_range, mos_range=mos_range)

    by_seed: dict[tuple[str, int, str], float] = {}
    by_image: dict[tuple[str, int, str], np.ndarray] = {}
    for card in models:
        name, where = card.model, f"{card.model} seed {card.seed}"
        found = {
            "parameters": float(card.parameters),
            "s / epoch": card.seconds_per_epoch,
            "s / test": card.seconds_per_test,
            **_agreement(labelled[name, card.seed], card, missing),
        }
        ends = scales.get((name, card.seed))
        if ends and card.certificate is not None:
            found[CERTIFIED] = 2 * card.certificate / (ends[1] - ends[0])
        if ends is None and results:
            missing.append(f"{where}: gains: the first model has no results of this seed to take the score range from")
        for label, epsilons in strengths.items():
            if not ends:
                break
            curves: dict[str, list[np.ndarray]] = defaultdict(list)
            for epsilon in epsilons:
                cell = scores[name, card.seed, label, epsilon]
                if set(cell) != images:
                    attack = label if epsilon is None else f"{label} {format_strength(epsilon)}"
                    missing.append(f"{where}: {attack}: {len(cell)} of {len(images)} images")
                    continue
                scores_of = np.array([cell[image] for image in sorted(cell)]).T
                for gain, (function, which) in GAINS.items():
                    values = function(scores_of[0], scores_of[which], *ends)
                    by_image[name, card.seed, column(gain, label, epsilon)] = values
                    curves[gain].append(values)
                for change, (which, factor) in CHANGES.items():
                    by_image[name, card.seed, column(change, label, epsilon)] = factor * scores_of[which]
            for gain, curve in curves.items():
                if None not in epsilons and len(curve) == len(epsilons):
                    by_image[name, card.seed, overall(gain, label, epsilons)] = _areas(epsilons, np.array(curve))
        by_seed |= {(name, card.seed, key): value for key, value in found.items()}
    by_seed |= {key: float(values.mean()) for key, values in by_image.items()}

    per_seed: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name, seed, key in by_seed:
        per_seed[name, key].append(seed)
    cells = {
        (name, key): _value(
            [by_seed[name, seed, key] for seed in of],
            [by_image[name, seed, key] for seed in of if (name, seed, key) in by_image],
        )
        for (name, key), of in per_seed.items()
    }
    test_images = max((card.test_images for card in models), default=0)
    seeds = tuple(sorted({card.seed for card in models}))
    checks = tuple(row for row in masking if row.model in names)
    facts = (seeds, len(images), test_images, score_range, tuple(missing), checks)
    return Summary(names, strengths, cells, *facts, by_seed, by_image)


def _areas(strengths: Sequence[StrengthKey], curves: np.ndarray) -> np.ndarray:
    """Return one number per image for its curve over the strengths, ``strengths images``: `auc`, which is linear."""
    if isinstance(strengths[0], str):
        return curves.mean(0)
    epsilons = np.array(strengths, np.float64)
    return np.array([auc(epsilons, one) for one in np.eye(len(epsilons))]) @ curves


def _value(per_seed: list[float], per_image: list[np.ndarray]) -> Value:
    deviation = float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else 0.0
    interval = interval95(np.mean(per_image, axis=0)) if per_image and len(per_image[0]) > 1 else None
    return Value(float(np.mean(per_seed)), deviation, len(per_seed), interval)


def _by_cell(results: Sequence[ResultRow]) -> dict[tuple, dict[str, tuple[float, ...]]]:
    """Return (model, seed, attack, strength) -> image -> (clean score, attacked, attacked in 8 bits, SSIM, Linf)."""
    cells: dict[tuple, dict[str, tuple[float, ...]]] = defaultdict(dict)
    for row in results:
        cell = cells[row.model, row.seed, row.attack, row.strength]
        if row.image in cell:
            raise ValueError(f"image {row.image!r} has two results: {row}")
        cell[row.image] = (row.score, row.attacked, row.rounded, row.ssim, row.linf)
    return cells


def _by_model(predictions: Sequence[PredictionRow]) -> dict[tuple, dict[str, tuple[float, float]]]:
    """Return (model, seed) -> image -> (score, mos)."""
    labelled: dict[tuple, dict[str, tuple[float, float]]] = defaultdict(dict)
    for row in predictions:
        if row.image in labelled[row.model, row.seed]:
            raise ValueError(f"image {row.image!r} has two predictions: {row}")
        labelled[row.model, row.seed][row.image] = (row.score, row.mos)
    return labelled


def _strengths(results: Sequence[ResultRow]) -> dict[str, tuple[StrengthKey, ...]]:
    found: dict[str, set[StrengthKey]] = defaultdict(set)
    for row in results:
        found[row.attack].add(row.strength)
    for label, strengths in found.items():
        if None in strengths and len(strengths) > 1:
            raise ValueError(f"attack {label!r} has rows with and without epsilon; give them two labels")
        if len({type(strength) for strength in strengths}) > 1:
            raise ValueError(f"attack {label!r} has rows with and without a level; give them two labels")
    return {label: in_order(strengths) for label, strengths in found.items()}


def _agreement(pairs: dict[str, tuple[float, float]], card: ModelRow, missing: list[str]) -> dict[str, float]:
    where = f"{card.model} seed {card.seed}"
    if len(pairs) != card.test_images:
        missing.append(f"{where}: correlations: {len(pairs)} of {card.test_images} predictions")
        return {}
    try:
        scores, mos = np.array(list(pairs.values()), np.float64).reshape(-1, 2).T
        return {"SROCC": srocc(scores, mos), "PLCC": plcc(scores, mos), "KROCC": krocc(scores, mos)}
    except ValueError as error:
        missing.append(f"{where}: correlations: {error}")
        return {}


def ends_of(
    models: Sequence[ModelRow],
    results: Sequence[ResultRow],
    *,
    score_range: str,
    mos_range: tuple[float, float] | None = None,
) -> dict[tuple[str, int], tuple[float, float]]:
    """Return (model, seed) -> the ends of its scale, as in `summarise`; those without are left out."""
    found = {}
    for card in models:
        baseline = [row for row in results if (row.model, row.seed) == (models[0].model, card.seed)]
        ends = _ends(score_range, mos_range, card, baseline)
        if ends is not None:
            found[card.model, card.seed] = ends
    return found


def _ends(
    score_range: str, mos_range: tuple[float, float] | None, card: ModelRow, baseline: Sequence[ResultRow]
) -> tuple[float, float] | None:
    """Return the scale's ends for one model and seed; None without baseline results."""
    if score_range == "mos":
        assert mos_range is not None  # `summarise` has checked it
        ends = mos_range
    elif score_range == "model":
        ends = card.score_low, card.score_high
    elif baseline:
        ends = min(row.score for row in baseline), max(row.score for row in baseline)
    else:
        return None
    if not ends[0] < ends[1]:
        raise ValueError(
            f"score_range={score_range!r} gives {card.model} seed {card.seed} the ends {ends}; low must be below high"
        )
    return ends
