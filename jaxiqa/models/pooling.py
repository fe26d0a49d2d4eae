"""Swap the average over whole maps in a metric's head, for example for a median."""

from typing import Any

from flax import nnx

from jaxiqa.core.checks import check_choice
from jaxiqa.models.registry import MODELS
from jaxiqa.nn.global_pooling import POOLINGS


def swap_pooling(model: nnx.Module, pooling: str) -> None:
    """Replace every average over all pixels of a map in the head by ``pooling``, in place; no parameter changes.

    Linearity averages two stages of its backbone; KonCept512 the last one, with ``pooling="official"`` its top left
    part; TReS the last level and the output of its encoder; HyperIQA the last level and the map that gives the weights.
    Means over blocks of a map stay.

    The scores change: fine-tune the metric before you use them (`jaxiqa.config.Variant.pooling`). The choice is saved
    and loaded with the metric, and another call replaces it.

    Args:
        model: the metric.
        pooling: a key of `jaxiqa.nn.global_pooling.POOLINGS`; ``"mean"`` is the published one.

    Raises:
        ValueError: an unknown name, or a metric without such an average. The model is unchanged.

    >>> from jaxiqa.models import build
    >>> model = build("resnet18", width=8)
    >>> swap_pooling(model, "median")
    >>> pooling_of(model)
    'median'
    """
    check_choice("pooling", pooling, POOLINGS)
    metric: Any = model
    if not hasattr(type(model), "global_pooling"):
        able = ", ".join(name for name, spec in MODELS.items() if hasattr(spec.metric, "global_pooling"))
        raise ValueError(f"the head of {type(model).__name__} has no average to swap; those of {able} have")
    metric.global_pooling = pooling


def pooling_of(model: nnx.Module) -> str | None:
    """Return the name that `swap_pooling` set, or None for the published one.

    >>> from jaxiqa.models import build
    >>> print(pooling_of(build("resnet18", width=8)))
    None
    """
    published = getattr(type(model), "global_pooling", None)
    found = getattr(model, "global_pooling", None)
    return None if found == published else found
