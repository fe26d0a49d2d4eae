"""Image-quality metrics: build one over a backbone, harden it, save it, load it, and call it as a score function."""

import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
from flax import nnx

from jaxiqa.layers import materialize
from jaxiqa.models import convert, weights
from jaxiqa.models.backbones import BACKBONES
from jaxiqa.models.harden import POSITIONS, harden
from jaxiqa.models.hyperiqa import HYPERIQA
from jaxiqa.models.linearity import LINEARITY, Linearity
from jaxiqa.models.metaiqa import METAIQA
from jaxiqa.models.paq2piq import PAQ2PIQ
from jaxiqa.models.spaq import SPAQ_BL
from jaxiqa.models.store import load, save
from jaxiqa.types import Images, Scores

MODELS = {
    "linearity": LINEARITY,
    "spaq_bl": SPAQ_BL,
    "metaiqa": METAIQA,
    "hyperiqa": HYPERIQA,
    "paq2piq": PAQ2PIQ,
}

__all__ = ["BACKBONES", "MODELS", "POSITIONS", "Linearity", "ScoreModel", "build", "harden", "load", "save", "score_fn"]


def build(
    backbone: str,
    *,
    width: int | None = None,
    taps: tuple[str, str] | None = None,
    input_size: tuple[int, int] | None = None,
    backbone_weights: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Linearity:
    """A new Linearity metric: fresh heads over a fresh or an ImageNet-trained backbone.

    Args:
        backbone, width, taps, input_size: see `Linearity`.
        backbone_weights: file with the published ImageNet weights of this backbone; its classifier is left out.
        seed: of everything that starts at random.

    Raises:
        ValueError: the file does not hold exactly this backbone's weights; every key that differs is listed.

    >>> build("resnet18", width=8).taps
    ('layer3', 'layer4')
    """
    options = (("width", width), ("taps", taps), ("input_size", input_size))
    model = nnx.eval_shape(lambda: Linearity(backbone, rngs=nnx.Rngs(0), **dict(options)))
    # One program for all parameters, and a generator that compiles four times faster than the default.
    key = jax.random.key(seed, impl="rbg")
    nnx.update(model, _initial_state(backbone, options, backbone_weights is None, key))
    if backbone_weights is not None:
        spec = BACKBONES[backbone]
        rules = (*spec.keys, *convert.without(spec.classifier_keys))
        convert.fill(model.backbone, weights.read(backbone_weights), rules, source=str(backbone_weights))
    return model


@partial(jax.jit, static_argnames=("backbone", "options", "with_backbone"))
def _initial_state(backbone: str, options: tuple, with_backbone: bool, key: jax.Array) -> Any:
    model = Linearity(backbone, rngs=nnx.Rngs(key), **dict(options))
    return nnx.state(model, lambda path, _: with_backbone or path[0] != "backbone")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ScoreModel:
    """A metric as a pytree that can be called: jitted functions take it as an argument.

    Two models of one structure share every compiled program; their weights are data.
    """

    graphdef: Any = field(metadata={"static": True})
    state: Any

    def __call__(self, images: Images) -> Scores:
        return nnx.merge(self.graphdef, self.state)(images)


def score_fn(model: Linearity, image_size: tuple[int, int] | None = None) -> ScoreModel:
    """The model as it is now, as a pure function ``images b h w c -> scores b``, in evaluation mode.

    Args:
        model: the metric; left as it was, and what happens to it later does not change the function.
        image_size: (height, width) of the images that will be scored. With it, or where the model resizes every image
            to its ``input_size``, orthogonal maps are built once and for all (`jaxiqa.layers.materialize`); otherwise
            they are built anew in every call, and images of any size are taken.

    >>> import jax.numpy as jnp
    >>> score = score_fn(build("resnet18", width=8))
    >>> jax.jit(lambda f, x: f(x))(score, jnp.zeros((2, 40, 40, 3))).shape
    (2,)
    """
    model = nnx.clone(model)
    model.eval()
    size = model.input_size or image_size
    model = materialize(model, size) if size else model
    return ScoreModel(*nnx.split(model))
