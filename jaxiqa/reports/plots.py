"""Pictures of the table. Every function returns the figure's PNG bytes."""

import io
from collections.abc import Iterable
from functools import cache

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from jaxiqa.reports.summary import Summary, column, overall

COLOURS = ("#1f6f8b", "#d1495b", "#e0a030", "#5b8c5a", "#7d5ba6", "#444444", "#c77dba", "#3bb0c9", "#9c6b30", "#8a8a8a")
MARKERS = "osD^vP*Xh"  # one fewer than colours, so that a style repeats only after 90 models

LONGEST = 32
"""Characters of a name in a plot; of a longer one the middle is left out."""

SMALL = 9
"""Points of titles and legends."""


def plain(name: str, longest: int = LONGEST) -> str:
    """A name as a plot can show it: no formula, no entry that a legend hides, letters that the font lacks as codes.

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
    """Each name as a plot shows it; those that `plain` makes equal are numbered.

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


def inches(names: Iterable[str], points: float | int) -> float:
    """How wide the widest of them is, written horizontally."""
    outlines = [TextPath((0, 0), name, size=points).vertices for name in names if name.strip()]
    return max((float(np.ptp(outline[:, 0])) / 72 for outline in outlines), default=0.0)


def set_title(panel: Axes, title: str, *, room: float) -> None:
    """Write a title, smaller where it is wider than ``room`` inches."""
    panel.set_title(title, fontsize=SMALL * min(1.0, room / max(inches([title], SMALL), 1e-3)))


@cache
def _letters() -> frozenset[int]:
    """The characters of the font that plots are written in."""
    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())


def tradeoff(summary: Summary) -> bytes:
    """Robustness against correlation, one panel per attack: right is more accurate, down is more robust."""
    figure, panels = _panels(summary, height=3.4)
    names, titles = told_apart(summary.models), told_apart(summary.attacks)
    for panel, (attack, epsilons) in zip(panels, summary.attacks.items(), strict=True):
        name = overall("AbsGain", attack, epsilons)
        for number, model in enumerate(summary.models):
            x, y = summary.cells.get((model, "SROCC")), summary.cells.get((model, name))
            if x and y:
                panel.errorbar(
                    x.mean,
                    y.mean,
                    xerr=x.std or None,
                    yerr=y.std or None,
                    capsize=2,
                    markersize=8,
                    label=names[model],
                    **_style(number),
                )
        set_title(panel, titles[attack], room=2.4)
        panel.set(xlabel="SROCC →", ylabel=f"{name.removesuffix(attack)}(↓ better)")
        panel.margins(0.18)
    return _png(figure, panels)


def curves(summary: Summary) -> bytes:
    """Mean gain over strength, one panel per attack, with 95 % intervals over images; a point where there is none."""
    figure, panels = _panels(summary, height=3.4)
    names, titles = told_apart(summary.models), told_apart(summary.attacks)
    for panel, (attack, epsilons) in zip(panels, summary.attacks.items(), strict=True):
        for number, model in enumerate(summary.models):
            found = [(e, summary.cells.get((model, column("AbsGain", attack, e)))) for e in epsilons]
            found = [(e, value) for e, value in found if value]
            if not found:
                continue
            means = [value.mean for _, value in found]
            low, high = zip(*(value.interval or (value.mean, value.mean) for _, value in found), strict=True)
            if None in epsilons:
                reach = [[means[0] - low[0]], [high[0] - means[0]]]
                panel.errorbar(
                    [number], means, yerr=reach, capsize=3, label=names[model], markersize=8, **_style(number)
                )
                continue
            levels = isinstance(epsilons[0], str)
            x = [epsilons.index(e) if levels else 255 * e for e, _ in found]
            panel.plot(x, means, label=names[model], markersize=5, **_style(number))
            panel.fill_between(x, low, high, color=_style(number)["color"], alpha=0.15, linewidth=0)
        set_title(panel, titles[attack], room=2.4)
        panel.set_ylabel("AbsGain (↓ better)")
        if None in epsilons:
            panel.set_xticks([])
            panel.set_xlim(-0.7, len(summary.models) - 0.3)
        elif isinstance(epsilons[0], str):
            panel.set_xticks(range(len(epsilons)), epsilons)
        else:
            panel.set_xlabel("ε · 255")
        panel.axhline(0, color="#999999", linewidth=0.8)
    return _png(figure, panels)


def _panels(summary: Summary, *, height: float) -> tuple[Figure, list]:
    count = max(len(summary.attacks), 1)
    wide = min(count, 4)
    rows = -(-count // wide)
    figure = Figure(
        figsize=(3.3 * wide + 0.4, height * rows + 0.25 * len(summary.models) / wide + 0.4), layout="constrained"
    )
    axes = figure.subplots(rows, wide, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.set_visible(False)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[: len(summary.attacks)])


def _style(number: int) -> dict:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def legend(figure: Figure, panels: Iterable[Axes], *, fontsize: float | int = SMALL) -> None:
    """One legend for all panels: what is missing from some is not missing from the legend."""
    entries = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    if entries:
        room, wide = figure.get_figwidth() - 0.8, inches(entries, fontsize)  # a marker takes less than 0.8
        columns = min(len(entries), 5, max(int((room + 0.8) / (wide + 0.8)), 1))
        fontsize *= min(1.0, room / max(wide, 1e-3))
        labels = {"handles": entries.values(), "labels": entries.keys()}
        figure.legend(**labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=fontsize)


def _png(figure: Figure, panels: list) -> bytes:
    legend(figure, panels)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    return buffer.getvalue()
