"""The means over the folds of a cross-validation: one table for reading, one file for computing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxiqa.core.csv_files import as_csv
from jaxiqa.core.files import write_text
from jaxiqa.measures.robustness import folds_interval95
from jaxiqa.reports.attacks.gains import overall
from jaxiqa.reports.attacks.order import Order
from jaxiqa.reports.attacks.summary import Summary
from jaxiqa.reports.strengths import in_255ths
from jaxiqa.reports.table import Entry, Table


@dataclass(frozen=True)
class Numbers:
    """The numbers of one evaluation: of its tables, and of attacks on the order."""

    summary: Summary
    order: Order | None = None


Column = Callable[[Numbers, str], float | None]
"""``(numbers of one fold, model) -> mean over seeds``; None if it is missing."""


def write_folds(folder: Path, folds: Sequence[Numbers], *, title: str) -> list[Table]:
    """Write folds.md, and folds.csv with every fold's number; return the tables.

    Args:
        folder: of the experiment; every fold has a folder in it.
        folds: the numbers of each fold.
        title: of the experiment.

    Raises:
        jaxiqa.core.files.WriteError: a file cannot be written.

    >>> import tempfile
    >>> from jaxiqa.reports.attacks.summary import Value
    >>> fold = lambda x: Numbers(Summary(("a",), {}, {("a", "SROCC"): Value(x, 0.0, 1)}, (0,), 0, 9, "mos", ()))
    >>> tables = write_folds(Path(tempfile.mkdtemp()), [fold(0.7), fold(0.8)], title="Two folds")
    >>> tables[0].rows[0][:2]
    ['a', ('0.750 ± 0.071', 0.75)]
    """
    columns, models = _columns(folds), folds[0].summary.models
    values = {
        (name, model): [column(fold, model) for fold in folds] for name, column in columns.items() for model in models
    }
    lines = [["fold", "model", "measure", "value"]]
    for number in range(len(folds)):
        for (name, model), found in values.items():
            value = found[number]
            lines.append([str(number), model, name, "" if value is None else repr(float(value))])
    write_text(folder / "folds.csv", as_csv(lines))
    tables = [_means(title, len(folds), models, columns, values), _differences(models, columns, values)]
    parts = ([f"## {table.title}", "", *table.markdown(), "", *table.markdown_notes(), ""] for table in tables)
    write_text(folder / "folds.md", "\n".join(line for part in parts for line in part))
    return tables


def _columns(folds: Sequence[Numbers]) -> dict[str, Column]:
    """Return the columns: agreement, what attacks leave of the order, slopes, and gains."""

    def cell(name: str) -> Column:
        return lambda fold, model: value.mean if (value := fold.summary.cells.get((model, name))) else None

    def left(measure: str, epsilon: float) -> Column:
        def column(fold: Numbers, model: str) -> float | None:
            found = fold.order.left.get((model, epsilon)) if fold.order else None
            return _mean(getattr(found, measure)) if found else None

        return column

    found = {name: cell(name) for name in ("SROCC", "PLCC")}
    first = folds[0]
    if first.order:
        found |= {f"worst SROCC @ {in_255ths(e)}": left("srocc", e) for e in first.order.epsilons}
        found["slope"] = lambda fold, model: _mean(tuple(fold.order.slopes[model].values()) if fold.order else ())
        found |= {f"gain @ {in_255ths(e)}": left("gain", e) for e in first.order.epsilons}
    for label, strengths in first.summary.attacks.items():
        found[overall("AbsGain", label, strengths)] = cell(overall("AbsGain", label, strengths))
    return found


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _complete(values: Sequence[float | None]) -> list[float]:
    """Return the numbers of all folds, or nothing if one is missing."""
    found = [value for value in values if value is not None]
    return found if len(found) == len(values) else []


def _means(title: str, count: int, models: Sequence[str], columns: dict[str, Column], values: dict) -> Table:
    rows: list[list[str | Entry]] = []
    for model in models:
        row: list[str | Entry] = [model]
        for name in columns:
            found = _complete(values[name, model])
            mean = float(np.mean(found)) if found else None
            row.append((f"{mean:.3f} ± {np.std(found, ddof=1):.3f}" if found else "–", mean))
        rows.append(row)
    notes = [
        f"Mean ± standard deviation over {count} folds, each the mean over its seeds. Every labelled image is a test "
        "image of one fold.",
        "worst SROCC, slope and gain: as in each fold's table of what attacks leave of the order. –: missing in one.",
    ]
    return Table(f"{title}: {count} folds", ["model", *columns], rows, notes)


def _differences(models: Sequence[str], columns: dict[str, Column], values: dict) -> Table:
    rows: list[list[str | Entry]] = []
    for model in models[1:]:
        row: list[str | Entry] = [model]
        for name in columns:
            ours, theirs = _complete(values[name, model]), _complete(values[name, models[0]])
            if ours and theirs:
                change = np.subtract(ours, theirs)
                low, high = folds_interval95(change)
                row.append((f"{change.mean():+.3f} ({low:+.3f} to {high:+.3f})", float(change.mean())))
            else:
                row.append(("–", None))
        rows.append(row)
    notes = [
        f"Difference from {models[0]} in the same fold: mean, and its 95 % interval by Student's t over folds, with a "
        "variance that is larger by the factor 1 + n/(n − 1) for n folds, since they share training images (Nadeau and "
        "Bengio, Inference for the Generalization Error, Machine Learning 52, 2003).",
    ]
    return Table(f"Against {models[0]}", ["model", *columns], rows, notes)
