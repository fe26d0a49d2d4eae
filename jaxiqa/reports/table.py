"""The table of results: csv in full precision, Markdown and terminal to read."""

import csv
import io
from pathlib import Path

from rich.table import Table

from jaxiqa.files import write_text
from jaxiqa.reports.summary import SCORE_RANGES, Summary, column, in_255ths


def columns(summary: Summary, *, every_strength: bool) -> list[str]:
    """Columns in the order of the paper's tables; single strengths only on request."""
    names = ["SROCC", "PLCC"] + (["KROCC"] if every_strength else [])
    for attack, epsilons in summary.attacks.items():
        for gain in ("AbsGain", "R-score") + (("|Gain|",) if every_strength else ()):
            if None in epsilons:
                names.append(column(gain, attack))
                continue
            names.append(column(gain, attack, auc=True))
            if every_strength:
                names += [column(gain, attack, epsilon) for epsilon in epsilons]
    return [*names, "s / epoch", "s / test", *(["parameters"] if every_strength else [])]


def notes(summary: Summary) -> list[str]:
    """What the numbers are, exactly: for under the table."""
    strengths = [
        f"{attack} at ε = {', '.join(in_255ths(e) for e in epsilons)}"
        for attack, epsilons in summary.attacks.items()
        if None not in epsilons
    ]
    lines = [
        f"SROCC and PLCC on {summary.test_images} pictures with labels; attacks on {summary.attacked_images} pictures.",
        "AbsGain = mean of s̃(attacked) − s̃(clean), signed: lower is more robust. s̃ = (score − low) / (high − low), "
        f"where low and high are {SCORE_RANGES[summary.score_range]}.",
        "R-score = mean of log₁₀( max(1 − s̃, s̃) / (|s̃(attacked) − s̃| + 1e-6) ): higher is more robust.",
        "AUC = trapezoids over ε divided by the range of ε, so it has the unit of the value itself.",
    ]
    if strengths:
        lines.append("Strengths: " + "; ".join(strengths) + ".")
    lines.append(
        f"Mean ± standard deviation over seeds {', '.join(map(str, summary.seeds))}."
        if len(summary.seeds) > 1
        else f"One seed ({', '.join(map(str, summary.seeds))})."
    )
    lines.append("s / epoch: optimisation steps alone, median. s / test: scoring the labelled pictures once, compiled.")
    return lines + [f"Missing: {what}." for what in summary.missing]


def cell(summary: Summary, model: str, name: str) -> str:
    """A value as people read it, with its deviation over seeds; a dash where there is none."""
    value = summary.cells.get((model, name))
    if value is None:
        return "–"
    digits = 1 if name.startswith("s /") else 3
    text = f"{value.mean:.{digits}f}"
    return f"{text} ± {value.std:.{digits}f}" if value.seeds > 1 else text


def write_csv(summary: Summary, path: Path) -> None:
    """One row per model; for each column its mean, and its deviation where there are several seeds."""
    names = columns(summary, every_strength=True)
    several = len(summary.seeds) > 1
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["model", *(part for name in names for part in ([name, f"{name} std"] if several else [name]))])
    for model in summary.models:
        row = [model]
        for name in names:
            value = summary.cells.get((model, name))
            row.append("" if value is None else repr(value.mean))
            if several:
                row.append("" if value is None else repr(value.std))
        writer.writerow(row)
    write_text(path, buffer.getvalue())


def write_markdown(summary: Summary, path: Path) -> None:
    """The table and its notes."""
    names = columns(summary, every_strength=False)
    lines = ["| model | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for model in summary.models:
        lines.append(f"| {model} | " + " | ".join(cell(summary, model, name) for name in names) + " |")
    write_text(path, "\n".join([*lines, "", *(f"- {note}" for note in notes(summary)), ""]))


def render(summary: Summary) -> Table:
    """The same for the terminal, one line per column, since a terminal is narrow and models are few."""
    table = Table()
    table.add_column("")
    for model in summary.models:
        table.add_column(model, justify="right")
    for name in columns(summary, every_strength=False):
        table.add_row(name, *(cell(summary, model, name) for model in summary.models))
    return table
