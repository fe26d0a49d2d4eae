"""Plots of the results of attacks."""

import itertools
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxiqa.reports.attacks.differences import Difference
from jaxiqa.reports.attacks.gains import column, overall
from jaxiqa.reports.attacks.summary import Summary
from jaxiqa.reports.drawing import extremes, legend, png, set_title, style, told_apart
from jaxiqa.reports.section import Drawing
from jaxiqa.reports.strengths import format_strength
from jaxiqa.results.rows import StrengthKey

Point = tuple[StrengthKey, float, tuple[float, float] | None]
"""A strength, a value and its interval."""


def tradeoff(summary: Summary) -> Drawing:
    """Plot robustness against correlation, one panel per attack: right is more accurate, down is more robust."""
    figure, panels = _panels(summary, height=3.4)
    names, titles = told_apart(summary.models), told_apart(summary.attacks)
    several, described = len(summary.seeds) > 1, []
    for panel, (attack, epsilons) in zip(panels, summary.attacks.items(), strict=True):
        name, gains = overall("AbsGain", attack, epsilons), {}
        for number, model in enumerate(summary.models):
            x, y = summary.cells.get((model, "SROCC")), summary.cells.get((model, name))
            if x and y:
                low, high = (y.mean - y.std, y.mean + y.std) if several else y.interval or (y.mean, y.mean)
                panel.errorbar(
                    x.mean,
                    y.mean,
                    xerr=x.std if several else None,
                    yerr=[[y.mean - low], [high - y.mean]],
                    capsize=2,
                    markersize=8,
                    label=names[model],
                    **style(number),
                )
                gains[model] = y.mean
        described.append(f"{attack}: {extremes(gains)}")
        set_title(panel, titles[attack], room=2.4)
        panel.set(xlabel="SROCC →", ylabel=f"{name.removesuffix(attack)}(↓ better)")
        panel.margins(0.18)
    legend(figure, panels)
    right = extremes({model: cell.mean for model in summary.models if (cell := summary.cells.get((model, "SROCC")))})
    return Drawing(
        "Robustness against correlation with the labels",
        f"One panel per attack, one marker per model. Across: SROCC, {right}. Up: gain. {'. '.join(described)}.",
        "Right is more accurate, down is more robust. "
        + (
            f"Bars: ± the standard deviation over the {len(summary.seeds)} seeds."
            if several
            else "One seed, so nothing is known of the deviation between trainings. Vertical bars: 95 % intervals over "
            "the attacked images."
        ),
        png(figure),
    )


def curves(summary: Summary) -> Drawing:
    """Plot mean gain over strength, or one point without strengths; a panel per attack, 95 % intervals over images."""
    figure, panels = _panels(summary, height=3.4)
    names, titles = told_apart(summary.models), told_apart(summary.attacks)
    described = []
    for panel, (attack, epsilons) in zip(panels, summary.attacks.items(), strict=True):
        for number, model in enumerate(summary.models):
            cells = [(e, summary.cells.get((model, column("AbsGain", attack, e)))) for e in epsilons]
            points = [(e, value.mean, value.interval) for e, value in cells if value]
            look = {"label": names[model], "markersize": 5, **style(number)}
            if len(points) > 1:
                _band(panel, epsilons, points, look)
            elif points:
                _bars(panel, epsilons, points, look, (number + 0.5) / len(summary.models))
        set_title(panel, titles[attack], room=2.4)
        panel.set_ylabel("AbsGain (↓ better)")
        _axis(panel, epsilons)
        name = column("AbsGain", attack, epsilons[-1])
        strongest = {model: cell.mean for model in summary.models if (cell := summary.cells.get((model, name)))}
        at = "" if epsilons[-1] is None else f" at {format_strength(epsilons[-1])}"
        described.append(f"{attack}{at}: {extremes(strongest)}")
    legend(figure, panels)
    return Drawing(
        "Gain over the strength of the attack",
        f"One panel per attack, one line per model, or one point where there is one strength. {'. '.join(described)}.",
        "Bands and bars: 95 % intervals over the attacked images, each averaged over seeds. The grey line is no gain.",
        png(figure),
    )


def differences_plot(summary: Summary, found: Sequence[Difference]) -> Drawing:
    """Plot the difference of AbsGain from the first model over strength, with intervals; a panel per attack."""
    figure, panels = _panels(summary, height=3.2)
    names, titles = told_apart(summary.models), told_apart(summary.attacks)
    described = []
    for panel, (attack, epsilons) in zip(panels, summary.attacks.items(), strict=True):
        mine = [one for one in found if one.attack == attack and one.gain == "AbsGain" and one.strength in epsilons]
        for number, model in enumerate(summary.models[1:], start=1):
            points = [(one.strength, one.mean, one.interval) for one in mine if one.model == model]
            if points:
                look = {"label": names[model], "markersize": 5, **style(number)}
                _bars(panel, epsilons, points, look, number / len(summary.models))
        set_title(panel, titles[attack], room=2.4)
        panel.set_ylabel("difference of AbsGain (↓ better)", fontsize=9)
        _axis(panel, epsilons)
        at = "" if epsilons[-1] is None else f" at {format_strength(epsilons[-1])}"
        strongest = {one.model: one.mean for one in mine if one.strength == epsilons[-1]}
        described.append(f"{attack}{at}: {extremes(strongest)}")
    legend(figure, panels)
    return Drawing(
        f"Difference of AbsGain from {summary.models[0]}",
        f"One panel per attack, one line per model. {'. '.join(described)}.",
        f"Bars: 95 % intervals of the paired difference over the attacked images. Below the grey line the model gains "
        f"less than {summary.models[0]}; a bar that crosses the line decides nothing.",
        png(figure),
    )


def _band(panel: Axes, strengths: Sequence[StrengthKey], points: Sequence[Point], look: dict[str, Any]) -> None:
    """Draw the line of one model, and a band of its intervals."""
    x = [_place(strengths, strength) for strength, *_ in points]
    panel.plot(x, [mean for _, mean, _ in points], **look)
    low, high = zip(*(interval or (mean, mean) for _, mean, interval in points), strict=True)
    panel.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _bars(
    panel: Axes, strengths: Sequence[StrengthKey], points: Sequence[Point], look: dict[str, Any], share: float
) -> None:
    """Draw the points of one model with bars; ``share`` in [0, 1] moves it sideways, so that no bar hides another."""
    shift = 0.3 * (share - 0.5) * _step(strengths)
    x = [_place(strengths, strength) + shift for strength, *_ in points]
    reach = [(mean - ends[0], ends[1] - mean) if ends else (0.0, 0.0) for _, mean, ends in points]
    panel.errorbar(x, [mean for _, mean, _ in points], yerr=list(zip(*reach, strict=True)), capsize=3, **look)


def _place(strengths: Sequence[StrengthKey], strength: StrengthKey) -> float:
    """Return where a strength is on the axis: 255 ε, or its number among the levels."""
    return 255 * strength if isinstance(strength, float | int) else float(strengths.index(strength))


def _step(strengths: Sequence[StrengthKey]) -> float:
    """Return the smallest distance of two strengths on the axis; 1 for one."""
    places = [_place(strengths, strength) for strength in strengths]
    return min((b - a for a, b in itertools.pairwise(places)), default=1.0)


def _axis(panel: Axes, strengths: Sequence[StrengthKey]) -> None:
    places = [_place(strengths, strength) for strength in strengths]
    if len(places) == 1 or isinstance(strengths[0], str):
        panel.set_xlim(places[0] - 0.5, places[-1] + 0.5)
    if isinstance(strengths[0], float | int):
        panel.set_xlabel("ε · 255")
        if len(places) == 1:
            panel.set_xticks(places)
    elif strengths[0] is None:
        panel.set_xticks([])
    else:
        panel.set_xticks(places, [str(strength) for strength in strengths])
    panel.axhline(0, color="#999999", linewidth=0.8)


def _panels(summary: Summary, *, height: float) -> tuple[Figure, list[Axes]]:
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
