"""What every paper's table needs: the numbers of a run, the published ones, and what differs between the two."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jaxiqa.reports.attacks.summary import SCORE_RANGES, Summary
from jaxiqa.reports.table import Compared, Entry, Table
from jaxiqa.results.engine import Rows
from jaxiqa.results.rows import ResultRow

NONE = "–"
"""Text of a number that does not exist."""


@dataclass(frozen=True)
class Run:
    """The results of an experiment.

    Attributes:
        metric: name of the metric.
        summary: of the same rows.
        results: rows of the attacks.
        ends: (model, seed) -> low and high of the scale of gains.
        protocol: what was run, by name, as text: for `differences`.
        places: model -> its block and pruning, as text.
        mos: attacked image -> human score, if there are any.
    """

    metric: str
    summary: Summary
    results: Sequence[ResultRow] | Rows
    ends: Mapping[tuple[str, int], tuple[float, float]]
    protocol: Mapping[str, str]
    places: Mapping[str, str]
    mos: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Paper:
    """The tables of one paper.

    Attributes:
        title: of the paper, with its arXiv number.
        metrics: the metrics of its tables.
        tables: makes them.
    """

    title: str
    metrics: tuple[str, ...]
    tables: Callable[[Run], list[Table]]


@cache
def facts(name: str) -> dict[str, Any]:
    """Return what the paper says, from ``NAME.json`` in this folder.

    Its fields are: ``source``, where the numbers are from and why others are missing; ``published``, metric -> table ->
    row -> column -> text; ``protocol``, metric -> name -> text; ``differences``, ``"all"`` or metric -> list of text.

    >>> facts("guardians")["published"]
    {}
    """
    return json.loads(files("jaxiqa.reports.papers").joinpath(f"{name}.json").read_text("utf-8"))


def published(name: str, metric: str, table: str, row: str, column: str) -> str:
    """Return a published number as it is printed; a dash if it is not known.

    >>> published("robustness_as_architecture", "linearity", "1", "base", "AbsGain AUC PGD-1")
    '0.409'
    >>> published("robustness_as_architecture", "linearity", "1", "base", "SROCC")
    '–'
    """
    return facts(name)["published"].get(metric, {}).get(table, {}).get(row, {}).get(column, NONE)


def compared(entry: Entry, number: str) -> Compared:
    """Return our number with the published one beside it."""
    return (*entry, number)


def differences(name: str, run: Run) -> list[str]:
    """Return what differs from the paper's protocol: first what this run does otherwise, then what always differs.

    What the run does not state (None in its config: as published) is not compared.
    """
    known = facts(name)
    theirs = known["protocol"].get(run.metric, {})
    found = [
        f"{what}: {run.protocol[what]}; the paper: {text}"
        for what, text in theirs.items()
        if what in run.protocol and run.protocol[what] != text
    ]
    always = known["differences"]
    return [*found, *always.get("all", ()), *always.get(run.metric, ())]


def common_notes(name: str, run: Run) -> list[str]:
    """Return the notes of every table: what the numbers in grey are, the images, the scale, seeds, missing numbers."""
    summary = run.summary
    seeds = ", ".join(map(str, summary.seeds))
    return [
        f"In grey, or in parentheses: the published number; {NONE} if it is not known. {facts(name)['source']}",
        f"{NONE} in front of it: not run.",
        f"{summary.test_images} images with labels, {summary.attacked_images} attacked images.",
        f"s̃ = (score − low) / (high − low), where low and high are {SCORE_RANGES[summary.score_range]}.",
        f"Mean ± standard deviation over seeds {seeds}." if len(summary.seeds) > 1 else f"One seed ({seeds}).",
        *(f"Missing: {what}." for what in summary.missing),
    ]


def summarised(summary: Summary, model: str, name: str) -> Entry:
    """Return a number of the summary for reading; a dash if there is none."""
    value = summary.cells.get((model, name))
    if value is None:
        return NONE, None
    text = f"{value.mean:.3f} ± {value.std:.3f}" if value.seeds > 1 else f"{value.mean:.3f}"
    return text, value.mean
