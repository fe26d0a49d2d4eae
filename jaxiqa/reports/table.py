"""A table for reading: as HTML, which can be sorted, as Markdown, and for a terminal."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich import table as rich_table
from rich.console import Console, ConsoleOptions
from rich.text import Text

from jaxiqa.reports.terminal import layout

Entry = tuple[str, float | None]
"""The text shown, and the number for sorting; None is a dash, and stays last."""

Compared = tuple[str, float | None, str]
"""An `Entry`, and beside it the text of a published number."""


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: heading of the table.
        header: names of the columns.
        rows: per row, text, an `Entry` or a `Compared` for each column. A page shows published numbers in grey, all
            else shows them in parentheses.
        notes: definitions of the numbers, for notes below the table.
        text: number of text columns, from the left.
        folded: shown on request.
        lists: heading -> further notes, below the others.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Entry | Compared]]
    notes: Sequence[str] = field(default=())
    text: int = 1
    folded: bool = False
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[rich_table.Table]:
        """Yield the table for a terminal, as `jaxiqa.reports.terminal.layout` divides it: ``console.print(table)``."""
        cells = [[shown(item) for item in row] for row in self.rows]
        for number, part in enumerate(layout(self.header, cells, self.text, options.max_width)):
            title = f"{self.title}, continued" if self.title and number else self.title
            table = rich_table.Table(title=Text(title, "table.title") if title else None, title_justify="left")
            for i, width in part:
                side: Literal["left", "right"] = "left" if i < self.text else "right"
                table.add_column(Text(self.header[i]), justify=side, width=width, overflow="fold")
            for row in cells:
                table.add_row(*(Text(row[i]) for i, _ in part))
            yield table

    def markdown(self) -> list[str]:
        """Return the lines of the table.

        >>> Table("", ["a", "b"], [["x|y", ("0.50", 0.5)], ["z", ("0.50", 0.5, "0.4")]]).markdown()
        ['| a | b |', '|---|---:|', '| x\\\\|y | 0.50 |', '| z | 0.50 (0.4) |']
        """
        rule = "|" + "---|" * self.text + "---:|" * (len(self.header) - self.text)
        cells = [[shown(item) for item in row] for row in (self.header, *self.rows)]
        head, *body = ["| " + " | ".join(map(as_markdown, row)) + " |" for row in cells]
        return [head, rule, *body]

    def markdown_notes(self) -> list[str]:
        """Return the notes, and those under a heading, as lines of lists.

        >>> Table("", [], [], ["*a* is b"], lists={"More": ["c"]}).markdown_notes()
        ['- \\\\*a\\\\* is b', '', 'More:', '', '- c']
        """
        lines = [f"- {as_markdown(note)}" for note in self.notes]
        for heading, notes in self.lists.items():
            lines += ["", f"{as_markdown(heading)}:", "", *(f"- {as_markdown(note)}" for note in notes)]
        return lines


def shown(item: str | Entry | Compared) -> str:
    """Return the text of a cell.

    >>> shown(("0.50 ± 0.01", 0.5, "0.4")), shown("x")
    ('0.50 ± 0.01 (0.4)', 'x')
    """
    if isinstance(item, str):
        return item
    return f"{item[0]} ({item[2]})" if len(item) > 2 else item[0]


def as_markdown(text: str) -> str:
    """Escape text for Markdown: no markup, no link, no HTML, no formula, no end of a cell.

    >>> print(as_markdown("a_b | <b> $x$ _c_"))
    a_b \\| &lt;b> \\$x\\$ \\_c\\_
    """
    text = re.sub(r"[\\|`*\[$~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)  # _ inside a word is no markup
    return text.replace("&", "&amp;").replace("<", "&lt;")
