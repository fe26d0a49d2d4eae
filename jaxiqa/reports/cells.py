"""Numbers for tables that have another rule than ours: per seed from all images, then over seeds."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxiqa.measures.robustness import auc
from jaxiqa.reports.strengths import in_order
from jaxiqa.reports.table import Entry
from jaxiqa.results.rows import ResultRow, StrengthKey

Measure = Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]
"""``(clean, attacked, low, high) -> one number per image``, such as `jaxiqa.measures.robustness.abs_gain`."""


@dataclass(frozen=True)
class Scores:
    """Clean and attacked scores of one model, seed and attack at one strength, and the names of the images."""

    images: tuple[str, ...]
    clean: np.ndarray
    attacked: np.ndarray


Curves = Mapping[tuple[str, int, str], Mapping[StrengthKey, Scores]]
"""(model, seed, attack) -> strength -> scores."""


def curves(results: Sequence[ResultRow]) -> dict[tuple[str, int, str], dict[StrengthKey, Scores]]:
    """Return the scores of every attack; a strength that lacks an image is left out, and so is its attack.

    Every strength that any model has of an attack must be there, since a curve with a gap has another area.

    >>> row = ResultRow("i", "base", 0, "PGD", 0.1, 50.0, 60.0, 60.0, 0.1, 1.0, 0.9, None, 0.0)
    >>> curves([row])["base", 0, "PGD"][0.1].attacked.tolist()
    [60.0]
    """
    images = sorted({row.image for row in results})
    strengths: dict[str, set[StrengthKey]] = defaultdict(set)
    cells: dict[tuple[str, int, str], dict[StrengthKey, dict[str, ResultRow]]] = defaultdict(lambda: defaultdict(dict))
    for row in results:
        strengths[row.attack].add(row.strength)
        cells[row.model, row.seed, row.attack][row.strength][row.image] = row
    found = {}
    for key, by_strength in cells.items():
        if set(by_strength) != strengths[key[2]] or any(len(cell) != len(images) for cell in by_strength.values()):
            continue
        found[key] = {
            strength: Scores(
                tuple(images),
                np.array([by_strength[strength][image].score for image in images]),
                np.array([by_strength[strength][image].attacked for image in images]),
            )
            for strength in in_order(by_strength)
        }
    return found


def over_strengths(
    scores: Mapping[StrengthKey, Scores], measure: Measure, ends: tuple[float, float], *, rule: str | None
) -> float | None:
    """Return the mean of a measure over the images, summarised over the strengths; None if it is undefined.

    Infinite values of single images are left out; `infinite` counts them.

    Args:
        scores: strength -> scores.
        measure: the measure.
        ends: low and high of its scale.
        rule: of `jaxiqa.measures.robustness.auc`, for strengths that are ε; None: the plain mean over strengths.

    >>> scores = {e: Scores(("i",), np.array([50.0]), np.array([50 + 1000 * e])) for e in (0.01, 0.02)}
    >>> gain = lambda clean, attacked, low, high: (attacked - clean) / (high - low)
    >>> round(over_strengths(scores, gain, (0.0, 100.0), rule=None), 6)
    0.15
    """
    values = [measure(one.clean, one.attacked, *ends) for one in scores.values()]
    finite = [some[np.isfinite(some)] for some in values]
    if not all(len(some) for some in finite):
        return None
    heights = np.array([float(np.mean(some)) for some in finite])
    if rule is None:
        return float(np.mean(heights))
    epsilons = [strength for strength in scores if isinstance(strength, float)]
    if len(epsilons) < 2 or len(epsilons) != len(scores):
        return None  # no area
    return auc(np.array(epsilons), heights, rule=rule)


def infinite(scores: Mapping[StrengthKey, Scores], measure: Measure, ends: tuple[float, float]) -> int:
    """Return how many values of single images `over_strengths` leaves out.

    >>> scores = {None: Scores(("i", "j"), np.array([50.0, 60.0]), np.array([50.0, 70.0]))}
    >>> with np.errstate(divide="ignore"):
    ...     infinite(scores, lambda clean, attacked, low, high: np.log(attacked - clean), (0.0, 100.0))
    1
    """
    return sum(int((~np.isfinite(measure(one.clean, one.attacked, *ends))).sum()) for one in scores.values())


def over_seeds(values: Sequence[float | None], digits: int = 3) -> Entry:
    """Return the mean over the seeds that have a value, with its sample deviation if there are several.

    >>> over_seeds([0.25, 0.35]), over_seeds([None, 0.5]), over_seeds([])
    (('0.300 ± 0.071', 0.3), ('0.500', 0.5), ('–', None))
    """
    known = [value for value in values if value is not None]
    if not known:
        return "–", None
    mean = float(np.mean(known))
    text = f"{mean:.{digits}f}"
    return (f"{text} ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else text), mean
