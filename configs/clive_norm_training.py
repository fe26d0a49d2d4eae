"""Norm-regularised training (arXiv:2403.11397) on real photographs, with and without the fix for the scale of scores.

    JAXIQA_DATA=/path/to/data python train.py --config configs/clive_norm_training.py
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/clive_norm_training.py

With ``--workdir runs/clive_adversarial`` the baseline and ``clean`` of `clive_adversarial.py` are taken, if they are
there. ``nt_unscaled`` is the penalty as published, which a metric that is trained by norm-in-norm can meet with smaller
scores; ``clean`` trains as long without a penalty.
"""

from dataclasses import replace

from clive_adversarial import get_config as adversarial
from clive_adversarial import tune

from jaxiqa.config import Experiment, NormPenalty


def get_config() -> Experiment:
    experiment = adversarial()
    shared = {name: experiment.variants[name] for name in ("baseline", "clean")}
    penalised = {
        "nt_weak": tune(norm_penalty=NormPenalty(1e-5)),
        "nt": tune(norm_penalty=NormPenalty(1e-4)),
        "nt_unscaled": tune(norm_penalty=NormPenalty(1e-4, scale_free=False)),
    }
    return replace(experiment, name="clive_norm_training", variants=shared | penalised)
