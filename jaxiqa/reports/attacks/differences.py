"""Paired differences between models: the same images were attacked, so what is hard about an image cancels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxiqa.core.csv_files import as_csv
from jaxiqa.measures.robustness import interval95
from jaxiqa.reports.attacks.gains import GAINS, column, overall
from jaxiqa.reports.attacks.summary import Summary
from jaxiqa.reports.strengths import as_number, format_strength
from jaxiqa.reports.table import Entry, Table
from jaxiqa.results.rows import StrengthKey

SHOWN = ("AbsGain", "|Gain|", "R-score")
"""The gains of the table; the csv file has all."""

OVER_ALL = "all"
"""The strength of a gain that summarises all strengths of an attack, by area or plain mean."""


@dataclass(frozen=True)
class Difference:
    """The mean over images of a model's gain minus the baseline's.

    Attributes:
        model: name.
        attack: label.
        strength: of the attack; `OVER_ALL` for the number that summarises all.
        gain: name of the gain.
        mean: the difference.
        interval: its 95 % interval by Student's t over images, each averaged over seeds; None for a single image.
        images: number of images.
        seeds: number of seeds that both models have.
    """

    model: str
    attack: str
    strength: StrengthKey
    gain: str
    mean: float
    interval: tuple[float, float] | None
    images: int
    seeds: int


def differences(summary: Summary) -> list[Difference]:
    """Return the differences of all models from the first one, for all gains, attacks and strengths that both have."""
    found = []
    for attack, strengths in summary.attacks.items():
        wanted = [(strength, {gain: column(gain, attack, strength) for gain in GAINS}) for strength in strengths]
        if len(strengths) > 1:
            wanted.append((OVER_ALL, {gain: overall(gain, attack, strengths) for gain in GAINS}))
        for strength, columns in wanted:
            for model in summary.models[1:]:
                for gain, name in columns.items():
                    pairs = [
                        (summary.by_image[model, seed, name], summary.by_image[summary.models[0], seed, name])
                        for seed in summary.seeds
                        if {(model, seed, name), (summary.models[0], seed, name)} <= summary.by_image.keys()
                    ]
                    if pairs:
                        found.append(_difference(model, attack, strength, gain, pairs))
    return found


def _difference(
    model: str, attack: str, strength: StrengthKey, gain: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Difference:
    change = np.mean([ours - theirs for ours, theirs in pairs], axis=0)
    interval = interval95(change) if len(change) > 1 else None
    return Difference(model, attack, strength, gain, float(change.mean()), interval, len(change), len(pairs))


def verdict(interval: tuple[float, float] | None) -> str:
    """Return what an interval of a difference shows.

    >>> verdict((-0.2, -0.1)), verdict((0.1, 0.2)), verdict((-0.1, 0.1)), verdict(None)
    ('lower', 'higher', 'not decided', 'not decided')
    """
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "not decided"
    return "lower" if interval[1] < 0 else "higher"


def differences_table(summary: Summary, found: Sequence[Difference]) -> Table | None:
    """Return one line per attack, strength and model; None without differences."""
    if not found:
        return None
    lines: dict[tuple[str, StrengthKey, str], dict[str, Difference]] = {}
    for one in found:
        lines.setdefault((one.attack, one.strength, one.model), {})[one.gain] = one
    rows: list[list[str | Entry]] = []
    for (attack, strength, model), gains in lines.items():
        order = summary.attacks[attack].index(strength) if strength in summary.attacks[attack] else len(lines)
        name = OVER_ALL if strength == OVER_ALL else format_strength(strength)
        cells = [_entry(gains.get(gain)) for gain in SHOWN]
        rows.append([attack, (name, float(order)), model, *cells, verdict(gains["AbsGain"].interval)])
    baseline = summary.models[0]
    notes = [
        f"Each line: gain of the model minus gain of {baseline} on the same image under the same attack, mean over "
        f"{found[0].images} images, each averaged over the seeds that both models have. In parentheses the 95 % "
        "interval by Student's t over images. It does not contain the deviation between trainings.",
        "AbsGain is: lower, more robust than the first model; higher, less robust; not decided: the interval contains "
        "0. Of 20 such lines without any difference, about one is expected to be decided.",
        f"{OVER_ALL}: the area over ε, or the mean over levels, of each image.",
    ]
    header = ["attack", "ε", "model", *(f"{gain} difference" for gain in SHOWN), "AbsGain is"]
    return Table(f"Differences from {baseline}", header, rows, notes, text=3)


def _entry(one: Difference | None) -> Entry:
    if one is None:
        return "–", None
    text = f"{one.mean:+.3f}"
    return (f"{text} ({one.interval[0]:+.3f} to {one.interval[1]:+.3f})" if one.interval else text), one.mean


def differences_csv(summary: Summary, found: Sequence[Difference]) -> str:
    """Return the differences in full precision: one line per attack, strength, model and gain."""
    header = ["baseline", "model", "attack", "strength", "measure", "value", "low", "high", "images", "seeds"]
    lines = [
        [
            *(summary.models[0], one.model, one.attack, as_number(one.strength), one.gain, repr(one.mean)),
            *(map(repr, one.interval) if one.interval else ("", "")),
            *(one.images, one.seeds),
        ]
        for one in found
    ]
    return as_csv([header, *lines])
