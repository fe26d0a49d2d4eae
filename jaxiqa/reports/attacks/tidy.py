"""The numbers of models and of attacks, one per line."""

from collections.abc import Iterator

from jaxiqa.measures.robustness import interval95
from jaxiqa.reports.attacks.gains import CHANGES, GAINS, column, overall
from jaxiqa.reports.attacks.summary import Summary
from jaxiqa.reports.strengths import as_number
from jaxiqa.reports.tidy import Line, interval_cells


def tidy_lines(summary: Summary) -> Iterator[Line]:
    """Yield the numbers of models, and of attacks on them, for `jaxiqa.reports.tidy.tidy_csv`.

    >>> from jaxiqa.reports.attacks.summary import summarise
    >>> from jaxiqa.results.rows import ModelRow
    >>> card = ModelRow("base", 0, 1000, 0.0, 100.0, 0.9, 1.5, 0.25, 0)
    >>> for line in tidy_lines(summarise([], [], [card], score_range="model")):
    ...     print(*line, sep=",")
    base,0,,,,parameters,1000.0,,
    base,0,,,,s / epoch,1.5,,
    base,0,,,,s / test,0.25,,
    """
    named = {}  # column -> attack, strength, measure
    for attack, strengths in summary.attacks.items():
        for measure in GAINS:
            named[overall(measure, attack, strengths)] = attack, "", overall(measure, "", strengths).strip()
        for measure in (*GAINS, *CHANGES):
            for strength in strengths:
                named[column(measure, attack, strength)] = attack, as_number(strength), measure
    for (model, seed, name), value in summary.by_seed.items():
        attack, strength, measure = named.get(name, ("", "", name))
        values = summary.by_image.get((model, seed, name))
        ends = interval95(values) if values is not None and len(values) > 1 else None
        yield model, str(seed), attack, strength, "", measure, repr(value), *interval_cells(ends)
