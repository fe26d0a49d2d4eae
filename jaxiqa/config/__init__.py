"""Experiment configs: frozen dataclasses, created by `configs/*.py`, read by `train.py` and `evaluate.py`.

Nothing slow is imported here, so that ``--help`` is fast. Apart from the two scripts, only `jaxiqa.evaluation` and
`jaxiqa.train.startup` take parts of a config; all other code gets its fields as arguments.
"""

from jaxiqa.config.additions import Adversarial, Distil, Jacobian, NormPenalty, SoftLabels, Spectral
from jaxiqa.config.checks import blocks_of, check_experiment
from jaxiqa.config.data import Data
from jaxiqa.config.evaluation import (
    Adaptive,
    Align,
    Attack,
    Certifier,
    Defense,
    Evaluation,
    Network,
    Ranks,
    Subset,
    check_evaluation,
)
from jaxiqa.config.experiment import Experiment, folded, root_folder, run_folder, trained_variants
from jaxiqa.config.identity import describe
from jaxiqa.config.loading import load_config
from jaxiqa.config.recommended import recommended_training
from jaxiqa.config.training import Average, Block, Model, Prune, Saved, Tail, Training, Variant

__all__ = [
    "Adaptive",
    "Adversarial",
    "Align",
    "Attack",
    "Average",
    "Block",
    "Certifier",
    "Data",
    "Defense",
    "Distil",
    "Evaluation",
    "Experiment",
    "Jacobian",
    "Model",
    "Network",
    "NormPenalty",
    "Prune",
    "Ranks",
    "Saved",
    "SoftLabels",
    "Spectral",
    "Subset",
    "Tail",
    "Training",
    "Variant",
    "blocks_of",
    "check_evaluation",
    "check_experiment",
    "describe",
    "folded",
    "load_config",
    "recommended_training",
    "root_folder",
    "run_folder",
    "trained_variants",
]
