"""An experiment, and where its files lie."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxiqa.config.data import Data
from jaxiqa.config.evaluation import Evaluation
from jaxiqa.config.training import Model, Variant
from jaxiqa.core.files import safe_name

TAKEN = (
    *("images", "examples", "fitted", "aligned"),
    *(
        f"{rows}.jsonl"
        for rows in ("results", "predictions", "models", "masking", "stored", "defenses", "certificates")
    ),
    *("evaluation.json", "table.csv", "table.md", "report.html", "tradeoff.png", "curves.png", "examples.png"),
    *("defenses.csv", "defenses.md", "defenses_tradeoff.png", "defenses_by_attack.png", "defenses_by_strength.png"),
    *("leaderboard.csv", "leaderboard.html"),
)
"""Folders and files beside the variants' folders, which no variant may be called."""


@dataclass(frozen=True)
class Experiment:
    """Everything `train.py` and `evaluate.py` need."""

    name: str
    data: Data
    model: Model
    variants: dict[str, Variant]
    """Name -> variant, parents first; the first is the baseline."""
    evaluation: Evaluation
    seeds: tuple[int, ...] = (0,)
    workdir: str = ""
    """Where everything is written; the default is runs/NAME."""
    parallel: Literal["pmap", "shard_map"] = "pmap"


def root_folder(experiment: Experiment) -> Path:
    """Where everything about an experiment lies."""
    return Path(experiment.workdir or f"runs/{safe_name(experiment.name)}")


def run_folder(experiment: Experiment, variant: str, seed: int) -> Path:
    """Where everything about one trained variant lies."""
    return root_folder(experiment) / safe_name(variant) / f"seed{seed}"
