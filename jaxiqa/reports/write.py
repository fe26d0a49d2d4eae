"""The files of a report: tables, plots and a self-contained page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxiqa.core.csv_files import as_csv
from jaxiqa.core.files import write_bytes, write_text
from jaxiqa.reports.attacks import plots, tables
from jaxiqa.reports.attacks.differences import differences, differences_csv, differences_table
from jaxiqa.reports.attacks.masking import masking_table
from jaxiqa.reports.attacks.order import Order, order_plot, order_tables
from jaxiqa.reports.attacks.order import tidy_lines as order_lines
from jaxiqa.reports.attacks.summary import Summary
from jaxiqa.reports.attacks.tidy import tidy_lines as attack_lines
from jaxiqa.reports.comparison import compare
from jaxiqa.reports.defenses import plots as defense_plots
from jaxiqa.reports.defenses.leaderboard import write_leaderboard
from jaxiqa.reports.defenses.summary import Defenses
from jaxiqa.reports.defenses.tables import table4, write_cells
from jaxiqa.reports.examples import example_grid
from jaxiqa.reports.page import page
from jaxiqa.reports.section import Section
from jaxiqa.reports.table import Compared, Entry, Table
from jaxiqa.reports.tidy import Line, tidy_csv
from jaxiqa.results.examples import Example


def write_report(
    folder: Path,
    summary: Summary,
    examples: Sequence[Example],
    *,
    title: str,
    facts: Mapping[str, str],
    config: str = "",
    defended: Sequence[Section] = (),
    tidy: Sequence[Line] = (),
    paper: Sequence[Table] = (),
    left: Order | None = None,
) -> Path:
    """Write the files of a report and report.html, which shows them; return the page's path.

    table.csv, table.md, tidy.csv; tradeoff.png and curves.png; differences.csv and differences.png of two or more
    models; order.md and order.png with ``left``; examples.png with examples.

    Args:
        folder: the folder to write.
        summary: the numbers of models and attacks.
        examples: attacked images to show.
        title: of the page.
        facts: how the numbers were made, for example the command.
        config: the whole configuration as text.
        defended: result of `write_defenses`.
        tidy: lines of tidy.csv for other numbers, as those of defenses and certificates.
        paper: the tables of a paper, whose files `write_paper` writes.
        left: what attacks leave of the order.

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
    sections = [Section(table.title, [table], files=[f"paper_{n}.csv"]) for n, table in enumerate(paper, start=1)]
    if left is not None:
        sections.append(_order(folder, left))
    lines = [*attack_lines(summary), *(order_lines(left) if left else ()), *tidy]
    sections += [_results(folder, summary, lines), *_differences(folder, summary)]
    if table := masking_table(summary.checks):
        sections.append(Section(table.title, [table]))
    sections += defended
    if examples:
        write_bytes(folder / "examples.png", example_grid(examples))
    text = page(sections, title=title, facts=facts, compared=compare(examples), config=config)
    write_text(folder / "report.html", text)
    return folder / "report.html"


def _order(folder: Path, left: Order) -> Section:
    found, drawing = order_tables(left), order_plot(left)
    write_bytes(folder / "order.png", drawing.png)
    write_text(folder / "order.md", _markdown(found))
    return Section(found[0].title, found, [drawing], ["order.md"])


def _results(folder: Path, summary: Summary, lines: Sequence[Line]) -> Section:
    tables.write_csv(summary, folder / "table.csv")
    tables.write_markdown(summary, folder / "table.md")
    write_text(folder / "tidy.csv", tidy_csv(lines))
    drawn = {}
    if summary.attacks:
        drawn = {"tradeoff": plots.tradeoff(summary), "curves": plots.curves(summary)}
    for name, drawing in drawn.items():
        write_bytes(folder / f"{name}.png", drawing.png)
    return Section("Results", tables.tables(summary), list(drawn.values()), ["table.csv", "tidy.csv"])


def _differences(folder: Path, summary: Summary) -> list[Section]:
    found = differences(summary)
    table = differences_table(summary, found)
    if table is None:
        return []
    drawing = plots.differences_plot(summary, found)
    write_text(folder / "differences.csv", differences_csv(summary, found))
    write_bytes(folder / "differences.png", drawing.png)
    return [Section(table.title, [table], [drawing], ["differences.csv"])]


def write_defenses(
    folder: Path, mine: Defenses, every: Defenses, certified: Table | None, *, title: str, facts: Mapping[str, str]
) -> list[Section]:
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
        The sections of the report.

    Raises:
        jaxiqa.core.files.WriteError: a file cannot be written.

    >>> import tempfile
    >>> from jaxiqa.reports.defenses.summary import Defenses
    >>> nothing = Defenses((), 0, (), 0, 100.0, ())
    >>> write_defenses(Path(tempfile.mkdtemp()), nothing, nothing, None, title="No defense", facts={})
    []
    """
    found: list[Section] = []
    if mine.cells:
        write_cells(mine, folder / "defenses.csv")
        drawn = {
            "tradeoff": defense_plots.tradeoff(mine),
            "by_attack": defense_plots.by_attack(mine),
            "by_strength": defense_plots.by_strength(mine),
        }
        for name, drawing in drawn.items():
            write_bytes(folder / f"defenses_{name}.png", drawing.png)
        found.append(Section("Defenses", table4(mine), list(drawn.values()), ["defenses.csv", "tidy.csv"]))
    if every.cells:
        board = write_leaderboard(every, folder, title=title, facts=facts)
        found.append(Section(board.title, [board], files=["leaderboard.csv", "leaderboard.html"]))
    if certified is not None:
        found.append(Section(certified.title, [certified]))
    if found:
        write_text(folder / "defenses.md", _markdown([table for section in found for table in section.tables]))
    return found


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
