"""Blur the input of everything in a metric's backbone that has a stride."""

from collections.abc import Iterator
from typing import Any

from flax import nnx

from jaxiqa.core.checks import check_choice
from jaxiqa.nn.blur import BLURS, BlurredConv


def blur_strides(model: nnx.Module, taps: int = 3) -> None:
    """Put a binomial blur before every strided convolution and pooling of the backbone, in place.

    No parameter changes. The scores do: fine-tune the metric before you use them (`jaxiqa.config.Variant.blur`). The
    choice is saved and loaded with the metric, and another call replaces it. Constant maps stay constant, and the
    Lipschitz bounds do not grow (`jaxiqa.layers.binomial_blur`).

    Reference: "Making Convolutional Networks Shift-Invariant Again", arXiv:1904.11486. **Differs from the paper**: it
    blurs the input of each strided operation instead of the output of a dense one, so it costs little. The first
    convolution is among them: it reads blurred pixels.

    Args:
        model: the metric.
        taps: 3 or 5, see `jaxiqa.layers.binomial_blur`; 1 removes the blur.

    Raises:
        ValueError: another number of taps, or nothing in the backbone has a stride. The model is unchanged.

    >>> from jaxiqa.models import build
    >>> model = build("resnet18", width=8)
    >>> blur_strides(model, taps=5)
    >>> blur_of(model), model.backbone.stage["maxpool"].blur
    (5, 5)
    """
    check_choice("taps", taps, BLURS)
    layers = strided(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no backbone with a strided convolution or pooling to blur before")
    for layer in layers:
        if isinstance(layer, nnx.Conv):
            compute = layer.conv_general_dilated
            compute = compute.compute if isinstance(compute, BlurredConv) else compute
            layer.conv_general_dilated = compute if taps == 1 else BlurredConv(compute, taps)
        else:
            layer.blur = taps


def strided(model: nnx.Module) -> list[Any]:
    """Return the convolutions and poolings of the backbone that have a stride.

    >>> from jaxiqa.models import build
    >>> [type(layer).__name__ for layer in strided(build("resnet18", width=8))][:3]
    ['Conv', 'Conv', 'Conv']
    """
    return list(_strided(model))


def blur_of(model: nnx.Module) -> int | None:
    """Return the taps that `blur_strides` set, or None without a blur.

    Raises:
        ValueError: the layers have different ones, which no call of `blur_strides` gives.

    >>> from jaxiqa.models import build
    >>> print(blur_of(build("resnet18", width=8)))
    None
    """
    found = sorted({_taps(layer) for layer in _strided(model)})
    if len(found) > 1:
        raise ValueError(f"the backbone has blurs of {', '.join(map(str, found))} taps; blur_strides sets one for all")
    return found[0] if found and found[0] > 1 else None


def _taps(layer: Any) -> int:
    if not isinstance(layer, nnx.Conv):
        return layer.blur
    compute = layer.conv_general_dilated
    return compute.taps if isinstance(compute, BlurredConv) else 1


def _strided(model: nnx.Module) -> Iterator[Any]:
    for path, module in nnx.iter_modules(model):
        if path[:1] != ("backbone",):
            continue
        if isinstance(module, nnx.Conv):
            strides = module.strides or 1
            if (strides if isinstance(strides, int) else max(strides)) > 1:
                yield module
        elif hasattr(type(module), "blur"):
            yield module
