"""The leaderboard: one line per defense, best first."""

from collections.abc import Mapping
from pathlib import Path

from jaxiqa.core.csv_files import as_csv
from jaxiqa.core.files import write_text
from jaxiqa.reports.defenses.summary import ADAPTIVE, MATCHED, TRANSFER, Defenses, Number
from jaxiqa.reports.defenses.tables import DIGITS, SHOWN, entry
from jaxiqa.reports.page import page
from jaxiqa.reports.section import Section
from jaxiqa.reports.table import Compared, Entry, Table
from jaxiqa.results.rows import UNDEFENDED

VIEWS = (TRANSFER, MATCHED, ADAPTIVE)
NAMES = {TRANSFER: SHOWN, MATCHED: ("D",), ADAPTIVE: ("D", "D(D)", "Q", "SROCC adv")}
"""View -> its columns; measures that adaptive attacks do not change are not repeated."""

WHY = "no rank, because"
"""The column with the reason why a defense has no rank."""


def worst(numbers: dict[str, dict[str, Number]]) -> Number | None:
    """Return the number for ranking, the larger D of transferred and of adaptive attacks; None if one is missing."""
    found = [numbers[view]["D"].mean for view in (TRANSFER, ADAPTIVE) if numbers[view]]
    return Number(max(found)) if len(found) == 2 else None


def why_no_rank(label: str, counts: tuple[int, int], most: tuple[int, int]) -> str:
    """Return why a defense has no rank; empty if it has one.

    Args:
        label: of the defense.
        counts: cells that were run, of transferred and of adaptive attacks.
        most: the same for the defense with the most cells.

    >>> why_no_rank("flip", (6, 0), (6, 0)), why_no_rank("flip", (5, 2), (6, 2)), why_no_rank("flip", (6, 2), (6, 2))
    ('no adaptive attack', '5 of 6 transferred cells', '')
    """
    if label == UNDEFENDED:
        return "the metric alone"
    if not counts[1]:
        return "no adaptive attack"
    kinds = zip(("transferred", "adaptive"), counts, most, strict=True)
    return ", ".join(f"{count} of {all_} {kind} cells" for kind, count, all_ in kinds if count < all_)


def leaderboard(defenses: Defenses) -> Table:
    """Return all defenses with rows, by `worst` D.

    Only a defense with adaptive attacks has a rank: results of transferred attacks say little, since even a flip
    defends against them. A defense that was run on less than others (fewer models, attacks or strengths) has no rank
    either. Defenses without a rank come last; the column `WHY` gives the reason, the columns "cells" how much was run.
    """
    found = {label: {view: defenses.view(label, view) for view in VIEWS} for label in defenses.labels}
    found = {label: numbers for label, numbers in found.items() if numbers[TRANSFER] or numbers[ADAPTIVE]}
    counts = {label: (len(defenses.chosen(label, TRANSFER)), len(defenses.chosen(label, ADAPTIVE))) for label in found}
    most = (max((n for n, _ in counts.values()), default=0), max((n for _, n in counts.values()), default=0))
    reasons = {label: why_no_rank(label, counts[label], most) for label in found}
    order = sorted(found, key=lambda label: _place(reasons[label], found[label]))
    header = ["defense", "rank", "worst D", WHY, *(f"{name}, {view}" for view in VIEWS for name in NAMES[view])]
    header += ["s / image", "cells, transfer", "cells, adaptive"]
    rows, rank = [], 0
    for label in order:
        ranked = not reasons[label]
        rank += ranked
        cells = [entry(found[label][view].get(name), DIGITS.get(name, 3)) for view in VIEWS for name in NAMES[view]]
        seconds = [cell.seconds for cell in defenses.chosen(label, TRANSFER)] or [0.0]
        mean = sum(seconds) / len(seconds)
        rows.append(
            [
                label,
                (str(rank), float(rank)) if ranked else ("–", None),
                entry(worst(found[label]), 2),
                reasons[label],
                *cells,
                (f"{mean:.3f}", mean),
                *((str(count), float(count)) for count in counts[label]),
            ]
        )
    notes = [
        "Ranked by the larger D of the two kinds of attack. A defense without adaptive attacks, or run on less than "
        f"others, has no rank and comes last. {UNDEFENDED!r}, the metric alone, has no rank either.",
        *_unattacked(reasons),
        *_masked(found),
        "s / image: purifying and scoring one stored image.",
        "matched: the part of the adversarial set that the adaptive attacks correspond to.",
        *(f"Missing: {what}." for what in defenses.missing),
    ]
    return Table("Leaderboard", header, rows, notes)


def write_leaderboard(defenses: Defenses, folder: Path, *, title: str, facts: Mapping[str, str]) -> Table:
    """Write leaderboard.csv, numbers in full precision, and leaderboard.html; return the table."""
    table = leaderboard(defenses)
    lines = [[_cell(item) for item in row] for row in table.rows]
    write_text(folder / "leaderboard.csv", as_csv([table.header, *lines]))
    section = Section(table.title, [table], files=["leaderboard.csv"])
    write_text(folder / "leaderboard.html", page([section], title=f"{title}: leaderboard", facts=facts))
    return table


def _place(reason: str, numbers: dict[str, dict[str, Number]]) -> tuple[bool, float]:
    """Return the sort key: defenses without a rank come last; the metric alone is sorted with the ranked ones."""
    known = [numbers[view]["D"].mean for view in (TRANSFER, ADAPTIVE) if numbers[view]]
    return bool(reason) and reason != "the metric alone", max(known)


def _unattacked(reasons: dict[str, str]) -> list[str]:
    """Return what to do if no defense was attacked adaptively."""
    if any(not reason for reason in reasons.values()) or "no adaptive attack" not in reasons.values():
        return []
    return ["No defense was attacked adaptively, so none has a rank: name attacks in evaluation.adaptive.attacks."]


def _masked(found: dict[str, dict[str, dict[str, Number]]]) -> list[str]:
    """Return a warning for defenses whose adaptive attack was weaker than the corresponding transferred ones."""
    weaker = [
        label
        for label, numbers in found.items()
        if label != UNDEFENDED and numbers[ADAPTIVE] and numbers[ADAPTIVE]["D(D)"].mean < numbers[MATCHED]["D(D)"].mean
    ]
    if not weaker:
        return []
    return [
        f"Adaptive attacks on {', '.join(weaker)} did less (D(D)) than transferred ones of the same kind and strength: "
        "they may have failed (useless gradients, too few steps or draws), so the rank may be too good."
    ]


def _cell(item: str | Entry | Compared) -> str:
    """Return an entry for the csv file: text, or a number in full precision."""
    if isinstance(item, str):
        return item
    return "" if item[1] is None else repr(item[1])
