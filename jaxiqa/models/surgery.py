"""Model surgery: put a block before or after any stage of a metric's backbone."""

from typing import Any

from flax import nnx

from jaxiqa.checks import check_choice
from jaxiqa.layers import Bottleneck, RobustBlock, SquarePool
from jaxiqa.models.linearity import Insertion

POSITIONS = {
    1: ("before:conv1", 3),
    2: ("before:layer1", 64),
    3: ("before:layer2", 256),
    4: ("before:layer2.2", 128),
    5: ("before:layer3", 200),
    6: ("after:layer3", 200),
}
"""Position in the table of arXiv:2506.04951 -> (place in a ResNet-101, middle channels)."""

KINDS = ("robust_block", "bottleneck", "square_pool")


def harden(
    model: nnx.Module,
    where: str,
    kind: str = "robust_block",
    *,
    rngs: nnx.Rngs,
    name: str | None = None,
    **options: Any,
) -> None:
    """Insert a block into ``model``, in place; no other parameter changes.

    What follows the place, the heads included if they read the stage it comes after, reads the block's output.

    Args:
        model: the metric; its ``backbone`` is a `jaxiqa.models.stages.Stages`.
        where: ``"before:STAGE"`` or ``"after:STAGE"``; see ``model.backbone.order``.
        kind: ``"robust_block"``, ``"bottleneck"`` (its control without orthogonality) or ``"square_pool"``.
        rngs: random numbers for the block's weights.
        name: of the new stage; the kind by default.
        **options: keyword arguments of `jaxiqa.layers.RobustBlock` or `jaxiqa.layers.Bottleneck`; ``mid`` is required
            for both, and for neither exceeds the channels there.

    Raises:
        ValueError: an unknown stage, kind or option.

    >>> from jaxiqa.models import build
    >>> model = build("resnet18", width=8)
    >>> harden(model, "after:layer3", mid=4, rngs=nnx.Rngs(1))
    >>> model.backbone.order[-4:]
    ('layer3.1', 'robust_block', 'layer4.0', 'layer4.1')
    """
    check_choice("kind", kind, KINDS)
    _, features = model.backbone.place(where)
    block = _make(kind, features, options, rngs)
    name = name or kind
    model.backbone.insert(where, block, name=name)
    model.insertions = (*model.insertions, Insertion(name, where, kind, tuple(sorted(options.items()))))


def _make(kind: str, features: int, options: dict[str, Any], rngs: nnx.Rngs) -> nnx.Module:
    makers = {"robust_block": RobustBlock, "bottleneck": Bottleneck, "square_pool": SquarePool}
    try:
        if kind == "square_pool":
            return SquarePool(**options)
        return makers[kind](features, rngs=rngs, **options)
    except TypeError as error:
        raise ValueError(f"options {options} do not fit a {kind}: {error}") from error
