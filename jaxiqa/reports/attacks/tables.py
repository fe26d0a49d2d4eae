"""The table of results: csv in full precision; Markdown and terminal for reading."""

from collections.abc import Sequence
from pathlib import Path

from jaxiqa.core.csv_files import as_csv
from jaxiqa.core.files import write_text
from jaxiqa.reports.attacks.gains import CHANGES, GAINS, column, overall
from jaxiqa.reports.attacks.masking import masking_notes, masking_table
from jaxiqa.reports.attacks.summary import CERTIFIED, SCORE_RANGES, Summary
from jaxiqa.reports.strengths import format_strength
from jaxiqa.reports.table import Entry, Table


def columns(summary: Summary, *, every_strength: bool) -> list[str]:
    """Return columns in the order of the paper's tables; single strengths only on request."""
    names = ["SROCC", "PLCC"] + (["KROCC"] if every_strength else [])
    for attack, epsilons in summary.attacks.items():
        for gain in GAINS if every_strength else ("AbsGain", "R-score"):
            names.append(overall(gain, attack, epsilons))
            if every_strength and None not in epsilons:
                names += [column(gain, attack, epsilon) for epsilon in epsilons]
        if every_strength:
            names += [column(change, attack, epsilon) for change in CHANGES for epsilon in epsilons]
    if any((model, CERTIFIED) in summary.cells for model in summary.models):
        names.append(CERTIFIED)
    return [*names, "s / epoch", "s / test", *(["parameters"] if every_strength else [])]


def notes(summary: Summary) -> list[str]:
    """Return the exact definition of the numbers, for notes below the table."""
    strengths = [
        f"{attack} at {', '.join(map(format_strength, epsilons))}"
        for attack, epsilons in summary.attacks.items()
        if None not in epsilons
    ]
    lines = [
        f"SROCC and PLCC on {summary.test_images} images with labels; attacks on {summary.attacked_images} images.",
        "AbsGain = mean of s̃(attacked) − s̃(clean), signed: lower is more robust. s̃ = (score − low) / (high − low), "
        f"where low and high are {SCORE_RANGES[summary.score_range]}.",
        "R-score = mean of log₁₀( max(1 − s̃, s̃) / (|s̃(attacked) − s̃| + 1e-6) ): higher is more robust.",
        "AUC = trapezoids over ε divided by the range of ε, so it has the unit of the value itself; "
        "for one strength it is that value. For strengths that are levels (equally visible), it is their plain mean.",
    ]
    if strengths:
        lines.append("Strengths: " + "; ".join(strengths) + ".")
    lines.append(
        f"Mean ± standard deviation over seeds {', '.join(map(str, summary.seeds))}."
        if len(summary.seeds) > 1
        else f"One seed ({', '.join(map(str, summary.seeds))})."
    )
    if CERTIFIED in columns(summary, every_strength=False):
        lines.append(
            f"{CERTIFIED}: no perturbation of this Linf radius changes any s̃ by more, by the Lipschitz constant of the "
            "architecture. –: no bound is known."
        )
    lines.append("s / epoch: optimisation steps alone, median. s / test: scoring the labelled images once, compiled.")
    lines.append(
        "Bands in plots and intervals by strength: 95 % by Student's t over the attacked images, each averaged over "
        "seeds, so without the deviation between trainings. |Gain| = mean of |s̃(attacked) − s̃(clean)|."
    )
    lines.append(
        "8 bit: the attacked image as it is stored, every change rounded to whole steps of 1/255 towards the clean "
        "image, and scored again; so it is nowhere further from the clean image than the attacked one."
    )
    lines.append(
        "SSIM and Linf: means over the images, of the attacked image before it is stored, against the clean one."
    )
    lines += masking_notes(summary.checks)
    return lines + [f"Missing: {what}." for what in summary.missing]


def strengths(summary: Summary) -> tuple[list[str], list[list[str | Entry]]]:
    """Return header and lines of the long table: every attack at every strength, one line per model."""
    lines: list[list[str | Entry]] = []
    for attack, epsilons in summary.attacks.items():
        for order, epsilon in enumerate(epsilons):
            for model in summary.models:
                value = summary.cells.get((model, column("AbsGain", attack, epsilon)))
                interval = value.interval if value else None
                measures = [entry(summary, model, column(name, attack, epsilon)) for name in (*GAINS, *CHANGES)]
                ends: Entry = (f"{interval[0]:.3f} to {interval[1]:.3f}", interval[0]) if interval else ("–", None)
                lines.append([attack, (format_strength(epsilon), float(order)), model, *measures, ends])
    return ["attack", "ε", "model", *GAINS, *CHANGES, "AbsGain, 95 %"], lines


def entry(summary: Summary, model: str, name: str) -> Entry:
    """Return a value for reading and for sorting."""
    value = summary.cells.get((model, name))
    return cell(summary, model, name), None if value is None else value.mean


def cell(summary: Summary, model: str, name: str) -> str:
    """Return a value for reading, with its deviation over seeds; a dash if there is none."""
    value = summary.cells.get((model, name))
    if value is None:
        return "–"
    digits = 1 if name.startswith("s /") else 3
    text = f"{value.mean:.{digits}f}"
    return f"{text} ± {value.std:.{digits}f}" if value.seeds > 1 else text


def write_csv(summary: Summary, path: Path) -> None:
    """Write one row per model; for each column its mean, and its deviation if there are several seeds."""
    names = columns(summary, every_strength=True)
    several = len(summary.seeds) > 1
    lines = [["model", *(part for name in names for part in ([name, f"{name} std"] if several else [name]))]]
    for model in summary.models:
        row = [model]
        for name in names:
            value = summary.cells.get((model, name))
            row.append("" if value is None else repr(value.mean))
            if several:
                row.append("" if value is None else repr(value.std))
        lines.append(row)
    write_text(path, as_csv(lines))


def tables(summary: Summary) -> list[Table]:
    """Return the table, and the long one with every attack at every strength."""
    names = columns(summary, every_strength=False)
    rows: list[Sequence[str | Entry]] = [
        [model, *(entry(summary, model, name) for name in names)] for model in summary.models
    ]
    found = [Table("Results", ["model", *names], rows, notes(summary))]
    if summary.attacks:
        header, lines = strengths(summary)
        found.append(Table("Every attack at every strength", header, lines, text=3, folded=True))
    return found


def write_markdown(summary: Summary, path: Path) -> None:
    """Write the table, its notes, the long table by strength, and the checks for masked gradients."""
    main, *long = tables(summary)
    lines = [*main.markdown(), "", *main.markdown_notes()]
    for table in long:
        lines += ["", "By strength:", "", *table.markdown()]
    if checks := masking_table(summary.checks):
        lines += ["", f"{checks.title}:", "", *checks.markdown(), "", *checks.markdown_notes()]
    write_text(path, "\n".join([*lines, ""]))


def for_terminal(summary: Summary) -> Table:
    """Return the table for a terminal, one line per column: a terminal is narrow and models are few."""
    names = columns(summary, every_strength=False)
    rows: list[list[str | Entry]] = [
        [name, *(entry(summary, model, name) for model in summary.models)] for name in names
    ]
    return Table("", ["", *summary.models], rows)
