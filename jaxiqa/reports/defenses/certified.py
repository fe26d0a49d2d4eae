"""The table of certified defenses, and its numbers one per line."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxiqa.measures.correlation import srocc
from jaxiqa.measures.defense import abstention, cert_r, cert_rd
from jaxiqa.measures.robustness import interval95
from jaxiqa.reports.defenses.summary import Number
from jaxiqa.reports.defenses.tables import entry
from jaxiqa.reports.strengths import as_number, format_strength
from jaxiqa.reports.table import Table
from jaxiqa.reports.tidy import Line, interval_cells
from jaxiqa.results.rows import CertificateRow

Ends = Mapping[tuple[str, int], tuple[float, float]]
"""(model, seed) -> the ends of its scale."""

CERTIFIED = {
    "Cert.R": "mean L2 radius, in [0, 1] pixel units, within which the score class cannot change; 0 where it abstained",
    "Abst.": "share of images without an answer, in per cent",
    "Cert.RD full": "mean width of the certified interval of scores, over r; tighter is smaller",
    "Cert.RD one": "the larger of its two sides",
    "SROCC": "of certified scores or classes with human scores, for images with an answer",
    "s / image": "seconds",
}
"""Name -> definition."""


def certificates(rows: Sequence[CertificateRow], ends: Ends, mos: Mapping[str, float] | None) -> Table | None:
    """Return one line per certified defense, model and kind of image; None without rows.

    A model that is not in ``ends`` has no Cert.RD, which is divided by its score range; the notes name it.
    """
    lines = []
    for (certifier, model, seed, attack, strength), group in _groups(rows).items():
        images = "clean" if attack is None else attack + (f" ({format_strength(strength)})" if strength else "")
        numbers = _certified(group, ends.get((model, seed)), mos)
        cells = [entry(numbers.get(name), 1 if name in ("Abst.", "s / image") else 4) for name in CERTIFIED]
        lines.append([certifier, f"{model} seed {seed}", images, (str(len(group)), float(len(group))), *cells])
    if not lines:
        return None
    first = rows[0]
    described = [f"n = {first.n}, σ = {first.sigma:g}."] if len({(row.n, row.sigma) for row in rows}) == 1 else []
    explained = [*described, *(f"{name}: {what}." for name, what in CERTIFIED.items()), *without_range(rows, ends)]
    return Table("Certified defenses", ["certifier", "model", "images", "count", *CERTIFIED], lines, explained, text=3)


def tidy_lines(rows: Sequence[CertificateRow], ends: Ends, mos: Mapping[str, float] | None) -> Iterator[Line]:
    """Yield the numbers of the table for `jaxiqa.reports.tidy.tidy_csv`; without an attack the images are clean.

    >>> row = CertificateRow("i", "m", 0, None, None, None, "MS", 0.5, 0.25, 0.75, 0.1, False, 40, 0.1, 1.0)
    >>> for line in tidy_lines([row], {("m", 0): (0.0, 1.0)}, None):
    ...     print(*line, sep=",")
    m,0,,,MS,Abst.,0.0,,
    m,0,,,MS,Cert.RD full,0.5,,
    m,0,,,MS,Cert.RD one,0.25,,
    m,0,,,MS,s / image,1.0,,
    """
    for (certifier, model, seed, attack, strength), group in _groups(rows).items():
        numbers = _certified(group, ends.get((model, seed)), mos)
        for name in CERTIFIED:
            if number := numbers.get(name):
                where = (model, str(seed), attack or "", as_number(strength), certifier)
                yield *where, name, repr(number.mean), *interval_cells(number.interval)


def _groups(rows: Sequence[CertificateRow]) -> dict[tuple, list[CertificateRow]]:
    """Return (certifier, model, seed, attack, strength) -> the rows of its images."""
    groups: dict[tuple, list[CertificateRow]] = defaultdict(list)
    for row in rows:
        groups[row.certifier, row.model, row.seed, row.attack, row.strength].append(row)
    return groups


def without_range(rows: Sequence[CertificateRow], ends: Ends) -> list[str]:
    """Return a sentence for each model that has certified intervals but no score range.

    >>> row = CertificateRow("i", "m", 0, None, None, None, "MS", 0.5, 0.2, 0.8, 0.1, False, 40, 0.1, 1.0)
    >>> without_range([row], {})[0][:61]
    'm seed 0 has no score range, so Cert.RD of MS is left out: ev'
    """
    lacking: dict[tuple[str, int], list[str]] = defaultdict(list)
    for row in rows:
        if row.lower is not None and (row.model, row.seed) not in ends:
            lacking[row.model, row.seed].append(row.certifier)
    return [
        f"{model} seed {seed} has no score range, so Cert.RD of {', '.join(dict.fromkeys(certifiers))} is left out: "
        "evaluation.score_range 'baseline' takes it from attacks on the first model, and there are none; "
        "'mos' and 'model' need none."
        for (model, seed), certifiers in lacking.items()
    ]


def _certified(
    rows: Sequence[CertificateRow], ends: tuple[float, float] | None, mos: Mapping[str, float] | None
) -> dict[str, Number]:
    abstained = np.array([row.abstained for row in rows])
    found = {"Abst.": abstention(abstained)}
    if rows[0].lower is None:
        found["Cert.R"] = cert_r(np.array([row.radius for row in rows]), abstained)
    elif ends is not None:
        lower, score, upper = (np.array([getattr(row, name) for row in rows]) for name in ("lower", "score", "upper"))
        for side in ("full", "one"):
            found[f"Cert.RD {side}"] = cert_rd(lower, score, upper, *ends, side=side)
    numbers = {
        name: Number(float(values.mean()), interval95(values) if len(values) > 1 else None)
        for name, values in found.items()
    }
    numbers["s / image"] = Number(float(np.mean([row.seconds for row in rows])))
    answered = [row for row in rows if not row.abstained]
    if mos is not None:
        try:
            human = np.array([mos[row.image] for row in answered])
            numbers["SROCC"] = Number(srocc(np.array([row.score for row in answered]), human))
        except ValueError:
            pass  # all of one class: the order is undefined
    return numbers
