"""Two other forms of the block (spectral shrinkage, band limit) beside the plain block and its control. One seed.

    JAXIQA_DATA=/path/to/data python train.py --config configs/clive_forms.py --workdir runs/clive_ablation
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/clive_forms.py --workdir runs/clive_ablation

The folder of `clive_ablation.py` already contains the variants that both experiments share.
"""

from dataclasses import replace

from clive_ablation import get_config as ablation
from clive_ablation import insert

from jaxiqa.config import Experiment


def get_config() -> Experiment:
    experiment = ablation()
    shared = {name: experiment.variants[name] for name in ("baseline", "robust_block", "bottleneck")}
    forms = {
        "robust_block_shrink": insert(mid=40, shrink=0.5),
        "robust_block_band": insert(mid=40, low_pass=0.5),
    }
    return replace(experiment, name="clive_forms", variants=shared | forms, seeds=(0,))
