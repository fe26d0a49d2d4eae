"""Swap the activations of a metric's backbone or head, for example ReLU for a smooth one."""

from collections.abc import Iterator
from typing import Any

from flax import nnx

from jaxiqa.core.checks import check_choice
from jaxiqa.models.averaged import Averaged
from jaxiqa.nn.activations import ACTIVATIONS

PARTS = ("backbone", "head")
"""Parts of a metric: its stages, and everything else."""

SMOOTH = {"relu": "softplus", "relu6": "smooth_relu6"}
"""Activation -> its smooth form."""


def swap_activation(model: nnx.Module, activation: str, *, part: str = "backbone") -> None:
    """Replace every ReLU and ReLU6 of a part by ``activation``, in place; no parameter changes.

    The scores do change: fine-tune the metric before you use them (`jaxiqa.config.Variant.activation`). The choice is
    saved and loaded with the metric, and another call replaces it. Not swapped are activations of other kinds (GELU
    in transformers, leaky ReLU in FPR, the learned slopes of MetaIQA's head), and a ReLU that keeps a weight or a score
    from being negative.

    Keep what the network was trained with: MobileNetV2 and EfficientNet-Lite0 depend on the cap of ReLU6, which only
    ``"smooth_relu6"`` keeps. The SROCC of jaxiqa-base on its 104 validation images of CLIVE is 0.769, and right after a
    swap 0.776 with smooth_relu6, 0.099 with softplus, -0.328 with silu.

    Training with a penalty on gradient norms (`jaxiqa.defenses.norm_penalty`, arXiv:2403.11397) depends on smooth
    activations: on ImageNet it made a ResNet with GELU robust, and one with ReLU lost its accuracy instead.
    Reference: "Characterizing Model Robustness via Natural Input Gradients", arXiv:2409.20139.

    Args:
        model: the metric.
        activation: a key of `jaxiqa.nn.activations.ACTIVATIONS`; or ``"smooth"``: the smooth form of each, `SMOOTH`.
            Then activations that are smooth already stay, and a part may have none to swap.
        part: ``"backbone"``, or ``"head"`` for everything else.

    Raises:
        ValueError: an unknown name or part, or a part without such an activation. The model is unchanged.

    >>> from jaxiqa.models import build
    >>> model = build("resnet18", width=8)
    >>> swap_activation(model, "silu")
    >>> model.backbone.stage["layer1.0"].activation, model.dr6.activation
    ('silu', 'relu')
    """
    check_choice("activation", activation, (*ACTIVATIONS, "smooth"))
    for module in swappable(model, part, least=activation != "smooth"):
        module.activation = SMOOTH.get(module.activation, module.activation) if activation == "smooth" else activation


def swappable(model: nnx.Module, part: str, *, least: int = 1) -> list[Any]:
    """Return the modules of a part whose activation can be swapped.

    Raises:
        ValueError: an unknown part, an average of metrics, or fewer than ``least``.

    >>> from jaxiqa.models import build
    >>> [type(module).__name__ for module in swappable(build("resnet18", width=8), "head")]
    ['Reduction', 'Reduction']
    """
    check_choice("part", part, PARTS)
    if isinstance(model, Averaged):
        raise ValueError("model is an average of metrics; swap the activations of the members, then average them")
    found = list(_modules(model, part))
    if len(found) < least:
        raise ValueError(f"the {part} of {type(model).__name__} has no ReLU or ReLU6 that could be swapped")
    return found


def swapped(model: nnx.Module) -> dict[str, str]:
    """Return the activations that are not the published ones, by part; `swap_activation` sets them again.

    Raises:
        ValueError: the modules of a part have different ones, which no call of `swap_activation` gives.

    >>> from jaxiqa.models import build
    >>> model = build("resnet18", width=8)
    >>> swap_activation(model, "elu", part="head")
    >>> swapped(model)
    {'head': 'elu'}
    """
    found = {}
    for part in PARTS:
        modules = list(_modules(model, part))
        if all(module.activation == type(module).activation for module in modules):
            continue
        names = sorted({module.activation for module in modules})
        if len(names) > 1:
            raise ValueError(f"the {part} has the activations {', '.join(names)}; swap_activation sets one for all")
        found[part] = names[0]
    return found


def _modules(model: nnx.Module, part: str) -> Iterator[Any]:
    for path, module in nnx.iter_modules(model):
        inside = path[:1] == ("backbone",)
        if hasattr(type(module), "activation") and inside == (part == "backbone"):
            yield module
