"""The six positions of a block in a ResNet, from "Robustness as Architecture", arXiv:2506.04951."""

from jaxiqa.core.checks import check_choice
from jaxiqa.nn.stages import Stages

POSITIONS = {
    1: ("before:conv1", 3),
    2: ("before:layer1", 64),
    3: ("before:layer2", 256),
    4: ("before:layer2.2", 128),
    5: ("before:layer3", 200),
    6: ("after:layer3", 200),
}
"""Position in the paper's table -> (place in a ResNet-101, ``mid``)."""

CHANNELS = {1: 3, 2: 64, 3: 256, 4: 512, 5: 512, 6: 1024}
"""Position -> channels at this place in a ResNet-101."""


def resolve_position(where: str, backbone: Stages) -> tuple[str, int | None]:
    """Return the place of a ``"position:N"`` and the inner channels of a block there, the paper's share of all.

    Positions exist in ResNets of any depth and width. With four times the layers' channels, as in ResNet-50, -101 and
    ResNeXt-101, ``mid`` is the paper's. A ResNet-18 has no position 4, since its ``layer2`` has two blocks.

    Args:
        where: ``"position:N"``; other places are returned unchanged, with None.
        backbone: the stages.

    Raises:
        ValueError: the position or the backbone is none of the paper's; the message says what is allowed.

    >>> from jaxiqa.models import build
    >>> backbone = build("resnet18", width=16).backbone
    >>> resolve_position("position:6", backbone), resolve_position("before:layer4", backbone)
    (('after:layer3', 12), ('before:layer4', None))
    """
    side, _, number = where.partition(":")
    if side != "position":
        return where, None
    check_choice("position", number, [str(position) for position in POSITIONS])
    groups = dict.fromkeys(stage.partition(".")[0] for stage in backbone.order)
    if not {"conv1", "layer1", "layer2", "layer3", "layer4"} <= groups.keys():
        raise ValueError(
            f"where={where!r} is not allowed: positions are places in a ResNet; write 'before:STAGE' or 'after:STAGE' "
            f"with one of the stages {', '.join(groups)}"
        )
    known = {position: place for position, (place, _) in POSITIONS.items() if _exists(place, backbone)}
    if int(number) not in known:
        raise ValueError(
            f"where={where!r} is not allowed: it is {POSITIONS[int(number)][0]!r}, and this ResNet has no such stage; "
            f"it has the positions {', '.join(map(str, known))}"
        )
    place, mid = POSITIONS[int(number)]
    return place, max(1, round(backbone.place(place)[1] * mid / CHANNELS[int(number)]))


def _exists(place: str, backbone: Stages) -> bool:
    stage = place.partition(":")[2]
    return any(name == stage or name.startswith(f"{stage}.") for name in backbone.order)
