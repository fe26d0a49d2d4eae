"""Compute the numbers of the tables from rows: per model, mean and deviation over seeds."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxiqa.core.checks import check_choice
from jaxiqa.measures.correlation import krocc, plcc, srocc
from jaxiqa.reports.attacks.gains import ByImage
from jaxiqa.reports.cells import Key, counts
from jaxiqa.reports.strengths import format_strength, in_order
from jaxiqa.results.engine import Rows
from jaxiqa.results.rows import MaskingRow, ModelRow, PredictionRow, ResultRow, StrengthKey

SCORE_RANGES = {
    "mos": "the ends of the human scores' scale",
    "baseline": "lowest and highest clean score of the first model on the attacked images",
    "model": "each model's lowest and highest score on its training images",
}
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


def summarise(
    results: Sequence[ResultRow] | Rows,
    predictions: Sequence[PredictionRow] | Rows,
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
    results, predictions = Rows.of(results, ResultRow), Rows.of(predictions, PredictionRow)
    names = tuple(dict.fromkeys(row.model for row in models))
    keys = [(card.model, card.seed) for card in models]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise ValueError(f"several model rows for (model, seed) {sorted(twice)}")
    _check_once(predictions)
    found_rows = counts(results)
    strengths = _strengths(results, found_rows)
    ((images,),) = results.select("count(DISTINCT image)")
    having = {key[:2] for key in found_rows} | set(predictions.select("DISTINCT model, seed"))
    unknown = sorted(having - set(keys))
    missing = [f"{model} seed {seed}: rows, but no model row, so left out" for model, seed in unknown]

    scales = ends_of(models, results, score_range=score_range, mos_range=mos_range)
    by_image = ByImage(results, found_rows, images, strengths, scales)
    means, intervals = by_image.means_and_intervals()

    by_seed: dict[tuple[str, int, str], float] = {}
    for card in models:
        name, where = card.model, f"{card.model} seed {card.seed}"
        found = {
            "parameters": float(card.parameters),
            "s / epoch": card.seconds_per_epoch,
            "s / test": card.seconds_per_test,
            **_agreement(predictions, card, missing),
        }
        ends = scales.get((name, card.seed))
        if ends and card.certificate is not None:
            found[CERTIFIED] = 2 * card.certificate / (ends[1] - ends[0])
        if ends is None and found_rows:
            missing.append(f"{where}: gains: the first model has no results of this seed to take the score range from")
        for label, epsilons in strengths.items() if ends else ():
            for epsilon in epsilons:
                count = found_rows.get(Key(name, card.seed, label, epsilon), 0)
                if count != images:
                    attack = label if epsilon is None else f"{label} {format_strength(epsilon)}"
                    missing.append(f"{where}: {attack}: {count} of {images} images")
        by_seed |= {(name, card.seed, key): value for key, value in found.items()}
    by_seed |= {key: means[key] for key in by_image}

    per_seed: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (name, _, key), value in by_seed.items():
        per_seed[name, key].append(value)
    cells = {key: _value(values, intervals.get(key)) for key, values in per_seed.items()}
    test_images = max((card.test_images for card in models), default=0)
    seeds = tuple(sorted({card.seed for card in models}))
    checks = tuple(row for row in masking if row.model in names)
    facts = (seeds, images, test_images, score_range, tuple(missing), checks)
    return Summary(names, strengths, cells, *facts, by_seed, by_image)


def _value(per_seed: list[float], interval: tuple[float, float] | None) -> Value:
    deviation = float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else 0.0
    return Value(float(np.mean(per_seed)), deviation, len(per_seed), interval)


def _check_once(predictions: Rows) -> None:
    for model, seed, image in predictions.select("model, seed, image", "GROUP BY ALL HAVING count(*) > 1 LIMIT 1"):
        row = predictions.only(model=model, seed=seed, image=image).all()[1]
        raise ValueError(f"image {image!r} has two predictions: {row}")


def _strengths(results: Rows, cells: Iterable[Key]) -> dict[str, tuple[StrengthKey, ...]]:
    order = results.select("attack", "GROUP BY attack ORDER BY min(place)")
    found: dict[str, set[StrengthKey]] = {attack: set() for (attack,) in order}
    for key in cells:
        found[key.attack].add(key.strength)
    for label, strengths in found.items():
        if None in strengths and len(strengths) > 1:
            raise ValueError(f"attack {label!r} has rows with and without epsilon; give them two labels")
        if len({type(strength) for strength in strengths}) > 1:
            raise ValueError(f"attack {label!r} has rows with and without a level; give them two labels")
    return {label: in_order(strengths) for label, strengths in found.items()}


def _agreement(predictions: Rows, card: ModelRow, missing: list[str]) -> dict[str, float]:
    where = f"{card.model} seed {card.seed}"
    scores, mos = predictions.only(model=card.model, seed=card.seed).arrays("score, mos", "ORDER BY place")
    if len(scores) != card.test_images:
        missing.append(f"{where}: correlations: {len(scores)} of {card.test_images} predictions")
        return {}
    try:
        return {"SROCC": srocc(scores, mos), "PLCC": plcc(scores, mos), "KROCC": krocc(scores, mos)}
    except ValueError as error:
        missing.append(f"{where}: correlations: {error}")
        return {}


def ends_of(
    models: Sequence[ModelRow],
    results: Sequence[ResultRow] | Rows,
    *,
    score_range: str,
    mos_range: tuple[float, float] | None = None,
) -> dict[tuple[str, int], tuple[float, float]]:
    """Return (model, seed) -> the ends of its scale, as in `summarise`; those without are left out."""
    baseline: dict[int, tuple[float, float]] = {}
    if score_range == "baseline" and models:
        first = Rows.of(results, ResultRow).only(model=models[0].model)
        found = first.select("seed, min(score), max(score)", "GROUP BY seed")
        baseline = {seed: (low, high) for seed, low, high in found}
    scales = {}
    for card in models:
        ends = {"mos": mos_range, "model": (card.score_low, card.score_high)}.get(score_range, baseline.get(card.seed))
        if ends is None:
            continue
        low, high = ends
        if not low < high:
            raise ValueError(
                f"score_range={score_range!r} gives {card.model} seed {card.seed} the ends {(low, high)}; "
                "low must be below high"
            )
        scales[card.model, card.seed] = low, high
    return scales
