"""Norm-regularised training on real photographs, with and without the fix for the scale of scores.

"Defense Against Adversarial Attacks on No-Reference Image Quality Models with Gradient Norm Regularization",
arXiv:2403.11397.

    JAXIQA_DATA=/path/to/data python train.py --config configs/clive_norm_training.py
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/clive_norm_training.py

``--workdir runs/clive_adversarial`` uses the baseline and ``clean`` of `clive_adversarial.py` if they are there.
``nt_unscaled`` is the penalty as published: a metric trained with norm-in-norm can lower it by smaller scores alone.
``clean`` trains equally long without a penalty.
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
