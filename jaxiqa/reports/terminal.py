"""How a table fits a terminal: its columns in parts below one another, so that no number is cut or broken."""

from collections.abc import Sequence

from rich.cells import cell_len

Part = list[tuple[int, int]]
"""Columns that are shown side by side: index and width in characters."""

BORDER, GAP = 1, 3
"""Characters of a table's left border, and of each column's padding and right border."""

LONGEST_WORD = 12
"""A column of numbers is at least as wide as the words of its heading up to this length; longer ones are broken."""

NARROWEST = 4
"""Least width of a column of text, however narrow the terminal is."""


def layout(header: Sequence[str], rows: Sequence[Sequence[str]], text: int, room: int) -> list[Part]:
    """Return the parts of a table, each with all columns of text and as many columns of numbers as fit.

    A column of numbers is as wide as its widest cell. Columns of text are narrowed, the widest first, until numbers
    fill half the terminal, or all of them fit.

    Args:
        header: names of the columns.
        rows: texts of the cells.
        text: number of columns of text, from the left.
        room: width of the terminal in characters.

    >>> layout(["model", "a", "b"], [["base", "0.123", "4.567"]], 1, 80)
    [[(0, 5), (1, 5), (2, 5)]]
    >>> layout(["model", "a", "b"], [["a long name", "0.123", "4.567"]], 1, 20)
    [[(0, 6), (1, 5)], [(0, 6), (2, 5)]]
    """
    cells = [[cell_len(row[i]) for row in rows] for i in range(len(header))]
    wide = [max(of, default=1) for of in cells]
    for i, name in enumerate(header):
        words = [name] if i < text else name.split()
        wide[i] = max(wide[i], min(max(map(cell_len, words), default=1), LONGEST_WORD))
    numbers = [width + GAP for width in wide[text:]]
    beside = max(max(numbers, default=0), min(sum(numbers), room // 2))
    wide[:text] = narrowed(wide[:text], room - BORDER - text * GAP - beside)
    first = [(i, wide[i]) for i in range(text)]
    found: list[Part] = []
    left = 0
    for i in range(text, len(header)):
        if not found or wide[i] + GAP > left:
            found.append(list(first))
            left = room - BORDER - sum(width + GAP for _, width in first)
        found[-1].append((i, wide[i]))
        left -= wide[i] + GAP
    return found or [first]


def narrowed(widths: Sequence[int], room: int) -> list[int]:
    """Return widths whose sum is at most ``room``: the widest are cut to one width, at least `NARROWEST`.

    >>> narrowed([5, 40, 30], 45), narrowed([5, 6], 45)
    ([5, 20, 20], [5, 6])
    """
    most = max(widths, default=0)
    while sum(min(width, most) for width in widths) > room and most > NARROWEST:
        most -= 1
    return [min(width, most) for width in widths]
