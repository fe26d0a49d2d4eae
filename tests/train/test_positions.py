"""Blocks of a config at the positions of a paper."""

from dataclasses import replace
from pathlib import Path

import pytest

from jaxiqa.config import Block, Model, Training, Variant, load_config
from jaxiqa.train.startup import abstract_models, check_training

SMOKE = load_config(Path(__file__).parents[2] / "configs" / "smoke.py")


def with_block(block, backbone="resnet18"):
    variants = {"base": Variant(Training(epochs=1)), "odd": Variant(Training(epochs=1), parent="base", block=block)}
    return replace(SMOKE, model=Model(backbone, width=8), variants=variants)


@pytest.mark.slow
def test_a_position_needs_no_mid():
    blocks = (Block("position:3"), Block("position:6", "bottleneck", {"mid": 3}), Block("position:5", "square_pool"))
    experiment = with_block(blocks)
    check_training(experiment)
    found = abstract_models(experiment)["odd"].insertions
    assert [(block.where, dict(block.options)) for block in found] == [
        ("before:layer2", {"mid": 8}),
        ("after:layer3", {"mid": 3}),
        ("before:layer3", {}),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "backbone", "message"),
    [
        (Block("position:4"), "resnet18", r"this ResNet has no such stage; it has the positions 1, 2, 3, 5, 6"),
        (Block("position:8"), "resnet18", r"position='8' is not allowed; choose from '1', .*'6'"),
        (Block("position:6"), "mobilenet_v2", r"positions are places in a ResNet; write 'before:STAGE'"),
        (
            Block("positon:6"),
            "resnet18",
            r"expected before:STAGE, after:STAGE or, in a ResNet, position:1 to 6",
        ),
    ],
)
def test_a_wrong_position_names_the_field_and_what_is_allowed(block, backbone, message):
    with pytest.raises(ValueError, match=rf"variants\.odd\.block\.where.*{message}"):
        check_training(with_block(block, backbone))


def test_stages_of_a_metric_that_cannot_store_their_output_may_be_frozen():
    """KonCept512 has no `outputs_from`: its frozen stages are computed at every step."""
    frozen = Variant(Training(epochs=1, freeze="block5"))
    check_training(replace(SMOKE, model=Model("mobilenet_v2", width=8, metric="koncept512"), variants={"base": frozen}))
