"""What a paper's table needs of an experiment: its rows, and what was run, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from jaxiqa.config import Average, Experiment, Saved, Training, Variant, blocks_of, trained_variants
from jaxiqa.data.split import Split
from jaxiqa.reports.attacks.summary import Summary
from jaxiqa.reports.papers import PAPERS, Run
from jaxiqa.reports.strengths import format_strength
from jaxiqa.reports.table import Table
from jaxiqa.results.engine import Rows
from jaxiqa.results.rows import ResultRow
from jaxiqa.train.recipes import with_recipes


def check_paper(experiment: Experiment) -> None:
    """Check that the paper exists and has tables for this metric; else raise ``ValueError`` with what is allowed."""
    name, metric = experiment.evaluation.paper, experiment.model.metric
    if name is None:
        return
    if name not in PAPERS:
        raise ValueError(f"evaluation.paper={name!r} is not a paper; choose from {', '.join(map(repr, PAPERS))}")
    if metric not in PAPERS[name].metrics:
        known = ", ".join(PAPERS[name].metrics)
        raise ValueError(f"evaluation.paper={name!r} has no table for model.metric={metric!r}, only for {known}")


def paper_tables(
    experiment: Experiment,
    labelled: Split,
    attacked: Split,
    summary: Summary,
    results: Sequence[ResultRow] | Rows,
    ends: Mapping[tuple[str, int], tuple[float, float]],
) -> list[Table]:
    """Return the tables of the paper that the experiment names; none if it names none."""
    if experiment.evaluation.paper is None:
        return []
    run = Run(
        metric=experiment.model.metric,
        summary=summary,
        results=results,
        ends=ends,
        protocol=protocol(with_recipes(experiment), len(labelled), len(attacked), attacked.read(0).shape[:2]),
        places={name: place(variant) for name, variant in experiment.variants.items()},
        mos=None if attacked.mos is None else dict(zip(attacked.ids, attacked.mos.tolist(), strict=True)),
    )
    return PAPERS[experiment.evaluation.paper].tables(run)


def protocol(experiment: Experiment, labelled: int, attacked: int, size: tuple[int, ...]) -> dict[str, str]:
    """Describe what is run, by name, for `jaxiqa.reports.papers.paper.differences`.

    Args:
        experiment: the experiment, complete: `jaxiqa.train.recipes.with_recipes`.
        labelled, attacked: numbers of images.
        size: (height, width) of the attacked images.
    """
    model, evaluation = experiment.model, experiment.evaluation
    found: dict[str, Any] = {
        "backbone": model.backbone,
        "data": experiment.data.name,
        "labelled images": labelled,
        "input size": model.input_size,
        "attacked data": evaluation.data.name,
        "attacked images": attacked,
        "attacked size": tuple(size),
        "score range": evaluation.score_range,
    }
    for label, attack in evaluation.attacks.items():
        if attack.epsilons:
            found[f"strengths of {label}"] = ", ".join(map(format_strength, attack.epsilons))
    for name, variant in trained_variants(experiment).items():
        for field in fields(Training):
            value = getattr(variant.training, field.name)
            found[f"{name}: {field.name}"] = "nothing" if field.name == "freeze" and value is None else value
    return {name: in_words(value) for name, value in found.items() if value is not None}


def in_words(value: Any) -> str:
    """Write a value of a config; a pair of sizes as HEIGHTxWIDTH.

    >>> in_words((498, 664)), in_words(1e-6), in_words("train")
    ('498x664', '1e-06', 'train')
    """
    pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(side, int) for side in value)
    return f"{value[0]}x{value[1]}" if pair else str(value)


def place(variant: Variant | Average | Saved) -> str:
    """Return a variant's tail, blocks and pruning, or the members of an average, or the name of a saved metric.

    >>> from jaxiqa.config import Block, Prune
    >>> place(Variant(Training(epochs=1), block=Block("position:6"), prune=Prune(0.1, "l2")))
    'robust_block position:6, 10 % by l2'
    >>> place(Average(("base", "ours"), mirror=True))
    'average of base, ours, mirrored too'
    """
    if isinstance(variant, Saved):
        return variant.weights
    if isinstance(variant, Average):
        return f"average of {', '.join(variant.members)}{', mirrored too' if variant.mirror else ''}"
    tail = [f"controlled tail after {variant.tail.after}"] if variant.tail else []
    blocks = [
        " ".join([block.kind, block.where, *(f"{name}={value}" for name, value in block.options.items())])
        for block in blocks_of(variant).values()
    ]
    pruned = [f"{100 * variant.prune.amount:g} % by {variant.prune.criterion}"] if variant.prune else []
    return ", ".join([*tail, *blocks, *pruned]) or "–"
