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


def worst(numbers: dict[str, dict[str, Number]]) -> float | None:
    """What defenses are ranked by: the larger D of transferred and of adaptive attacks; None if either was not run.

    A transferred attack alone says little: a flip of the image stops it, and an adaptive attack flips the image too.
    """
    if not (numbers[TRANSFER] and numbers[ADAPTIVE]):
        return None
    return max(numbers[view]["D"].mean for view in (TRANSFER, ADAPTIVE))


def leaderboard(defenses: Defenses) -> Sheet:
    """All defenses of which there are rows, by `worst` D.

    A defense has a rank if adaptive attacks were run on it, and if it was run on as much as the others (models,
    attacks, strengths; the columns "cells" count them). The column "no rank because" gives the reason. Defenses
    without a rank come last, in the order of their D against transferred attacks.
    """
    found = {label: {view: defenses.view(label, view) for view in VIEWS} for label in defenses.labels}
    found = {label: numbers for label, numbers in found.items() if numbers[TRANSFER] or numbers[ADAPTIVE]}
    counts = {label: tuple(len(defenses.chosen(label, view)) for view in (TRANSFER, ADAPTIVE)) for label in found}
    most = tuple(max((count[i] for count in counts.values()), default=0) for i in (0, 1))
    reasons = {label: _reason(label, worst(found[label]), counts[label], most) for label in found}

    def position(label: str) -> tuple[bool, float]:
        numbers, largest = found[label], worst(found[label])
        compares = largest is not None and counts[label] == most
        return not compares, (numbers[TRANSFER] or numbers[ADAPTIVE])["D"].mean if largest is None else largest

    header = ["defense", "rank", "worst D", *(f"{name}, {view}" for view in VIEWS for name in NAMES[view])]
    header += ["s / image", "cells, transfer", "cells, adaptive", "no rank because"]
    rows, rank = [], 0
    for label in sorted(found, key=position):
        rank += not reasons[label]
        place = "–" if reasons[label] else str(rank)
        cells = [entry(found[label][view].get(name)) for view in VIEWS for name in NAMES[view]]
        seconds = [cell.seconds for cell in defenses.chosen(label, TRANSFER)] or [0.0]
        mean = sum(seconds) / len(seconds)
        rows.append(
            [
                label,
                (place, float(rank) if place != "–" else None),
                entry(None if (largest := worst(found[label])) is None else Number(largest), 2),
                *cells,
                (f"{mean:.3f}", mean),
                *((str(count), float(count)) for count in counts[label]),
                reasons[label],
            ]
        )
    notes = [
        "Ranked by the larger D of transferred and adaptive attacks. A defense without adaptive attacks has no rank: "
        "what stops an attack that does not know it may stop nothing else. Neither has a defense that was run on less "
        f"than the others, nor {UNDEFENDED!r}, the metric alone.",
        "s / image: purifying and scoring one stored image.",
        "matched: the part of the adversarial set that the adaptive attacks correspond to.",
        *(f"Missing: {what}." for what in defenses.missing),
    ]
    return Sheet("Leaderboard", header, rows, notes)


def _reason(label: str, largest: float | None, counts: tuple[int, ...], most: tuple[int, ...]) -> str:
    """Why a defense has no rank; empty if it has one."""
    if label == UNDEFENDED:
        return "the metric alone"
    if largest is None:
        return "no adaptive attacks (evaluation.adaptive.attacks)" if counts[0] else "no transferred attacks"
    if counts != most:
        return "run on less than others"
    return ""


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
