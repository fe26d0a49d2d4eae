"""Build a metric: a head over a backbone, with random weights, ImageNet weights or trained weights."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx

from jaxiqa.core.checks import check_choice
from jaxiqa.core.registry import check_options, parameters
from jaxiqa.models import loading
from jaxiqa.models.metric import Metric
from jaxiqa.models.registry import MODELS
from jaxiqa.nn.backbones import BACKBONES
from jaxiqa.pretrained import files, key_map

Weights = str | os.PathLike[str]


def build(
    backbone: str | None = None,
    *,
    metric: str = "linearity",
    weights: Weights | None = None,
    backbone_weights: Weights | None = None,
    seed: int = 0,
    **options: Any,
) -> Any:
    """Build a metric: new heads over a backbone, or a trained metric.

    Args:
        backbone: a name in `BACKBONES`, for metrics whose head fits any backbone (linearity, koncept512, tres,
            hyperiqa, norm_controlled). None: the metric's own network at its published size.
        metric: a name in `MODELS`.
        weights: trained weights of the metric (a known name of its weights, a file, the folder of a training run, or an
            address on the hub), or a file of ImageNet weights of its backbone: what the file holds decides. None:
            random weights.
        backbone_weights: a file that must hold ImageNet weights of the backbone, in any format that
            `jaxiqa.pretrained.files.read` reads: torchvision's and timm's of a ResNet and of ``mobilenet_v2_torch``,
            the converted ones or Keras' of ``mobilenet_v2``. Its classifier is not used. Or a name in
            ``BACKBONES[backbone].weights``, for a file in an installed package: ``"imagenet"`` of
            ``efficientnet_lite0``.
        seed: of all random initial weights.
        **options: of the metric's class, such as ``width``, ``input_size`` or ``taps`` of `Linearity`; None stands for
            the default.

    Raises:
        FileNotFoundError: the file does not exist, or its package is not installed; the message says what to install.
        ValueError: an unknown name or option, or a file that holds neither this metric nor this backbone; the message
            lists all keys that differ.

    >>> build("resnet18", width=8).taps
    ('layer3', 'layer4')
    >>> type(build("mobilenet_v2", metric="koncept512", width=8)).__name__
    'KonCept512'
    """
    check_choice("metric", metric, MODELS)
    spec = MODELS[metric]
    kind: Callable[..., Metric] = spec.build if backbone is None else spec.metric
    given = {name: value for name, value in options.items() if value is not None}
    if backbone is not None:
        if "backbone" not in parameters(spec.metric):
            raise ValueError(f"backbone={backbone!r} is not allowed: {metric} has its own network; leave it out")
        check_choice("backbone", backbone, BACKBONES)
        given["backbone"] = backbone
    check_options(metric, kind, given, hidden=("rngs",))
    if weights is not None and backbone_weights is not None:
        raise ValueError("weights and backbone_weights are both given; give one of them")
    if weights is not None:
        if not (backbone and weights in BACKBONES[backbone].weights):
            trained = loading.find(metric, weights, given)
            if trained is not None:
                return trained
        backbone_weights = weights
    frozen = tuple(sorted(given.items()))
    model = nnx.eval_shape(lambda: kind(rngs=nnx.Rngs(0), **given))
    # One program for all parameters, and a generator that compiles four times faster than the default.
    key = jax.random.key(seed, impl="rbg")
    nnx.update(model, _initial_state(kind, frozen, backbone_weights is None, key))
    if backbone_weights is not None:
        fill_backbone(model, metric, backbone_weights)
    return model


@partial(jax.jit, static_argnames=("kind", "options", "with_backbone"))
def _initial_state(kind: Any, options: tuple, with_backbone: bool, key: jax.Array) -> Any:
    model = kind(rngs=nnx.Rngs(key), **dict(options))
    return nnx.state(model, lambda path, _: with_backbone or path[0] != "backbone")


def fill_backbone(model: Metric, metric: str, path: Weights) -> None:
    """Fill the backbone of ``model`` from a file of ImageNet weights; its classifier is not used.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not hold exactly this backbone's weights; the message lists all keys that differ.
    """
    if model.architecture is None:
        raise ValueError(
            f"{path}: no ImageNet weights fit {metric}, whose network is its own; give weights of {metric}"
        )
    spec = BACKBONES[model.architecture]
    rules = (*spec.rules, *key_map.without(spec.classifier_rules))
    path = spec.file(path)
    arrays = key_map.without_prefix(spec.adapt(files.contents(path).arrays), rules)
    whole = model.backbone
    if model.partial:  # the file holds the left-out stages too
        whole = nnx.eval_shape(lambda: spec.build(width=dict(model.options)["width"], rngs=nnx.Rngs(0)))
    key_map.fill(whole, arrays, rules, source=str(path))
    if model.partial:
        for name in model.backbone.order:
            nnx.update(model.backbone.stage[name], nnx.state(whole.stage[name]))
