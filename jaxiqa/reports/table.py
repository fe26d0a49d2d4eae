"""A table for reading: as HTML, which can be sorted, and as Markdown."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import table as rich_table
from rich.text import Text

Entry = tuple[str, float | None]
"""The text shown, and the number for sorting; None is a dash, and stays last."""


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: heading of the table.
        header: names of the columns.
        rows: per row, text or an `Entry` for each column.
        notes: definitions of the numbers, for notes below the table.
        text: number of text columns, from the left.
        folded: shown on request, and not sortable.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Entry]]
    notes: Sequence[str] = field(default=())
    text: int = 1
    folded: bool = False

    def render(self) -> rich_table.Table:
        """Return the table for the terminal, without intervals, for which it is too narrow."""
        table = rich_table.Table(title=Text(self.title, "table.title"), title_justify="left")
        for number, name in enumerate(self.header):
            table.add_column(Text(name), justify="left" if number < self.text else "right", no_wrap=number == 0)
        for row in self.rows:
            table.add_row(*(Text(item if isinstance(item, str) else item[0].partition(" ±")[0]) for item in row))
        return table

    def markdown(self) -> list[str]:
        """Return the lines of the table.

        >>> Table("", ["a", "b"], [["x|y", ("0.50", 0.5)]]).markdown()
        ['| a | b |', '|---|---:|', '| x\\\\|y | 0.50 |']
        """
        rule = "|" + "---|" * self.text + "---:|" * (len(self.header) - self.text)
        shown = [[item if isinstance(item, str) else item[0] for item in row] for row in (self.header, *self.rows)]
        head, *body = ["| " + " | ".join(map(as_markdown, row)) + " |" for row in shown]
        return [head, rule, *body]

    def markdown_notes(self) -> list[str]:
        """Return the notes as lines of a list.

        >>> Table("", [], [], ["*a* is b"]).markdown_notes()
        ['- \\\\*a\\\\* is b']
        """
        return [f"- {as_markdown(note)}" for note in self.notes]


def as_markdown(text: str) -> str:
    """Escape text for Markdown: no markup, no link, no HTML, no formula, no end of a cell.

    >>> print(as_markdown("a_b | <b> $x$ _c_"))
    a_b \\| &lt;b> \\$x\\$ \\_c\\_
    """
    text = re.sub(r"[\\|`*\[$~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)  # _ inside a word is no markup
    return text.replace("&", "&amp;").replace("<", "&lt;")
