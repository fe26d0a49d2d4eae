"""One line per defense, best first: what a new defense is entered into."""

from pathlib import Path

from jaxiqa.files import write_text
from jaxiqa.reports.defense_tables import SHOWN, entry
from jaxiqa.reports.defenses import ADAPTIVE, MATCHED, TRANSFER, Defenses, Number
from jaxiqa.reports.html import page
from jaxiqa.reports.sheet import Sheet, as_csv
from jaxiqa.types import UNDEFENDED

VIEWS = (TRANSFER, MATCHED, ADAPTIVE)
NAMES = {TRANSFER: SHOWN, MATCHED: ("D",), ADAPTIVE: ("D", "D(D)", "Q", "SROCC adv")}
"""View -> the numbers of it that are shown; what an adaptive attack leaves as it is, is not repeated."""


def worst(numbers: dict[str, dict[str, Number]]) -> float:
    """What defenses are ranked by: the larger D of what transfers and of what knows the defense."""
    return max(numbers[view]["D"].mean for view in (TRANSFER, ADAPTIVE) if numbers[view])


def leaderboard(defenses: Defenses) -> Sheet:
    """All defenses of which there are rows, by `worst` D.

    Defenses that were run on less than others (fewer models, attacks or strengths, or no adaptive attack) do not
    compare, and follow after those that were run on everything; the columns "cells" say how much that is.
    """
    found = {label: {view: defenses.view(label, view) for view in VIEWS} for label in defenses.labels}
    found = {label: numbers for label, numbers in found.items() if numbers[TRANSFER] or numbers[ADAPTIVE]}
    counts = {label: tuple(len(defenses.chosen(label, view)) for view in (TRANSFER, ADAPTIVE)) for label in found}
    most = tuple(max((count[i] for count in counts.values()), default=0) for i in (0, 1))
    order = sorted(found, key=lambda label: (counts[label] != most, worst(found[label])))
    header = ["defense", "rank", "worst D", *(f"{name}, {view}" for view in VIEWS for name in NAMES[view])]
    header += ["s / image", "cells, transfer", "cells, adaptive"]
    rows, rank = [], 0
    for label in order:
        complete = counts[label] == most
        rank += complete and label != UNDEFENDED
        place = str(rank) if complete and label != UNDEFENDED else "–"
        cells = [entry(found[label][view].get(name)) for view in VIEWS for name in NAMES[view]]
        seconds = [cell.seconds for cell in defenses.chosen(label, TRANSFER)] or [0.0]
        mean = sum(seconds) / len(seconds)
        rows.append(
            [
                label,
                (place, float(rank) if place != "–" else None),
                entry(Number(worst(found[label])), 2),
                *cells,
                (f"{mean:.3f}", mean),
                *((str(count), float(count)) for count in counts[label]),
            ]
        )
    notes = [
        "Ranked by the larger D of the two kinds of attack; defenses that were run on less than others come last and "
        f"have no rank, nor has {UNDEFENDED!r}, the metric alone.",
        "s / image: purifying and scoring one stored image.",
        "matched: the part of the adversarial set that the adaptive attacks correspond to.",
        *(f"Missing: {what}." for what in defenses.missing),
    ]
    return Sheet("Leaderboard", header, rows, notes)


def write_leaderboard(defenses: Defenses, folder: Path, *, title: str, facts: dict[str, str]) -> Sheet:
    """Write leaderboard.csv, numbers in full precision, and leaderboard.html; return the table."""
    sheet = leaderboard(defenses)
    lines = [
        [item if isinstance(item, str) else ("" if item[1] is None else repr(item[1])) for item in row]
        for row in sheet.rows
    ]
    write_text(folder / "leaderboard.csv", as_csv([sheet.header, *lines]))
    write_text(folder / "leaderboard.html", page([sheet], {}, title=f"{title}: leaderboard", facts=facts))
    return sheet
