"""An experiment and the folders of its files."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jaxiqa.config.data import Data
from jaxiqa.config.evaluation import Evaluation
from jaxiqa.config.training import Average, Model, Saved, Variant
from jaxiqa.core.files import safe_name

TAKEN = (
    *("images", "examples", "fitted", "aligned", "parquet"),
    *(
        f"{rows}.jsonl"
        for rows in ("results", "predictions", "models", "masking", "stored", "defenses", "certificates")
    ),
    *("evaluation.json", "table.csv", "table.md", "report.html", "tradeoff.png", "curves.png", "examples.png"),
    *("defenses.csv", "defenses.md", "defenses_tradeoff.png", "defenses_by_attack.png", "defenses_by_strength.png"),
    *("leaderboard.csv", "leaderboard.html", "order.md", "order.png", "paper.md", "paper_1.csv", "paper_2.csv"),
    *("ranks.jsonl", "folds.csv", "folds.md", "tidy.csv", "differences.csv", "differences.png"),
)
"""Names of folders and files next to the variants' folders; variants may not have these names."""


@dataclass(frozen=True)
class Experiment:
    """The input of `train.py` and `evaluate.py`."""

    name: str
    """Name of the experiment, and of its folder below runs/."""
    data: Data
    """The labelled images for training and for correlations with human scores."""
    model: Model
    """The metric that every variant without a parent starts from."""
    variants: dict[str, Variant | Average | Saved]
    """Name -> variant, parents and members first; the first is the baseline."""
    evaluation: Evaluation
    """What `evaluate.py` runs on every variant."""
    seeds: tuple[int, ...] = (0,)
    """Every variant is trained once per seed: of first weights, order of images, and crops."""
    workdir: str = ""
    """Folder of all output; default: runs/NAME."""
    parallel: Literal["pmap", "shard_map"] = "pmap"
    """How several devices share a batch; both give the same numbers."""
    folds: int | None = None
    """Cross-validation: train and evaluate once per fold, each in WORKDIR/foldN, where no training has seen the test
    images (`jaxiqa.data.folds`). None: the splits of the data set. ``{fold}`` in weights, of the model, of a teacher or
    of a `Saved` metric, is the number of the fold: such a metric must not have learned from the fold's test images."""


def folded(experiment: Experiment) -> list[Experiment]:
    """Return one experiment per fold, in a folder of its own; without folds, the experiment itself.

    Every use of the labelled data set is divided: images that a fold tests are also not used to fit attacks or to
    distil. ``{fold}`` in weights, of the model, of a teacher or of a `Saved` metric, becomes the number of the fold.

    >>> from jaxiqa.config import Training
    >>> data = Data("clive")
    >>> whole = Experiment("x", data, Model(), {"a": Variant(Training())}, Evaluation(data, {}), folds=5)
    >>> last = folded(whole)[-1]
    >>> last.workdir, last.data.fold, last.evaluation.data.fold, last.folds
    ('runs/x/fold4', 4, 4, None)
    >>> folded(replace(whole, variants={"a": Saved("runs/y/fold{fold}/b/seed0")}))[2].variants["a"].weights
    'runs/y/fold2/b/seed0'
    """
    if experiment.folds is None:
        return [experiment]
    return [_fold(experiment, experiment.folds, number) for number in range(experiment.folds)]


def _fold(experiment: Experiment, folds: int, number: int) -> Experiment:
    def part(data: Data) -> Data:
        same = (data.name, data.source) == (experiment.data.name, experiment.data.source)
        return replace(data, folds=folds, fold=number) if same else data

    def own(found: Any) -> Any:
        if found is None or found.weights is None:
            return found
        return replace(found, weights=found.weights.replace("{fold}", str(number)))

    def divided(variant: Variant | Average | Saved) -> Variant | Average | Saved:
        if isinstance(variant, Saved):
            return own(variant)
        if isinstance(variant, Average):
            return variant
        distil = own(variant.training.distil)
        if distil and distil.data:
            distil = replace(distil, data=part(distil.data))
        training = replace(variant.training, distil=distil, soft_labels=own(variant.training.soft_labels))
        return replace(variant, training=training)

    evaluation = experiment.evaluation
    attacks = {
        label: replace(attack, fit_on=part(attack.fit_on)) if attack.fit_on else attack
        for label, attack in evaluation.attacks.items()
    }
    return replace(
        experiment,
        data=part(experiment.data),
        model=own(experiment.model),
        variants={name: divided(variant) for name, variant in experiment.variants.items()},
        evaluation=replace(evaluation, data=part(evaluation.data), attacks=attacks),
        workdir=str(root_folder(experiment) / f"fold{number}"),
        folds=None,
    )


def trained_variants(experiment: Experiment) -> dict[str, Variant]:
    """Return the variants that are trained, by name: all but averages and saved metrics.

    >>> from jaxiqa.config.evaluation import Evaluation
    >>> from jaxiqa.config.training import Training
    >>> variants = {"base": Variant(Training(epochs=1)), "mirrored": Average(("base",), mirror=True)}
    >>> data = Data("builtin")
    >>> list(trained_variants(Experiment("x", data, Model("resnet18"), variants, Evaluation(data, {}))))
    ['base']
    """
    return {name: variant for name, variant in experiment.variants.items() if isinstance(variant, Variant)}


def root_folder(experiment: Experiment) -> Path:
    """Return the folder of an experiment."""
    return Path(experiment.workdir or f"runs/{safe_name(experiment.name)}")


def run_folder(experiment: Experiment, variant: str, seed: int) -> Path:
    """Return the folder of one trained variant."""
    return root_folder(experiment) / safe_name(variant) / f"seed{seed}"
