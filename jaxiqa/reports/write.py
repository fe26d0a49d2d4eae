"""The files of a report: tables, plots and a self-contained page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxiqa.core.csv_files import as_csv
from jaxiqa.core.files import write_bytes, write_text
from jaxiqa.reports.attacks import plots, tables
from jaxiqa.reports.attacks.order import Order, order_plot, order_tables
from jaxiqa.reports.attacks.summary import Summary
from jaxiqa.reports.defenses import plots as defense_plots
from jaxiqa.reports.defenses.leaderboard import write_leaderboard
from jaxiqa.reports.defenses.summary import Defenses
from jaxiqa.reports.defenses.tables import table4, write_cells
from jaxiqa.reports.examples import example_grid
from jaxiqa.reports.page import page
from jaxiqa.reports.table import Compared, Entry, Table
from jaxiqa.results.examples import Example


def write_report(
    folder: Path,
    summary: Summary,
    examples: Sequence[Example],
    *,
    title: str,
    facts: Mapping[str, str],
    defended: Sequence[Table] = (),
    figures: Mapping[str, bytes] | None = None,
    paper: Sequence[Table] = (),
    left: Order | None = None,
) -> Path:
    """Write table.csv, table.md, tradeoff.png, curves.png, examples.png and report.html; return the page's path.

    ``defended`` and ``figures`` are the result of `write_defenses`, ``paper`` are the tables of a paper, ``left`` is
    what attacks leave of the order (then also order.md and order.png are written); the page includes them.

    Raises:
        jaxiqa.core.files.WriteError: a file cannot be written.

    >>> import tempfile
    >>> from jaxiqa.reports.attacks.summary import summarise
    >>> from jaxiqa.results.rows import ModelRow, PredictionRow
    >>> scores = [PredictionRow(f"{i}.png", "base", 0, mos=10.0 * i, score=50.0 + i) for i in range(5)]
    >>> models = [ModelRow("base", 0, 1000, 0.0, 100.0, 0.9, 1.0, 0.1, 5)]
    >>> summary = summarise([], scores, models, score_range="model")
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_report(folder, summary, [], title="Five images", facts={}).name
    'report.html'
    """
    tables.write_csv(summary, folder / "table.csv")
    tables.write_markdown(summary, folder / "table.md")
    drawn = {}
    if summary.attacks:
        drawn["Robustness against correlation with the labels"] = plots.tradeoff(summary)
        drawn["Gain over the strength of the attack"] = plots.curves(summary)
        write_bytes(folder / "tradeoff.png", drawn["Robustness against correlation with the labels"])
        write_bytes(folder / "curves.png", drawn["Gain over the strength of the attack"])
    ordered: list[Table] = []
    if left is not None:
        ordered, caption = order_tables(left), "Worst SROCC over the strength of attacks on the order"
        drawn[caption] = order_plot(left)
        write_bytes(folder / "order.png", drawn[caption])
        write_text(folder / "order.md", _markdown(ordered))
    drawn |= figures or {}
    if examples:
        drawn["Attacked images and their changes"] = example_grid(examples)
        write_bytes(folder / "examples.png", drawn["Attacked images and their changes"])
    shown = [*paper, *ordered, *tables.tables(summary), *defended]
    write_text(folder / "report.html", page(shown, drawn, title=title, facts=facts))
    return folder / "report.html"


def write_defenses(
    folder: Path, mine: Defenses, every: Defenses, certified: Table | None, *, title: str, facts: Mapping[str, str]
) -> tuple[list[Table], dict[str, bytes]]:
    """Write tables, plots and the leaderboard of defenses.

    defenses.csv (every cell, every number), defenses.md (Table 4 and the certified defenses), defenses_tradeoff.png,
    defenses_by_attack.png, defenses_by_strength.png, leaderboard.csv and leaderboard.html.

    Args:
        folder: the folder to write.
        mine: the defenses of this run, for tables and plots.
        every: all defenses with rows, for the leaderboard.
        certified: the table of certified defenses, if any.
        title, facts: of the page.

    Returns:
        Tables and figures with captions for the report.

    Raises:
        jaxiqa.core.files.WriteError: a file cannot be written.

    >>> import tempfile
    >>> from jaxiqa.reports.defenses.summary import Defenses
    >>> nothing = Defenses((), 0, (), 0, 100.0, ())
    >>> write_defenses(Path(tempfile.mkdtemp()), nothing, nothing, None, title="No defense", facts={})
    ([], {})
    """
    shown: list[Table] = []
    figures: dict[str, bytes] = {}
    if mine.cells:
        write_cells(mine, folder / "defenses.csv")
        shown += table4(mine)
        for name, caption, draw in (
            ("tradeoff", "Defenses: distance from the clean score against quality and order", defense_plots.tradeoff),
            ("by_attack", "Defenses: distance from the clean score, by attack", defense_plots.by_attack),
            ("by_strength", "Defenses: distance from the clean score, by strength", defense_plots.by_strength),
        ):
            figures[caption] = draw(mine)
            write_bytes(folder / f"defenses_{name}.png", figures[caption])
    if every.cells:
        shown.append(write_leaderboard(every, folder, title=title, facts=facts))
    if certified is not None:
        shown.append(certified)
    if shown:
        write_text(folder / "defenses.md", _markdown(shown))
    return shown, figures


def write_paper(folder: Path, shown: Sequence[Table]) -> None:
    """Write the tables of a paper: paper.md, and each as paper_1.csv, paper_2.csv; nothing without tables.

    In the csv files every number is in full precision, and the published one is in a column of its own.

    Raises:
        jaxiqa.core.files.WriteError: a file cannot be written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> rows = [["base", ("0.90", 0.9, "0.94")], ["at", ("–", None, "–")]]
    >>> write_paper(folder, [Table("One", ["model", "SROCC"], rows)])
    >>> print((folder / "paper_1.csv").read_text().strip())
    model,SROCC,SROCC published
    base,0.9,0.94
    at,,
    """
    for number, table in enumerate(shown, start=1):
        numbers = table.header[table.text :]
        lines = [[*table.header[: table.text], *(part for name in numbers for part in (name, f"{name} published"))]]
        lines += [[part for item in row for part in _csv_cells(item)] for row in table.rows]
        write_text(folder / f"paper_{number}.csv", as_csv(lines))
    if shown:
        write_text(folder / "paper.md", _markdown(shown))


def _csv_cells(item: str | Entry | Compared) -> list[str]:
    """Return one cell of text, or a number and the published one."""
    if isinstance(item, str):
        return [item]
    number = repr(item[1]) if item[1] is not None else item[0]
    return [("" if text == "–" else text) for text in (number, *item[2:])]


def _markdown(shown: Sequence[Table]) -> str:
    parts = ([f"## {table.title}", "", *table.markdown(), "", *table.markdown_notes(), ""] for table in shown)
    return "\n".join(line for part in parts for line in part)
