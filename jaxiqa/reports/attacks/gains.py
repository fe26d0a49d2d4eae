"""The gains of every attacked image, read from the rows one model and attack at a time."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np

from jaxiqa.measures.robustness import abs_gain, auc, interval95, magnitude_gain, r_score
from jaxiqa.reports.cells import Key, scores
from jaxiqa.reports.strengths import format_strength
from jaxiqa.results.engine import Rows
from jaxiqa.results.rows import StrengthKey

FIELDS = ("score", "attacked", "rounded", "ssim", "linf")
"""Fields of a row that are read."""

GAINS = {
    "AbsGain": (abs_gain, 1),
    "|Gain|": (magnitude_gain, 1),
    "R-score": (r_score, 1),
    "AbsGain, 8 bit": (abs_gain, 2),
}
"""Name -> the function, and the field that it compares with the clean score: of the attacked image (1), or of that
image in 8 bits, rounded towards the clean one (2)."""

CHANGES = {"SSIM": (3, 1.0), "255 · Linf": (4, 255.0)}
"""Name -> a measure of the change of an image: its field, and its factor."""

HELD_BYTES = 2**29
"""Values that `ByImage` keeps in memory, at least those of one attack on all models, or of all attacks on one."""

ColumnKey = tuple[str, int, str]
"""(model, seed, column)."""


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


class ByImage(Mapping[ColumnKey, np.ndarray]):
    """(model, seed, column) -> one value per attacked image, in the order of the images' names.

    Only cells (model, seed, attack, strength) that have all images have values, and only an attack that has all its
    strengths has values that summarise them. Values are read when they are asked for, and those read last are kept:
    `HELD_BYTES`.

    Args:
        results: the rows.
        cells: their `jaxiqa.reports.cells.counts`.
        images: number of images.
        strengths: attack -> its strengths, in increasing order.
        scales: (model, seed) -> the ends of its scale, in the order of the table; others have no values.

    >>> from jaxiqa.reports.cells import counts
    >>> from jaxiqa.results.rows import ResultRow
    >>> rows = Rows.of([ResultRow("i", "base", 0, "PGD", 0.1, 50.0, 75.0, 75.0, 0.1, 1.0, 0.9, None, 0.0)], ResultRow)
    >>> values = ByImage(rows, counts(rows), 1, {"PGD": (0.1,)}, {("base", 0): (0.0, 100.0)})
    >>> values["base", 0, "AbsGain AUC PGD"].tolist()
    [0.25]
    """

    def __init__(
        self,
        results: Rows,
        cells: Mapping[Key, int],
        images: int,
        strengths: Mapping[str, Sequence[StrengthKey]],
        scales: Mapping[tuple[str, int], tuple[float, float]],
    ) -> None:
        self._results, self._cells, self._images = results, cells, images
        self._strengths, self._scales = strengths, scales
        self._attacks = {
            (model, seed, name): attack
            for model, seed in scales
            for attack in strengths
            for name in self._columns(model, seed, attack)
        }
        pairs = {(model, attack) for (model, _, _), attack in self._attacks.items()}
        bytes_of_each = 8 * images * len(self._attacks) // max(len(pairs), 1)
        together = max(len({model for model, _ in pairs}), len(strengths), 1)
        self.of_attack = lru_cache(max(together, HELD_BYTES // max(bytes_of_each, 1)))(self._of_attack)

    def _columns(self, model: str, seed: int, attack: str) -> list[str]:
        strengths = self._strengths[attack]
        complete = self._complete(model, seed, attack)
        names = [column(measure, attack, strength) for strength in complete for measure in (*GAINS, *CHANGES)]
        if None not in strengths and len(complete) == len(strengths):
            names += [overall(gain, attack, strengths) for gain in GAINS]
        return names

    def _complete(self, model: str, seed: int, attack: str) -> list[StrengthKey]:
        """Return the strengths at which every image was attacked."""
        return [
            strength
            for strength in self._strengths[attack]
            if self._cells.get(Key(model, seed, attack, strength)) == self._images
        ]

    def _of_attack(self, model: str, attack: str) -> dict[tuple[int, str], np.ndarray]:
        """Return (seed, column) -> values, of one attack on one model.

        Raises:
            ValueError: an image has two rows in one cell.
        """
        found = scores(self._results, self._cells, model, attack, FIELDS)
        strengths, values = self._strengths[attack], {}
        for seed in [seed for name, seed in self._scales if name == model]:
            curves: dict[str, list[np.ndarray]] = defaultdict(list)
            complete = self._complete(model, seed, attack)
            for strength in complete:
                fields = found[Key(model, seed, attack, strength)]
                for gain, (function, which) in GAINS.items():
                    curve = function(fields[0], fields[which], *self._scales[model, seed])
                    values[seed, column(gain, attack, strength)] = curve
                    curves[gain].append(curve)
                for change, (which, factor) in CHANGES.items():
                    values[seed, column(change, attack, strength)] = factor * fields[which]
            if None not in strengths and len(complete) == len(strengths):
                for gain, curve_of in curves.items():
                    values[seed, overall(gain, attack, strengths)] = _areas(strengths, np.array(curve_of))
        return values

    def means_and_intervals(self) -> tuple[dict[ColumnKey, float], dict[tuple[str, str], tuple[float, float]]]:
        """Return the mean of every column; and (model, column) -> its 95 % interval over images.

        An interval is Student's t of the images, each averaged over seeds first; a single image has none.

        Raises:
            ValueError: an image has two rows in one cell.
        """
        means: dict[ColumnKey, float] = {}
        intervals: dict[tuple[str, str], tuple[float, float]] = {}
        for model, attack in dict.fromkeys((key.model, key.attack) for key in self._cells):
            per_image: dict[str, list[np.ndarray]] = defaultdict(list)
            for (seed, name), values in self.of_attack(model, attack).items():
                means[model, seed, name] = float(values.mean())
                per_image[name].append(values)
            for name, several in per_image.items():
                if self._images > 1:
                    intervals[model, name] = interval95(np.mean(several, axis=0))
        return means, intervals

    def __getitem__(self, key: ColumnKey) -> np.ndarray:
        model, seed, name = key
        return self.of_attack(model, self._attacks[key])[seed, name]

    def __contains__(self, key: object) -> bool:
        return key in self._attacks

    def __iter__(self) -> Iterator[ColumnKey]:
        return iter(self._attacks)

    def __len__(self) -> int:
        return len(self._attacks)


def _areas(strengths: Sequence[StrengthKey], curves: np.ndarray) -> np.ndarray:
    """Return one number per image for its curve over the strengths, ``strengths images``: `auc`, which is linear."""
    if isinstance(strengths[0], str):
        return curves.mean(0)
    epsilons = np.array(strengths, np.float64)
    return np.array([auc(epsilons, one) for one in np.eye(len(epsilons))]) @ curves
