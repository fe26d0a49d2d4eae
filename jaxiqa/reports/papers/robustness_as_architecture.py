"""The two tables of "Robustness as Architecture: Designing IQA Models to Withstand Adversarial Perturbations",
arXiv:2506.04951: models against attacks; positions of the block and prunings.

Models are found by the names of their variants (`MODELS`, `POSITIONS`, `PRUNINGS`), attacks by their labels.
"""

from collections.abc import Collection, Mapping
from functools import partial

from jaxiqa.measures.robustness import abs_gain, r_score
from jaxiqa.reports.cells import Curves, Measure, infinite, over_seeds, over_strengths
from jaxiqa.reports.papers.paper import Paper, Run, common_notes, compared, differences, published, summarised
from jaxiqa.reports.table import Compared, Entry, Table

NAME = "robustness_as_architecture"
MODELS = {"base": "base", "nt": "NT", "at": "AT", "ours": "ours", "bottleneck": "bottleneck (control)"}
"""Variant -> its row in table 1."""
POSITIONS = {
    "base": "base",
    "nt": "NT",
    "at": "AT",
    **{
        f"{kind}_{position}": f"{label} {position}"
        for position in range(1, 7)
        for kind, label in (("position", "position"), ("bottleneck", "bottleneck (control)"))
    },
}
"""Variant -> its row in the first part of table 2."""
PRUNINGS = {f"prune_{name}": f"pruning {name}" for name in ("l1", "l2", "pls", "displs", "hsic")}
"""Variant -> its row in the second part of table 2."""
SWEPT = ("PGD-1", "PGD-3", "PGD-5", "PGD-8")
"""Attacks at several ε."""
SINGLE = ("UAP", "stAdv")
"""Attacks at one strength."""

MEASURES: dict[str, tuple[Measure, str]] = {
    "AbsGain": (abs_gain, "mean"),
    "RScore": (partial(r_score, variant="authors"), "trapezoid_2"),
}
"""Column -> measure, and how its area over ε is computed (`jaxiqa.measures.robustness.auc`)."""

DEFINITIONS = (
    "AbsGain = mean of s̃(attacked) − s̃(clean), signed: lower is more robust.",
    "RScore = mean of log₁₀( max(β₁ − s̃(attacked), s̃ − β₀) / |s̃(attacked) − s̃| ), β₁ the highest s̃(attacked), β₀ the "
    "lowest s̃: higher is more robust. It depends on the attack and the other images; the R-score of the table Results "
    "does not.",
    "AUC over ε: for AbsGain the mean over ε; for RScore trapezoids with a spacing of 2/255. The paper does not state "
    "its rules: these fit the size of the published numbers. An attack at one strength has the value itself.",
)
CONTROL = (
    "bottleneck (control): two 3×3 convolutions with the same places, channels and pruning as the block, and without "
    "orthogonality.",
)


def column(measure: str, attack: str) -> str:
    """Return the name of a column.

    >>> column("AbsGain", "PGD-1"), column("RScore", "stAdv")
    ('AbsGain AUC PGD-1', 'RScore stAdv')
    """
    return f"{measure} AUC {attack}" if attack in SWEPT else f"{measure} {attack}"


def tables(run: Run) -> list[Table]:
    """Return table 1 and, for Linearity, table 2."""
    scores = Curves(run.results)
    differ = {"What differs from the paper's protocol": differences(NAME, run)}
    first = Table(
        f"{PAPER.title}. Table 1: {run.metric} under attack",
        ["model", "SROCC", "PLCC", *(column(m, a) for a in (*SWEPT, *SINGLE) for m in MEASURES)],
        [[label, *_row(run, scores, "1", model, (*SWEPT, *SINGLE))] for model, label in MODELS.items()],
        [*common_notes(NAME, run), *DEFINITIONS, *CONTROL, *_left_out(run, scores, MODELS, (*SWEPT, *SINGLE))],
        lists=differ,
    )
    if run.metric != "linearity":
        return [first]
    rows = (POSITIONS | PRUNINGS).items()
    second = Table(
        f"{PAPER.title}. Table 2: {run.metric}, positions of the block and prunings",
        ["model", "what", "SROCC", "PLCC", *(column(m, "PGD-1") for m in MEASURES)],
        [[label, run.places.get(model, "–"), *_row(run, scores, "2", model, ("PGD-1",))] for model, label in rows],
        [*common_notes(NAME, run), *DEFINITIONS, *CONTROL, *_left_out(run, scores, POSITIONS | PRUNINGS, SWEPT[:1])],
        text=2,
        lists=differ,
    )
    return [first, second]


def _row(run: Run, scores: Curves, table: str, model: str, attacks: tuple[str, ...]) -> list[Compared]:
    cells: dict[str, Entry] = {name: summarised(run.summary, model, name) for name in ("SROCC", "PLCC")}
    for attack in attacks:
        cells |= _gains(run, scores, model, attack)
    return [compared(entry, published(NAME, run.metric, table, model, name)) for name, entry in cells.items()]


def _gains(run: Run, scores: Curves, model: str, attack: str) -> Mapping[str, Entry]:
    found = {}
    for name, (measure, rule) in MEASURES.items():
        values = [
            over_strengths(scores[key], measure, run.ends[key[:2]], rule=rule if attack in SWEPT else None)
            for seed in run.summary.seeds
            if (key := (model, seed, attack)) in scores and key[:2] in run.ends
        ]
        found[column(name, attack)] = over_seeds(values)
    return found


def _left_out(run: Run, scores: Curves, models: Collection[str], attacks: Collection[str]) -> list[str]:
    """Say how many values of RScore are infinite: of an unchanged score, or where the numerator is 0."""
    counted = {
        key: infinite(scores[key], MEASURES["RScore"][0], run.ends[key[:2]])
        for key in scores
        if key[0] in models and key[2] in attacks and key[:2] in run.ends
    }
    listed = [f"{count} of {model} seed {seed}, {attack}" for (model, seed, attack), count in counted.items() if count]
    return [f"RScore leaves out values that are infinite: {'; '.join(listed)}."] if listed else []


PAPER = Paper(
    title='"Robustness as Architecture", arXiv:2506.04951', metrics=("linearity", "koncept512", "tres"), tables=tables
)
