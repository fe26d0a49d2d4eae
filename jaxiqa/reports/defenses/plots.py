"""Plots of defenses, after Figures 1 and 3 of the defense benchmark.

"Guardians of Image Quality: Benchmarking Defenses Against Adversarial Attacks on Image Quality Metrics",
arXiv:2408.01541.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxiqa.reports.defenses.summary import ADAPTIVE, MATCHED, TRANSFER, Defenses
from jaxiqa.reports.drawing import extremes, inches, legend, png, set_title, style, told_apart
from jaxiqa.reports.section import Drawing
from jaxiqa.reports.strengths import format_strength, in_order
from jaxiqa.results.rows import UNDEFENDED

BANDS = 6
"""With more defenses than this, intervals are not drawn, since they would hide one another."""


MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    TRANSFER: ("transferred attacks", {"marker": "o", "markersize": 8}),
    ADAPTIVE: ("adaptive attacks", {"marker": "o", "markersize": 8, "markerfacecolor": "none"}),
    MATCHED: ("the same attacks, transferred", {"marker": ".", "markersize": 4}),
}
"""View -> what its markers are called, and their look; their shape and colour are those of the defense."""


def tradeoff(defenses: Defenses) -> Drawing:
    """Plot D against quality, and against the agreement with human scores.

    After Figure 1. Filled markers: the adversarial set. Hollow markers: adaptive attacks, each connected to a grey dot
    for the same attacks without knowledge of the defense.
    """
    columns = [name for name in ("Q", "SROCC adv") if any(name in defenses.view(d, TRANSFER) for d in defenses.labels)]
    figure = Figure(figsize=(6.2 * max(len(columns), 1), 5.4 + 0.05 * len(defenses.labels)), layout="constrained")
    panels = figure.subplots(1, max(len(columns), 1), squeeze=False)[0]
    names, described = told_apart(defenses.labels), []
    drawn: set[str] = set()
    for panel, name in zip(panels, columns, strict=False):
        better = {}
        for number, label in enumerate(defenses.labels):
            numbers = {view: defenses.view(label, view) for view in (TRANSFER, MATCHED, ADAPTIVE)}
            points = {view: (n["D"].mean, n[name].mean) for view, n in numbers.items() if name in n}
            if TRANSFER in points:
                panel.plot(*points[TRANSFER], linestyle="", markersize=8, label=names[label], **style(number))
                drawn.add(TRANSFER)
                better[label] = points[TRANSFER][1]
            if ADAPTIVE in points and label != UNDEFENDED:
                ends, colour = np.array([points[MATCHED], points[ADAPTIVE]]).T, style(number)["color"]
                panel.plot(*ends, color=colour, linewidth=0.8, alpha=0.6)
                panel.plot(*points[MATCHED], ".", color="#999999", markersize=4)
                panel.plot(*points[ADAPTIVE], linestyle="", markersize=8, markerfacecolor="none", **style(number))
                drawn |= {ADAPTIVE, MATCHED}
        described.append(f"{name}: {extremes(better)}")
        panel.set(xlabel="D, % of the score range (← better)", ylabel=f"{name} (↑ better)")
        _tidy(panel)
    for view, (text, look) in MARKS.items():
        if view in drawn and len(panels):  # without data: an entry of the legend
            panels[0].add_line(
                Line2D([], [], color="#999999", linestyle="", label=told_apart([*defenses.labels, text])[text], **look)
            )
    legend(figure, panels, fontsize=8)
    distances = [
        f"{view}: {extremes({d: n['D'].mean for d in defenses.labels if (n := defenses.view(d, view))}, 2)}"
        for view in (TRANSFER, ADAPTIVE)
        if view in drawn
    ]
    return Drawing(
        "Defenses: distance from the clean score against quality and order",
        f"One marker per defense. Across: D, {'; '.join(distances)}. Up, against transferred attacks, "
        f"{'; '.join(described)}.",
        "Left is closer to the clean score, up is better. Filled: transferred attacks. Hollow: adaptive attacks, each "
        "with a line to the grey dot of the same attacks made without knowledge of the defense. Means over models, "
        "seeds, attacks and strengths; their intervals are in the tables.",
        png(figure),
    )


def by_attack(defenses: Defenses) -> Drawing:
    """Plot Figure 3 (a): D of every defense for every attack, over all strengths; one panel per mode."""
    views = [view for view in (TRANSFER, ADAPTIVE) if any(defenses.chosen(d, view) for d in defenses.labels)]
    attacks = list(dict.fromkeys(cell.key.attack for cell in defenses.cells))
    grids = {}
    for view in views:
        table = [[defenses.view(label, view, attack=attack) for attack in attacks] for label in defenses.labels]
        grids[view] = np.array([[n["D"].mean if n else np.nan for n in row] for row in table])
    shown = {view: ~np.isnan(grid).all(axis=0) for view, grid in grids.items()}
    widths = [max(int(shown[view].sum()), 1) for view in views] or [1]
    rows, titles = told_apart(defenses.labels), told_apart(attacks)
    # Long names are vertical: slanted ones would need a panel's width on the left.
    turned = {"rotation": 60, "ha": "right"} if inches(titles.values(), 8) < 1.3 else {"rotation": 90}
    wide, high = (inches(names.values(), 8) for names in (rows, titles))
    size = (0.5 + wide + 0.72 * max(sum(widths), 2 * len(widths)), 0.8 + high + 0.3 * len(defenses.labels))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(widths), squeeze=False, sharey=True, width_ratios=widths)[0]
    most = max((np.nanmax(grid) for grid in grids.values() if not np.isnan(grid).all()), default=1.0)
    for panel, view in zip(panels, views, strict=False):
        grid = grids[view][:, shown[view]]
        panel.imshow(grid, cmap="YlOrRd", vmin=0, vmax=most, aspect="auto")
        for (row, column), value in np.ndenumerate(grid):
            if not np.isnan(value):
                colour = "white" if value > 0.6 * most else "black"
                panel.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color=colour)
        names = [titles[attack] for attack, there in zip(attacks, shown[view], strict=True) if there]
        panel.set_xticks(range(len(names)), names, **turned, fontsize=8)
        panel.set_yticks(range(len(defenses.labels)), rows.values(), fontsize=8)
        panel.set_title(f"D, {view}", fontsize=9)
    described = [
        f"{attack}, {view}: {extremes(dict(zip(defenses.labels, grids[view][:, number].tolist(), strict=True)), 1)}"
        for view in views
        for number, attack in enumerate(attacks)
        if shown[view][number] and not np.isnan(grids[view][:, number]).any()
    ]
    return Drawing(
        "Defenses: distance from the clean score, by attack",
        f"A table of numbers, one row per defense, one column per attack. {'. '.join(described)}.",
        "D over all strengths of an attack; darker is farther from the clean score. White: not run.",
        png(figure),
    )


def by_strength(defenses: Defenses) -> Drawing:
    """Plot Figure 3 (b): D of every defense over the strength of the attacks, with 95 % intervals over images.

    Attacks with aligned strengths share one panel; others have one each.
    """
    groups: dict[str | None, dict[str, object]] = {}
    for cell in defenses.cells:
        level = isinstance(cell.key.strength, str)
        if cell.key.strength is not None:
            groups[None if level else cell.key.attack] = {} if level else {"attack": cell.key.attack}
    count, titles = max(len(groups), 1), told_apart(attack for attack in groups if attack)
    wide = min(count, 3)
    rows = -(-count // wide)
    figure = Figure(figsize=(4.6 * wide, 3.9 * rows + 0.12 * len(defenses.labels)), layout="constrained")
    panels = figure.subplots(rows, wide, squeeze=False).ravel()
    for panel in panels[len(groups) :]:
        panel.set_visible(False)
    for panel, (attack, only) in zip(panels, groups.items(), strict=False):
        _lines(panel, defenses, only, levels=not only)
        set_title(panel, titles[attack] if attack else "aligned attacks", room=3.7)
        panel.set_ylabel("D, transfer (↓ better)")
        _tidy(panel)
    legend(figure, panels[: len(groups)], fontsize=8)
    described = []
    for attack, only in groups.items():
        views = {label: defenses.view(label, TRANSFER, **only) for label in defenses.labels}
        distances = {label: n["D"].mean for label, n in views.items() if n}
        described.append(f"{attack or 'aligned attacks'}, over all strengths: {extremes(distances, 2)}")
    bands = "Bands and bars: 95 % intervals over the images."
    if len(defenses.labels) > BANDS:
        bands = (
            f"Bars: 95 % intervals over the images. Lines are without: more than {BANDS} bands would hide one another."
        )
    return Drawing(
        "Defenses: distance from the clean score, by strength",
        f"One line per defense, or one point where there is one strength. {'. '.join(described)}.",
        f"Transferred attacks; lower is better. {bands}",
        png(figure),
    )


def _lines(panel: Axes, defenses: Defenses, only: dict[str, object], *, levels: bool) -> None:
    keys = [cell.key for cell in defenses.cells if all(getattr(cell.key, k) == v for k, v in only.items())]
    strengths = in_order({key.strength for key in keys if isinstance(key.strength, str) == levels and key.strength})
    places = [255 * e if isinstance(e, float | int) else place for place, e in enumerate(strengths)]
    names = told_apart(defenses.labels)
    for number, label in enumerate(defenses.labels):
        found = [defenses.view(label, TRANSFER, strength=strength, **only) for strength in strengths]
        points = [(x, n["D"]) for x, n in zip(places, found, strict=True) if n]
        if points:
            x, means = [x for x, _ in points], [d.mean for _, d in points]
            low, high = zip(*(d.interval or (d.mean, d.mean) for _, d in points), strict=True)
            look: dict[str, Any] = {"markersize": 4, "linewidth": 1, "label": names[label], **style(number)}
            if len(points) == 1:
                shift = 0.3 * ((number + 0.5) / len(defenses.labels) - 0.5)  # so that no bar hides another
                reach = [[means[0] - low[0]], [high[0] - means[0]]]
                panel.errorbar([x[0] + shift], means, yerr=reach, capsize=3, **look)
                continue
            panel.plot(x, means, **look)
            if len(defenses.labels) <= BANDS:
                panel.fill_between(x, low, high, color=look["color"], alpha=0.08, linewidth=0)
    if levels:
        panel.set_xticks(places, [format_strength(strength) for strength in strengths])
    else:
        panel.set_xlabel("ε · 255")
        if len(places) == 1:
            panel.set_xticks(places)
    if len(places) == 1:
        panel.set_xlim(places[0] - 0.5, places[0] + 0.5)


def _tidy(panel: Axes) -> None:
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
