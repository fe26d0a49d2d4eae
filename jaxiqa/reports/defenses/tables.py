"""Tables of defenses: the benchmark's Table 4, and every cell as csv."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxiqa.core.csv_files import as_csv
from jaxiqa.core.files import write_text
from jaxiqa.reports.defenses.summary import ADAPTIVE, DEFENSE_MEASURES, MATCHED, TRANSFER, Defenses, Number, pool
from jaxiqa.reports.strengths import as_number, format_strength
from jaxiqa.reports.table import Entry, Table
from jaxiqa.reports.tidy import Line, interval_cells
from jaxiqa.results.rows import UNDEFENDED

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
