"""The table and the plot of what attacks leave of the order of labelled images."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from jaxiqa.core.halves import low_half
from jaxiqa.measures.correlation import srocc
from jaxiqa.measures.ranks import bootstrap_difference, combined, worst_srocc
from jaxiqa.reports.drawing import extremes, legend, png, style, told_apart
from jaxiqa.reports.section import Drawing
from jaxiqa.reports.strengths import as_number, in_255ths
from jaxiqa.reports.table import Entry, Table
from jaxiqa.reports.tidy import Line
from jaxiqa.results.engine import Rows
from jaxiqa.results.rows import CLEAN, RankRow

Scores = dict[str, np.ndarray]
"""Attack -> attacked scores, in the order of the images."""


Cell = tuple[str, int, float]
"""(model, seed, ε), ε = 0 for clean images."""


@dataclass(frozen=True)
class Left:
    """What is left of the order for one model at one strength, per seed.

    Attributes:
        seeds: in the order of all numbers per seed.
        srocc: the worst SROCC; without an attack, the clean one.
        attacks: the attack that left it.
        gain: mean movement against the order by the strongest attack of each image, in deviations of clean scores.
        difference: worst SROCC minus that of the first model, mean over seeds, and the ends of its 95 % interval by
            the paired bootstrap over images; None for the first model, without a seed that both have, and where all
            scores of the first model are equal.
    """

    seeds: tuple[int, ...]
    srocc: tuple[float, ...]
    attacks: tuple[str, ...]
    gain: tuple[float, ...]
    difference: tuple[float, float, float] | None


@dataclass(frozen=True)
class Order:
    """All of it: (model, ε) -> `Left`, with ε = 0 for clean images, and the slopes.

    Attributes:
        models: names, the first is the baseline.
        epsilons: strengths, without 0.
        left: the numbers.
        slopes: model -> seed -> the mean slope: change of the score per 1/255, as a share of the score range.
        images: number of images.
        missing: what could not be computed, and why.
        attacks: names of those that were run at any strength.
    """

    models: tuple[str, ...]
    epsilons: tuple[float, ...]
    left: Mapping[tuple[str, float], Left]
    slopes: Mapping[str, Mapping[int, float]]
    images: int
    missing: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()


def _named(attacks: Sequence[str]) -> str:
    """Return the names of attacks; the one without gradients may run at few strengths, transfer has a name per model.

    >>> _named(["APGD-20", "Square-1000", "transfer from base", "transfer from robust"])
    'APGD-20; Square-1000 at some ε; PGD-10 on the other models of the table'
    """
    own = [f"{name} at some ε" if name.startswith("Square") else name for name in attacks if "transfer" not in name]
    return "; ".join([*own, *(["PGD-10 on the other models of the table"] if len(own) < len(attacks) else [])])


def summarise_order(
    rows: Sequence[RankRow] | Rows, models: Sequence[str], ends: Mapping[tuple[str, int], tuple[float, float]]
) -> Order | None:
    """Return the numbers from rows; None without rows.

    Args:
        rows: rows of present attacks and strengths. A strength at which a model lacks rows that others have is left
            out for it.
        models: names in the order of the table; the first is the baseline.
        ends: (model, seed) -> the ends of its scale.
    """
    rows = Rows.of(rows, RankRow)
    ((images,),) = rows.select("count(DISTINCT image)")
    complete = _complete(rows, images)
    if not complete:
        return None
    mos = _of_images(rows, next(iter(complete)), "mos", "GROUP BY image ORDER BY image")
    seeds = sorted({seed for _, seed, _ in complete})
    epsilons = tuple(sorted({epsilon for *_, epsilon in complete}))
    left, slopes, missing = {}, {}, []
    for model in models:
        for epsilon in epsilons:
            present = [seed for seed in seeds if {(model, seed, epsilon), (model, seed, 0.0)} <= complete.keys()]
            if present:
                first = models[0] if model != models[0] else None
                try:
                    left[model, epsilon] = _left(complete, model, first, epsilon, present, mos)
                except ValueError as error:  # a correlation of equal scores
                    missing.append(f"{model} at ε = {in_255ths(epsilon)}: {error}")
        clean = [(model, seed, 0.0) for seed in seeds if (model, seed, 0.0) in complete and (model, seed) in ends]
        unattacked = rows.only(attack=CLEAN)
        means = {key: np.mean(_of_images(unattacked, key, "slope", "GROUP BY image ORDER BY image")) for key in clean}
        slopes[model] = {key[1]: float(mean / (ends[key[:2]][1] - ends[key[:2]][0])) for key, mean in means.items()}
    attacks = rows.where("attack <> ?", CLEAN).select("attack", "GROUP BY attack ORDER BY min(place)")
    names = tuple(attack for (attack,) in attacks)
    return Order(tuple(models), epsilons[1:], left, slopes, images, tuple(missing), names)


def _complete(rows: Rows, images: int) -> dict[Cell, Scores]:
    """Return the scores of the cells in which every attack has all images, in the order of the rows."""
    cells: dict[Cell, dict[str, int]] = defaultdict(dict)
    for model, seed, epsilon, attack, count in rows.select(
        "model, seed, epsilon, attack, count(DISTINCT image)", "GROUP BY ALL ORDER BY min(place)"
    ):
        cells[model, seed, epsilon][attack] = count
    found = {}
    for key, counts in cells.items():
        if all(count == images for count in counts.values()):
            values = _of_images(rows, key, "attacked", "GROUP BY attack, image ORDER BY attack, image")
            by_attack = dict(zip(sorted(counts), values.reshape(-1, images), strict=True))
            found[key] = {attack: by_attack[attack] for attack in counts}
    return found


def _of_images(rows: Rows, key: Cell, field: str, order: str) -> np.ndarray:
    """Return a field of a cell; of several rows of an image the last one counts."""
    model, seed, epsilon = key
    (values,) = rows.only(model=model, seed=seed, epsilon=epsilon).arrays(f"arg_max({field}, place)", order)
    return values


def _left(
    complete: Mapping[Cell, Scores],
    model: str,
    baseline: str | None,
    epsilon: float,
    seeds: Sequence[int],
    mos: np.ndarray,
) -> Left:
    def scores(name: str, seed: int, strength: float) -> Scores:
        """Return the scores of each attack; the clean image is in every ball."""
        return {**complete[name, seed, 0.0], **complete[name, seed, strength]}

    def worst(name: str, seed: int) -> np.ndarray:
        found = scores(name, seed, epsilon)
        label = worst_srocc(found, mos)[1]
        return found.get(label, combined(found, mos))

    values, names, gains = [], [], []
    away = np.where(low_half(mos), 1.0, -1.0)
    for seed in seeds:
        found = scores(model, seed, epsilon)
        value, label = worst_srocc(found, mos) if epsilon else (srocc(found[CLEAN], mos), CLEAN)
        values.append(value)
        names.append(label)
        gains.append(float((away * (combined(found, mos) - found[CLEAN])).mean() / found[CLEAN].std(ddof=1)))
    difference = None
    both = [seed for seed in seeds if {(baseline, seed, 0.0), (baseline, seed, epsilon)} <= complete.keys()]
    if baseline is not None and both:
        with contextlib.suppress(ValueError):  # all scores of the baseline are equal: its own row says so
            ours, theirs = (np.stack([worst(name, seed) for seed in both]) for name in (model, baseline))
            difference = bootstrap_difference(ours, theirs, mos)
    return Left(tuple(seeds), tuple(values), tuple(names), tuple(gains), difference)


def order_tables(order: Order) -> list[Table]:
    """Return the table, one line per model, and the long one, one line per model and strength."""
    strengths = (0.0, *order.epsilons)
    header = ["model", "SROCC", *(f"@ {in_255ths(e)}" for e in order.epsilons), "slope"]
    lines: list[list[str | Entry]] = []
    for model in order.models:
        cells = [order.left.get((model, e)) for e in strengths]
        lines.append(
            [
                model,
                *(_several(cell.srocc if cell else None) for cell in cells),
                _several(tuple(order.slopes[model].values())),
            ]
        )
    notes = [
        f"SROCC of {order.images} images with human scores: clean, and the worst after attacks of Linf radius ε that "
        f"raise the half of the images with the lower human scores and lower the others: {_named(order.attacks)}; and "
        "for each image the strongest of them.",
        "slope: mean l1 norm of the gradient at clean images, as a share of the score range per 1/255: the gain of the "
        "weakest attacks, before scores saturate.",
        "Below 0, images that people prefer have the lower scores.",
        *(f"Missing: {what}." for what in order.missing),
    ]
    long: list[list[str | Entry]] = []
    for epsilon in strengths:
        for model in order.models:
            if cell := order.left.get((model, epsilon)):
                against: Entry = ("–", None)
                if cell.difference is not None:
                    found, low, high = cell.difference
                    against = f"{found:+.3f} ({low:+.3f} to {high:+.3f})", found
                long.append(
                    [
                        in_255ths(epsilon),
                        model,
                        ", ".join(dict.fromkeys(cell.attacks)),
                        _several(cell.srocc),
                        against,
                        _several(cell.gain),
                    ]
                )
    more = [
        "Against the first model: difference of the two worst SROCC on the same images, mean over seeds, with its 95 % "
        "interval by the paired bootstrap over images (2,000 draws).",
        "Gain: mean movement against the order by the strongest attack of each image, in standard deviations of the "
        "model's clean scores, so that a smaller range of scores does not lower it.",
    ]
    columns = ["ε", "model", "worst attack", "SROCC", "against the first model, 95 %", "gain"]
    return [
        Table("What attacks leave of the order", header, lines, notes),
        Table("The order at every strength", columns, long, more, text=3, folded=True),
    ]


def tidy_lines(order: Order) -> Iterator[Line]:
    """Yield the numbers for `jaxiqa.reports.tidy.tidy_csv`; the worst SROCC names the attack that left it.

    >>> left = {("base", 0.0): Left((7,), (0.5,), ("none",), (0.0,), None)}
    >>> for line in tidy_lines(Order(("base",), (), left, {"base": {7: 0.25}}, 9)):
    ...     print(*line, sep=",")
    base,7,none,0.0,,worst SROCC,0.5,,
    base,7,none,0.0,,gain against the order,0.0,,
    base,7,,,,slope,0.25,,
    """
    for (model, epsilon), left in order.left.items():
        for seed, attack, worst, gain in zip(left.seeds, left.attacks, left.srocc, left.gain, strict=True):
            where = (model, str(seed), attack, as_number(epsilon), "")
            yield *where, "worst SROCC", repr(worst), "", ""
            yield *where, "gain against the order", repr(gain), "", ""
    for model, slopes in order.slopes.items():
        for seed, value in slopes.items():
            yield model, str(seed), "", "", "", "slope", repr(value), "", ""


def _several(values: tuple[float, ...] | None) -> Entry:
    if not values:
        return "–", None
    mean = float(np.mean(values))
    return (f"{mean:.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else f"{mean:.3f}"), mean


def order_plot(order: Order) -> Drawing:
    """Plot the worst SROCC over the strength, from clean images on; one line per model."""
    figure = Figure(figsize=(5.2, 3.6 + 0.12 * len(order.models)), layout="constrained")
    panel, names = figure.subplots(), told_apart(order.models)
    places = {epsilon: place for place, epsilon in enumerate((0.0, *order.epsilons))}
    seeds = max((len(left.srocc) for left in order.left.values()), default=0)
    for number, model in enumerate(order.models):
        found = [(places[e], order.left[model, e].srocc) for e in places if (model, e) in order.left]
        if found:
            x, values = zip(*found, strict=True)
            means = [np.mean(value) for value in values]
            spread = [np.std(value, ddof=1) if len(value) > 1 else 0.0 for value in values]
            bars = spread if any(spread) else None
            panel.errorbar(x, means, yerr=bars, capsize=2, markersize=5, label=names[model], **style(number))
    panel.axhline(0, color="#999999", linewidth=0.8)
    panel.set_xticks(range(len(places)), ["clean", *(f"{255 * e:.3g}" for e in order.epsilons)])
    panel.set(xlabel="ε · 255", ylabel="worst SROCC (↑ better)", ylim=(-1.05, 1.05))
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    legend(figure, [panel])
    described = [
        f"{in_255ths(e) if e else 'clean'}: "
        + extremes({m: float(np.mean(order.left[m, e].srocc)) for m in order.models if (m, e) in order.left})
        for e in places
    ]
    return Drawing(
        "Worst SROCC over the strength of attacks on the order",
        f"One line per model from clean images to the largest ε. {'. '.join(described)}.",
        f"Bars: ± the standard deviation over {seeds} seeds."
        if seeds > 1
        else "One seed, so no bars: nothing is known of the deviation between trainings.",
        png(figure),
    )
