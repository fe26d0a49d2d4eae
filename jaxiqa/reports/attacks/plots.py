"""Plots of the results of attacks. Every function returns the figure's PNG bytes."""

from matplotlib.figure import Figure

from jaxiqa.reports.attacks.summary import Summary, column, overall
from jaxiqa.reports.drawing import COLOURS, MARKERS, legend, png, set_title, told_apart


def tradeoff(summary: Summary) -> bytes:
    """Plot robustness against correlation, one panel per attack: right is more accurate, down is more robust."""
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
    legend(figure, panels)
    return png(figure)


def curves(summary: Summary) -> bytes:
    """Plot mean gain over strength, or one point without strengths; a panel per attack, 95 % intervals over images."""
    figure, panels = _panels(summary, height=3.4)
    names, titles = told_apart(summary.models), told_apart(summary.attacks)
    for panel, (attack, epsilons) in zip(panels, summary.attacks.items(), strict=True):
        for number, model in enumerate(summary.models):
            cells = [(e, summary.cells.get((model, column("AbsGain", attack, e)))) for e in epsilons]
            found = [(e, value) for e, value in cells if value]
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
            x = [255 * e if isinstance(e, float | int) else epsilons.index(e) for e, _ in found]
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
    legend(figure, panels)
    return png(figure)


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
