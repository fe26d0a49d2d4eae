"""Rows in; tables, plots and one self-contained page out."""

from collections.abc import Sequence
from pathlib import Path

from jaxiqa.files import write_bytes, write_text
from jaxiqa.reports import plots, table
from jaxiqa.reports.examples import Example, sheet
from jaxiqa.reports.html import page
from jaxiqa.reports.summary import Summary


def write_report(
    folder: Path, summary: Summary, examples: Sequence[Example], *, title: str, facts: dict[str, str]
) -> Path:
    """Write table.csv, table.md, tradeoff.png, curves.png, examples.png and report.html; return the page's path."""
    table.write_csv(summary, folder / "table.csv")
    table.write_markdown(summary, folder / "table.md")
    pictures = {}
    if summary.attacks:
        pictures["Robustness against correlation with the labels"] = plots.tradeoff(summary)
        pictures["Gain over the strength of the attack"] = plots.curves(summary)
        write_bytes(folder / "tradeoff.png", pictures["Robustness against correlation with the labels"])
        write_bytes(folder / "curves.png", pictures["Gain over the strength of the attack"])
    if examples:
        pictures["Attacked pictures and what was changed"] = sheet(examples)
        write_bytes(folder / "examples.png", pictures["Attacked pictures and what was changed"])
    write_text(folder / "report.html", page(summary, pictures, title=title, facts=facts))
    return folder / "report.html"
