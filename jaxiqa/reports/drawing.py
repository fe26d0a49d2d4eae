"""Common parts of all plots: colours, markers, labels that fonts and mathtext can show, and the PNG file."""

import io
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

COLOURS = ("#1f6f8b", "#d1495b", "#e0a030", "#5b8c5a", "#7d5ba6", "#444444", "#c77dba", "#3bb0c9", "#9c6b30", "#8a8a8a")


MARKERS = "osD^vP*Xh"  # one fewer than colours, so that a style repeats only after 90 models


LONGEST = 32
"""Largest number of characters of a name in a plot; longer names lose their middle."""


DPI = 140
"""Dots per inch of a plot's file."""


SMALL = 9
"""Font size in points of titles and legends."""


def plain(name: str, longest: int = LONGEST) -> str:
    """Return a name for plots: no formula, no entry that a legend hides, codes for letters that the font lacks.

    >>> plain("$x$"), plain("_a"), plain("城"), plain("n" * 50) == "n" * 16 + "…" + "n" * 15
    ('\\\\$x\\\\$', ' _a', '\\\\u57ce', True)
    """
    known = _letters()
    shown = "".join(c if ord(c) in known else c.encode("ascii", "backslashreplace").decode() for c in name)
    if len(shown) > longest:
        shown = f"{shown[: longest // 2]}…{shown[1 - longest // 2 :]}"
    shown = f" {shown}" if shown.startswith("_") else shown
    return shown.replace("$", r"\$")


def told_apart(names: Iterable[str]) -> dict[str, str]:
    """Return each name as a plot shows it; names that `plain` makes equal are numbered.

    >>> list(told_apart(["n" * 40, "n" * 41]).values()) == [plain("n" * 40), plain("n" * 40) + " (2)"]
    True
    """
    shown: dict[str, str] = {}
    for name in names:
        text, number = plain(name), 1
        while text in shown.values():
            number += 1
            text = f"{plain(name)} ({number})"
        shown[name] = text
    return shown


def extremes(values: Mapping[str, float], digits: int = 3) -> str:
    """Return the lowest and the highest of some numbers with their names, for the text that describes a plot.

    >>> extremes({"a": 0.5, "b": 0.25, "c": 0.3}), extremes({"a": 0.5}), extremes({})
    ('lowest b 0.250, highest a 0.500', 'a 0.500', 'no value')
    """
    if not values:
        return "no value"
    low, high = min(values, key=lambda name: values[name]), max(values, key=lambda name: values[name])
    lowest, highest = (f"{name} {values[name]:.{digits}f}" for name in (low, high))
    return lowest if low == high else f"lowest {lowest}, highest {highest}"


def style(number: int) -> dict[str, Any]:
    """Return colour and marker of the model or defense with this number.

    >>> style(0)
    {'color': '#1f6f8b', 'marker': 'o'}
    """
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def inches(names: Iterable[str], points: float | int) -> float:
    """Return the width of the widest name, written horizontally."""
    outlines = [TextPath((0, 0), name, size=points).vertices for name in names if name.strip()]
    return max((float(np.ptp(outline[:, 0])) / 72 for outline in outlines), default=0.0)


def set_title(panel: Axes, title: str, *, room: float) -> None:
    """Write a title, with a smaller font if it is wider than ``room`` inches."""
    panel.set_title(title, fontsize=SMALL * min(1.0, room / max(inches([title], SMALL), 1e-3)))


@cache
def _letters() -> frozenset[int]:
    """Return the characters of the plots' font."""
    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())


def legend(figure: Figure, panels: Iterable[Axes], *, fontsize: float | int = SMALL) -> None:
    """Draw one legend for all panels; it also lists what some panels lack."""
    entries = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    if entries:
        room, wide = figure.get_figwidth() - 0.8, inches(entries, fontsize)  # a marker takes less than 0.8
        columns = min(len(entries), 5, max(int((room + 0.8) / (wide + 0.8)), 1))
        fontsize *= min(1.0, room / max(wide, 1e-3))
        labels = {"handles": entries.values(), "labels": entries.keys()}
        figure.legend(**labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=fontsize)


def png(figure: Figure, *, dpi: int = DPI) -> bytes:
    """The figure as a PNG file.

    >>> png(Figure(figsize=(1, 1)))[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
