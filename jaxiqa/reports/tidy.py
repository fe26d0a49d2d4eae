"""All numbers as one tidy csv: one number per line, for computing and plotting."""

from collections.abc import Iterator

from jaxiqa.core.csv_files import as_csv
from jaxiqa.measures.robustness import interval95
from jaxiqa.reports.attacks.summary import CHANGES, GAINS, Summary, column, overall
from jaxiqa.reports.defenses.summary import DEFENSE_MEASURES, Defenses, pool
from jaxiqa.reports.strengths import as_number

HEADER = ("model", "seed", "attack", "strength", "defense", "measure", "value", "low", "high")

Line = tuple[str, ...]


def tidy_csv(summary: Summary, defenses: Defenses | None = None) -> str:
    """Return the csv: model, seed, attack, strength, defense, measure, value, and the ends of its interval.

    The interval is that of a mean over images, 95 % by Student's t. A strength is ε in full precision or the name of a
    level; it is empty for an attack without strengths and for a number that summarises all strengths, whose measure
    then ends with AUC or mean. Measures of a defense end with "transfer" or "adaptive". Nothing is averaged over seeds.

    >>> from jaxiqa.reports.attacks.summary import summarise
    >>> from jaxiqa.results.rows import ModelRow
    >>> card = ModelRow("base", 0, 1000, 0.0, 100.0, 0.9, 1.5, 0.25, 0)
    >>> print(tidy_csv(summarise([], [], [card], score_range="model")), end="")
    model,seed,attack,strength,defense,measure,value,low,high
    base,0,,,,parameters,1000.0,,
    base,0,,,,s / epoch,1.5,,
    base,0,,,,s / test,0.25,,
    """
    lines = [*of_attacks(summary), *(of_defenses(defenses) if defenses else ())]
    return as_csv([HEADER, *lines])


def of_attacks(summary: Summary) -> Iterator[Line]:
    """Yield the numbers of models and of attacks on them."""
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
        yield model, str(seed), attack, strength, "", measure, repr(value), *_ends(ends)


def of_defenses(defenses: Defenses) -> Iterator[Line]:
    """Yield the numbers of every defense."""
    for cell in defenses.cells:
        key, numbers = cell.key, pool([cell])
        for measure in DEFENSE_MEASURES:
            if number := numbers.get(measure):
                where = (key.model, str(key.seed), key.attack, as_number(key.strength), key.defense)
                yield *where, f"{measure}, {key.mode}", repr(number.mean), *_ends(number.interval)


def _ends(interval: tuple[float, float] | None) -> tuple[str, str]:
    return (repr(interval[0]), repr(interval[1])) if interval else ("", "")
