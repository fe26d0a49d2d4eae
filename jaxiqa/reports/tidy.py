"""All numbers of a report as one tidy csv: one number per line, for computing and plotting."""

from collections.abc import Iterable

from jaxiqa.core.csv_files import as_csv

HEADER = ("model", "seed", "attack", "strength", "defense", "measure", "value", "low", "high")

Line = tuple[str, ...]
"""The texts of one line, in the order of `HEADER`; ``value``, ``low`` and ``high`` in full precision."""


def tidy_csv(lines: Iterable[Line]) -> str:
    """Return the csv: model, seed, attack, strength, defense, measure, value, and the ends of its interval.

    The interval is that of a mean over images, 95 % by Student's t; nothing is averaged over seeds. A strength is ε in
    full precision or the name of a level; it is empty for an attack without strengths and for a number that summarises
    all strengths, whose measure then ends with AUC or mean. Measures of a defense end with "transfer" or "adaptive". A
    worst SROCC is in the line of the attack that left it; certified defenses are in the column of defenses.

    >>> print(tidy_csv([("base", "0", "PGD", "0.1", "", "AbsGain", "0.5", *interval_cells((0.4, 0.6)))]), end="")
    model,seed,attack,strength,defense,measure,value,low,high
    base,0,PGD,0.1,,AbsGain,0.5,0.4,0.6
    """
    return as_csv([HEADER, *lines])


def interval_cells(interval: tuple[float, float] | None) -> tuple[str, str]:
    """Return the ends of an interval in full precision; nothing without one.

    >>> interval_cells((0.25, 0.5)), interval_cells(None)
    (('0.25', '0.5'), ('', ''))
    """
    return (repr(interval[0]), repr(interval[1])) if interval else ("", "")
