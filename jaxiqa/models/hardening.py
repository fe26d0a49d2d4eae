"""Insert blocks before or after any stage of a metric's backbone."""

import inspect
import itertools
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from flax import nnx

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.registry import parameters
from jaxiqa.layers import Bottleneck, LowPass, RobustBlock, Shrinkage, SquarePool, WaveletShrinkage
from jaxiqa.models.averaged import Averaged
from jaxiqa.models.metric import Metric
from jaxiqa.models.positions import resolve_position
from jaxiqa.nn.stages import Stages

BLOCKS: dict[str, Callable[..., nnx.Module]] = {
    "robust_block": RobustBlock,
    "bottleneck": Bottleneck,
    "square_pool": SquarePool,
    "low_pass": LowPass,
    "shrinkage": Shrinkage,
    "wavelet_shrinkage": WaveletShrinkage,
}
"""Kind of block -> its class."""


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

    Everything after this place reads the output of the block, also a head that reads the stage before it.

    Args:
        model: the metric; its ``backbone`` is a `jaxiqa.nn.stages.Stages`.
        where: ``"before:STAGE"`` or ``"after:STAGE"``, see ``model.backbone.order``; or ``"position:N"``, a position
            of the paper in a ResNet (`jaxiqa.models.positions`), which has a ``mid`` of its own.
        kind: a key of `BLOCKS`: ``"robust_block"``, ``"bottleneck"`` (its control without orthogonality),
            ``"square_pool"``, ``"low_pass"`` (before the first stage, it limits the band of the images),
            ``"shrinkage"`` or ``"wavelet_shrinkage"`` (before the first stage, it removes small details).
        rngs: random numbers for the block's weights.
        name: of the new stage. The default is the kind, with a number from its second block on (``robust_block``,
            ``robust_block_2``).
        **options: keyword arguments of the class. `jaxiqa.layers.RobustBlock` and `jaxiqa.layers.Bottleneck` require
            ``mid``, at most the number of channels at this place; `jaxiqa.layers.LowPass` requires ``share``, and
            `jaxiqa.layers.Shrinkage` and `jaxiqa.layers.WaveletShrinkage` ``threshold``.

    Raises:
        TypeError: ``model`` has no backbone of named stages, or ``rngs`` is not a `flax.nnx.Rngs`.
        ValueError: an unknown stage, kind or option. The model is unchanged.

    >>> from jaxiqa.models import build
    >>> model = build("resnet18", width=8)
    >>> harden(model, "after:layer3", mid=4, rngs=nnx.Rngs(1))
    >>> model.backbone.order[-4:]
    ('layer3.1', 'robust_block', 'layer4.0', 'layer4.1')
    """
    backbone = _stages(model)
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"rngs={rngs!r} is not allowed; expected flax.nnx.Rngs, such as nnx.Rngs(0)")
    check_choice("kind", kind, BLOCKS)
    where, mid = resolve_position(where, backbone)
    if mid is not None and "mid" in block_options(kind):
        options = {"mid": mid} | options
    _, features = backbone.place(where)
    options = {option: plain(value) for option, value in options.items()}
    block = _make(kind, features, options, rngs)
    name = kind_name(kind, backbone.order) if name is None else name
    backbone.insert(where, block, name=name, kind=kind, options=tuple(sorted(options.items())))


def filter_images(model: Metric, threshold: float) -> None:
    """Let a trained metric see images without their smallest details, in place: a `jaxiqa.layers.WaveletShrinkage`.

    It comes before the first stage of the backbone and sees the pixels that the metric's protocol made. The distance of
    two images never grows, and changes that nobody sees are mostly removed where the image is smooth. Scores change a
    little: see ``docs/results_hardening.md``. It is saved and loaded with the metric.

    Args:
        model: the metric; its ``backbone`` is a `jaxiqa.nn.stages.Stages`.
        threshold: > 0 and at most 1, in [0, 1] pixel units: details up to it are removed.

    Raises:
        TypeError: as for `harden`.
        ValueError: a threshold out of range, or the model has a wavelet_shrinkage already. It is unchanged.

    >>> from jaxiqa.models import build
    >>> model = build("resnet18", width=8)
    >>> filter_images(model, 4 / 255)
    >>> model.backbone.order[0]
    'wavelet_shrinkage'
    """
    backbone = _stages(model)
    check_number("threshold", threshold, 0.0, 1.0, open_low=True)
    if any(block.kind == "wavelet_shrinkage" for block in backbone.insertions):
        raise ValueError(f"{type(model).__name__} has a wavelet_shrinkage already")
    values = tuple(float(threshold) / deviation for deviation in model.std)
    harden(model, f"before:{backbone.order[0]}", "wavelet_shrinkage", threshold=values, rngs=nnx.Rngs(0))


def _stages(model: nnx.Module) -> Stages:
    backbone = getattr(model, "backbone", None)
    if isinstance(model, Averaged):
        raise TypeError("model is an average of metrics; harden the members, then average them")
    if not isinstance(backbone, Stages):
        raise TypeError(f"model is a {type(model).__name__}; expected a metric with a backbone of named stages")
    return backbone


def kind_name(kind: str, taken: Collection[str]) -> str:
    """Return the name of the next block of a kind: the kind itself, or with the first free number.

    >>> kind_name("bottleneck", ["conv1"]), kind_name("bottleneck", ["bottleneck", "bottleneck_2"])
    ('bottleneck', 'bottleneck_3')
    """
    stages = {stage.partition(".")[0] for stage in taken}
    names = itertools.chain([kind], (f"{kind}_{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in stages)


def plain(value: Any) -> Any:
    """Return an option of a block as plain Python, which can be compared and stored: arrays become numbers or tuples.

    >>> plain(np.float32(0.5)), plain([1, 2]), plain(np.arange(2))
    (0.5, (1, 2), (0, 1))
    """
    value = np.asarray(value).tolist() if hasattr(value, "__array__") else value
    return tuple(value) if isinstance(value, list) else value


def block_options(kind: str) -> dict[str, bool]:
    """Return the options of a kind of block, and whether they must be given.

    >>> block_options("low_pass"), block_options("square_pool"), block_options("bottleneck")["mid"]
    ({'share': True}, {}, True)
    """
    return {
        name: parameter.default is inspect.Parameter.empty
        for name, parameter in parameters(BLOCKS[kind]).items()
        if name not in ("features", "rngs") and not parameter.kind.name.startswith("VAR")
    }


def _make(kind: str, features: int, options: dict[str, Any], rngs: nnx.Rngs) -> nnx.Module:
    allowed = block_options(kind)
    if unknown := [name for name in options if name not in allowed]:
        known = f"choose from {', '.join(map(repr, allowed))}" if allowed else "it has no options"
        raise ValueError(f"options {options} do not fit a {kind}: there is no {', '.join(map(repr, unknown))}; {known}")
    if missing := [name for name, needed in allowed.items() if needed and name not in options]:
        what = " (number of inner channels)" if missing == ["mid"] else ""
        raise ValueError(f"options {options} do not fit a {kind}: {', '.join(map(repr, missing))}{what} is missing")
    several = options.get("threshold")
    if isinstance(several, tuple) and len(several) != features:
        raise ValueError(
            f"options {options} do not fit a {kind}: expected one threshold, or {features}, one per channel"
        )
    mid = options.get("mid", 1)
    if isinstance(mid, bool) or not isinstance(mid, int):
        raise ValueError(f"mid={mid!r} is not allowed; expected a number of channels, such as 64")
    built = {"features": features, "rngs": rngs}
    own = {name: value for name, value in built.items() if name in parameters(BLOCKS[kind])}
    try:
        return BLOCKS[kind](**own, **options)
    except TypeError as error:
        raise ValueError(f"options {options} do not fit a {kind}: {error}") from error
