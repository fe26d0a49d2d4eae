"""Tables of defenses: the benchmark's Table 4, every cell as csv, and certified defenses."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxiqa.core.csv_files import as_csv
from jaxiqa.core.files import write_text
from jaxiqa.measures.correlation import srocc
from jaxiqa.measures.defense import abstention, cert_r, cert_rd
from jaxiqa.measures.robustness import interval95
from jaxiqa.reports.defenses.summary import ADAPTIVE, DEFENSE_MEASURES, MATCHED, TRANSFER, Defenses, Number, pool
from jaxiqa.reports.strengths import as_number, format_strength
from jaxiqa.reports.table import Entry, Table
from jaxiqa.reports.tidy import Line, interval_cells
from jaxiqa.results.rows import UNDEFENDED, CertificateRow

SHOWN = ("D", "D(D)", "Q", "SROCC clear", "SROCC adv")
"""The columns of the benchmark's Table 4."""

DIGITS = {"D": 2, "D(D)": 2}
"""Decimals of measures in per cent; others have three."""

TITLES = {
    TRANSFER: "transfer: the adversarial set, made without knowledge of the defense",
    ADAPTIVE: "adaptive: attacks through the defense",
    MATCHED: "matched: the part of the adversarial set that the adaptive attacks correspond to",
}


def entry(number: Number | None, digits: int = 3) -> Entry:
    """Return a value for reading, with half its interval; a dash if there is none."""
    if number is None:
        return "–", None
    text = f"{number.mean:.{digits}f}"
    if number.interval is not None:
        text += f" ± {(number.interval[1] - number.interval[0]) / 2:.{digits}f}"
    return text, number.mean


def table4(defenses: Defenses) -> list[Table]:
    """Return one table per view: a row per defense, a column per measure of `SHOWN`."""
    tables: list[Table] = []
    for view, title in TITLES.items():
        rows: list[list[str | Entry]] = []
        for label in defenses.labels:
            numbers = defenses.view(label, view)
            if numbers:
                rows.append([label, *(entry(numbers.get(name), DIGITS.get(name, 3)) for name in SHOWN)])
        if rows:
            explained = notes(defenses, view, full=not tables)
            tables.append(Table(f"Defenses, {title}", ["defense", *SHOWN], rows, explained))
    return tables


def notes(defenses: Defenses, view: str, *, full: bool = True) -> list[str]:
    """Return the exact definition of a view's numbers; without ``full``, only what differs from the other views."""
    cells = [cell.key for label in defenses.labels for cell in defenses.chosen(label, view)]
    attacks = ", ".join(dict.fromkeys(f"{key.attack} ({format_strength(key.strength)})" for key in cells))
    models = ", ".join(dict.fromkeys(f"{key.model} seed {key.seed}" for key in cells))
    lines = [
        f"{defenses.images} images; {models}; {attacks}. Attacked images in 8 bits. ± is half the 95 % interval by "
        "Student's t over the images, each averaged over models, attacks and strengths.",
    ]
    if view != TRANSFER:
        lines.append(f"{UNDEFENDED!r} is the metric alone, for which adaptive and transferred are the same.")
    if not full:
        return lines
    lines += [
        *(f"{name}: {DEFENSE_MEASURES[name]}." for name in SHOWN),
        "f is the metric, P the defense, x a clean and x′ its attacked image, r the width of the score range.",
    ]
    if defenses.capped and np.isfinite(defenses.psnr_cap):
        lines.append(
            f"PSNR counts {defenses.psnr_cap:g} dB at most: rounding to 8 bits costs 58.9 dB. It was above in "
            f"{defenses.capped} rows; the benchmark has no such cap, and its Q is infinite where images are equal."
        )
    return lines + [f"Missing: {what}." for what in defenses.missing]


def write_cells(defenses: Defenses, path: Path) -> None:
    """Write every number of every model, attack, strength, defense and mode, with the ends of its interval."""
    header = ["model", "seed", "attack", "strength", "defense", "mode", "images"]
    for name in DEFENSE_MEASURES:
        header += [name, f"{name} low", f"{name} high"]
    lines = []
    for cell in defenses.cells:
        key = cell.key
        numbers = pool([cell])
        line = [key.model, key.seed, key.attack, format_strength(key.strength), key.defense, key.mode, defenses.images]
        for name in DEFENSE_MEASURES:
            number = numbers.get(name)
            interval = number.interval if number and number.interval else ("", "")
            line += ["" if number is None else repr(number.mean), *interval]
        lines.append(line)
    write_text(path, as_csv([header, *lines]))


def tidy_lines(defenses: Defenses) -> Iterator[Line]:
    """Yield the numbers of every defense for `jaxiqa.reports.tidy.tidy_csv`."""
    for cell in defenses.cells:
        key, numbers = cell.key, pool([cell])
        for measure in DEFENSE_MEASURES:
            if number := numbers.get(measure):
                where = (key.model, str(key.seed), key.attack, as_number(key.strength), key.defense)
                yield *where, f"{measure}, {key.mode}", repr(number.mean), *interval_cells(number.interval)


CERTIFIED = {
    "Cert.R": "mean L2 radius, in [0, 1] pixel units, within which the score class cannot change; 0 where it abstained",
    "Abst.": "share of images without an answer, in per cent",
    "Cert.RD full": "mean width of the certified interval of scores, over r; tighter is smaller",
    "Cert.RD one": "the larger of its two sides",
    "SROCC": "of certified scores or classes with human scores, for images with an answer",
    "s / image": "seconds",
}
"""Name -> definition."""


def certificates(
    rows: Sequence[CertificateRow],
    ends: Mapping[tuple[str, int], tuple[float, float]],
    mos: Mapping[str, float] | None,
) -> Table | None:
    """Return one line per certified defense, model and kind of image; None without rows.

    A model that is not in ``ends`` has no Cert.RD, which is divided by its score range; the notes name it.
    """
    groups: dict[tuple, list[CertificateRow]] = defaultdict(list)
    for row in rows:
        groups[row.certifier, row.model, row.seed, row.attack, row.strength].append(row)
    lines = []
    for (certifier, model, seed, attack, strength), group in groups.items():
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


def without_range(rows: Sequence[CertificateRow], ends: Mapping[tuple[str, int], tuple[float, float]]) -> list[str]:
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
