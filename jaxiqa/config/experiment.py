"""An experiment and the folders of its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxiqa.config.data import Data
from jaxiqa.config.evaluation import Evaluation
from jaxiqa.config.training import Average, Model, Variant
from jaxiqa.core.files import safe_name

TAKEN = (
    *("images", "examples", "fitted", "aligned"),
    *(
        f"{rows}.jsonl"
        for rows in ("results", "predictions", "models", "masking", "stored", "defenses", "certificates")
    ),
    *("evaluation.json", "table.csv", "table.md", "report.html", "tradeoff.png", "curves.png", "examples.png"),
    *("defenses.csv", "defenses.md", "defenses_tradeoff.png", "defenses_by_attack.png", "defenses_by_strength.png"),
    *("leaderboard.csv", "leaderboard.html", "order.md", "order.png", "paper.md", "paper_1.csv", "paper_2.csv"),
    "ranks.jsonl",
)
"""Names of folders and files next to the variants' folders; variants may not have these names."""


@dataclass(frozen=True)
class Experiment:
    """The input of `train.py` and `evaluate.py`."""

    name: str
    data: Data
    model: Model
    variants: dict[str, Variant | Average]
    """Name -> variant, parents and members first; the first is the baseline."""
    evaluation: Evaluation
    seeds: tuple[int, ...] = (0,)
    workdir: str = ""
    """Folder of all output; default: runs/NAME."""
    parallel: Literal["pmap", "shard_map"] = "pmap"


def trained_variants(experiment: Experiment) -> dict[str, Variant]:
    """Return the variants that are trained, by name: all but averages.

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
