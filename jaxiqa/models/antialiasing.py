"""Anti-aliased down-sampling: blur the input of every layer with a stride."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax import nnx
from jaxtyping import Array

from jaxiqa.core.checks import check_choice
from jaxiqa.layers.blur import BLURS


@dataclass(frozen=True)
class Blurred:
    """The convolution ``compute(blur(x), ...)``, in the place of ``compute`` in a `flax.nnx.Conv`."""

    compute: Callable[..., Array]
    taps: int

    def __call__(self, x: Array, *arguments: Any, **options: Any) -> Array:
        return self.compute(BLURS[self.taps](x), *arguments, **options)


def blur_strides(model: nnx.Module, taps: int) -> None:
    """Blur the input of every strided convolution and max pooling of the backbone, in place; no parameter changes.

    A stride keeps one pixel of two, so detail above half of the frequencies returns as coarse patterns that a small
    change of the image can steer. A binomial blur before it removes most of it. The scores change: fine-tune the metric
    before you use them (`jaxiqa.config.Variant.blur`). The choice is saved and loaded with the metric, and another call
    replaces it.

    Args:
        model: the metric; its ``backbone`` has layers with a stride.
        taps: of the blur, 3 or 5 (`jaxiqa.layers.blur`).

    Raises:
        ValueError: another number of taps, or a backbone without strides. The model is unchanged.

    >>> from jaxiqa.models import build
    >>> model = build("resnet18", width=8)
    >>> blur_strides(model, 3)
    >>> blurred(model)
    3

    Reference: Zhang, "Making Convolutional Networks Shift-Invariant Again", arXiv:1904.11486.

    **Differs from the paper**, which computes the layer at full resolution and blurs its output: the input is blurred,
    at the cost of the layer with its stride.
    """
    check_choice("taps", taps, BLURS)
    found = strided(model)
    if not found:
        raise ValueError(f"the backbone of {type(model).__name__} has no convolution or pooling with a stride to blur")
    for layer in found:
        if isinstance(layer, nnx.Conv):
            compute = layer.conv_general_dilated
            compute = compute.compute if isinstance(compute, Blurred) else compute
            layer.conv_general_dilated = Blurred(compute, taps)
        else:
            layer.blur = taps


def strided(model: nnx.Module) -> list[Any]:
    """Return the convolutions of the backbone whose stride is above 1, and its max poolings (with a field ``blur``)."""
    return [
        module
        for path, module in nnx.iter_modules(model)
        if path[:1] == ("backbone",)
        and (hasattr(type(module), "blur") or (isinstance(module, nnx.Conv) and max(_strides(module)) > 1))
    ]


def blurred(model: nnx.Module) -> int | None:
    """Return the taps of the blurs that `blur_strides` set; None without.

    Raises:
        ValueError: layers have different ones, which no call of `blur_strides` gives.
    """
    found = {_taps(layer) for layer in strided(model)}
    if len(found) > 1:
        raise ValueError(
            f"the strided layers have blurs of {sorted(map(str, found))} taps; blur_strides sets one for all"
        )
    return next(iter(found), None)


def _taps(layer: Any) -> int | None:
    if isinstance(layer, nnx.Conv):
        compute = layer.conv_general_dilated
        return compute.taps if isinstance(compute, Blurred) else None
    return layer.blur


def _strides(layer: nnx.Conv) -> tuple[int, ...]:
    strides = layer.strides
    return (strides,) if isinstance(strides, int) else tuple(strides or (1,))
