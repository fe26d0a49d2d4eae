"""Numbers for tables that have another rule than ours: per seed from all images, then over seeds."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from jaxiqa.measures.robustness import auc
from jaxiqa.reports.strengths import in_order
from jaxiqa.reports.table import Entry
from jaxiqa.results.engine import LEVEL, RADIUS, Rows
from jaxiqa.results.rows import ResultRow, StrengthKey

Measure = Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]
"""``(clean, attacked, low, high) -> one number per image``, such as `jaxiqa.measures.robustness.abs_gain`."""


@dataclass(frozen=True)
class Scores:
    """Clean and attacked scores of one model, seed and attack at one strength, and the names of the images."""

    images: tuple[str, ...]
    clean: np.ndarray
    attacked: np.ndarray


CellKey = TypeVar("CellKey", bound=tuple)


class Key(NamedTuple):
    """The identity of a cell."""

    model: str
    seed: int
    attack: str
    strength: StrengthKey


def counts(results: Rows) -> dict[Key, int]:
    """Return the number of rows of every cell, sorted as `scores` reads them.

    >>> row = ResultRow("i", "base", 0, "PGD", 0.1, 50.0, 60.0, 60.0, 0.1, 1.0, 0.9, None, 0.0)
    >>> counts(Rows.of([row], ResultRow))
    {Key(model='base', seed=0, attack='PGD', strength=0.1): 1}
    """
    found = results.select(
        f"model, seed, attack, {LEVEL} AS level, {RADIUS} AS radius, count(*)",
        "GROUP BY ALL ORDER BY model, attack, seed, level, radius",
    )
    return {Key(model, seed, attack, level or radius): count for model, seed, attack, level, radius, count in found}


def scores(
    results: Rows, cells: Mapping[Key, int], model: str, attack: str, columns: Sequence[str]
) -> dict[Key, np.ndarray]:
    """Return the columns of the cells of one attack on one model, float64 ``columns images``, images sorted by name.

    Args:
        results: the rows.
        cells: their `counts`.
        model, attack: the names.
        columns: fields of a row, all numbers.

    Raises:
        ValueError: an image has two rows in one cell.
    """
    mine = {key: count for key, count in cells.items() if (key.model, key.attack) == (model, attack)}
    return divided(results.only(model=model, attack=attack), mine, f"seed, {LEVEL}, {RADIUS}", columns, "results")


def divided(
    rows: Rows, cells: Mapping[CellKey, int], keys: str, columns: Sequence[str], name: str
) -> dict[CellKey, np.ndarray]:
    """Read rows and divide them into cells, float64 ``columns images``, images sorted by name.

    Args:
        rows: the rows of these cells.
        cells: cell -> its number of rows, sorted by ``keys``.
        keys: what distinguishes cells, in SQL.
        columns: numbers, in SQL.
        name: of several rows, for the error.

    Raises:
        ValueError: an image has two rows in one cell.
    """
    images, *arrays = rows.arrays(", ".join(["hash(image)", *columns]), f"ORDER BY {keys}, image")
    ends = np.cumsum(list(cells.values()))[:-1]
    if any((some[1:] == some[:-1]).any() for some in np.split(images, ends)):
        _check_once(rows, keys, name)
    parts = np.split(np.array(arrays, np.float64), ends, axis=1)
    return dict(zip(cells, parts, strict=True))


def _check_once(rows: Rows, keys: str, name: str) -> None:
    """Raise an error if an image has two rows in one cell: two images may also have the same hash."""
    count = f"row_number() OVER (PARTITION BY {keys}, image ORDER BY place)"
    for place, image in rows.select("place, image", f"QUALIFY {count} = 2 ORDER BY place LIMIT 1"):
        raise ValueError(f"image {image!r} has two {name}: {rows.only(place=place).all()[0]}")


class Curves(Mapping[tuple[str, int, str], Mapping[StrengthKey, Scores]]):
    """(model, seed, attack) -> strength -> scores; read from the rows when they are asked for.

    A strength that lacks an image is left out, and so is its attack. Every strength that any model has of an attack
    must be there, since a curve with a gap has another area.

    >>> row = ResultRow("i", "base", 0, "PGD", 0.1, 50.0, 60.0, 60.0, 0.1, 1.0, 0.9, None, 0.0)
    >>> Curves([row])["base", 0, "PGD"][0.1].attacked.tolist()
    [60.0]
    """

    def __init__(self, results: Sequence[ResultRow] | Rows) -> None:
        self._results = Rows.of(results, ResultRow)
        self._counts = counts(self._results)
        self._images = tuple(image for (image,) in self._results.select("DISTINCT image", "ORDER BY image"))
        strengths: dict[str, set[StrengthKey]] = defaultdict(set)
        complete: dict[tuple[str, int, str], set[StrengthKey]] = defaultdict(set)
        for key, count in self._counts.items():
            strengths[key.attack].add(key.strength)
            if count == len(self._images):
                complete[key[:3]].add(key.strength)
        order = self._results.select("model, seed, attack", "GROUP BY ALL ORDER BY min(place)")
        self._keys = {key: in_order(complete[key]) for key in order if complete[key] == strengths[key[2]]}

    def __getitem__(self, key: tuple[str, int, str]) -> Mapping[StrengthKey, Scores]:
        strengths, mine = self._keys[key], {cell: n for cell, n in self._counts.items() if cell[:3] == key}
        model, seed, attack = key
        found = scores(self._results.only(seed=seed), mine, model, attack, ["score", "attacked"])
        return {strength: Scores(self._images, *found[Key(*key, strength)]) for strength in strengths}

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[tuple[str, int, str]]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


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
