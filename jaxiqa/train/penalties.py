"""What a training adds to the loss of its labels: prices on slopes, on norms of layers, and on leaving a teacher."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxiqa.config import Training
from jaxiqa.core.pytrees import as_pytree
from jaxiqa.core.types import Images, ScoreFn, Scores
from jaxiqa.defenses import LABELS, jacobian_penalty, norm_penalty, relabel
from jaxiqa.defenses.adversarial_training import Distance
from jaxiqa.layers import spectral_norm
from jaxiqa.models.metric import Metric
from jaxiqa.nn.fold import followed_by_norm
from jaxiqa.train.losses import LOSSES
from jaxiqa.train.state import RawScore
from jaxiqa.train.step import DEFAULTS, Augment, Penalty
from jaxiqa.train.units import SCORE, Line, on

UNLABELLED = 1001
"""Makes the random keys of unlabelled images differ from those of the labelled ones, which attacks fold 0 to 2 into."""
Path = tuple[Any, ...]
LayerPaths = tuple[tuple[Path, Path | None], ...]
"""Path of each layer in the metric, and of the batch norm after it."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Affine:
    """The scores of a teacher in the unit of the labels: ``factor · score + offset``."""

    score_fn: ScoreFn
    factor: Any
    offset: Any

    def __call__(self, images: Images) -> Scores:
        return self.factor * self.score_fn(images) + self.offset


def make_penalty(
    training: Training,
    *,
    layers: LayerPaths = (),
    teacher: ScoreFn | None = None,
    unit: Mapping[str, Line] = MappingProxyType({}),
    labels: tuple[float, float] = (0.0, 1.0),
    augment: Augment | None = None,
) -> Penalty | None:
    """Return the sum of all penalties that a training names, for `jaxiqa.train.loop.fit`; None if it names none.

    Args:
        training: complete (`jaxiqa.train.recipes.with_recipes`).
        layers: the result of `backbone_layers`, for ``training.spectral``.
        teacher: scores of the teacher in the unit of the labels, for ``training.distil``; others do not use it.
        unit: of the metric's own scores, see `jaxiqa.train.units`.
        labels: the lowest and the highest label, for ``training.distil.target``.
        augment: attacks the images of ``training.distil``; None: no attack.
    """
    parts: list[Penalty] = []
    if norm := training.norm_penalty:
        parts.append(Partial(partial(_norm, scale_free=norm.scale_free), step=norm.step, weight=norm.weight))
    if jacobian := training.jacobian:
        parts.append(Partial(partial(_jacobian, jacobian.stage), step=jacobian.step, weight=jacobian.weight))
    if spectral := training.spectral:
        parts.append(Partial(partial(_spectral, layers), limit=spectral.limit, weight=spectral.weight))
    if distil := training.distil:
        assert training.loss is not None
        compare = partial(_distil, LOSSES[training.loss], partial(on, dict(unit), SCORE))
        if distil.target != "teacher":
            teacher = Partial(partial(_lowered, LABELS[distil.target]), teacher, low=labels[0], high=labels[1])
        parts.append(Partial(compare, teacher, augment or DEFAULTS["augment"], weight=distil.weight))
    return Partial(_sum, tuple(parts)) if parts else None


def _sum(parts: tuple[Penalty, ...], score_fn: ScoreFn, batch: Any, keys: Any, *, gather: Callable) -> Array:
    return sum((part(score_fn, batch, keys, gather=gather) for part in parts), jnp.float32(0))


def _norm(score_fn: ScoreFn, batch: Any, keys: Any, *, gather: Callable, **options: Any) -> Array:
    return norm_penalty(score_fn, batch["image"], gather=gather, **options)


def _jacobian(stage: str, score_fn: RawScore, batch: Any, keys: Any, *, gather: Callable, **options: Any) -> Array:
    return jacobian_penalty(
        Partial(partial(_features, stage), score_fn), batch["image"], keys, gather=gather, **options
    )


def _features(stage: str, score_fn: RawScore, images: Array) -> Array:
    model = score_fn.model()
    pixels = images if score_fn.items else model.prepare(images)
    found = model.features(pixels, (stage,))[stage]
    return found.reshape(len(images), -1, found.shape[-1])  # an image may be cut into several items


def _spectral(
    layers: LayerPaths, score_fn: RawScore, batch: Any, keys: Any, *, gather: Callable, limit: Any, weight: Any
) -> Array:
    return weight * excess(layer_norms(score_fn.model(), layers), limit)


def _distil(
    loss: Callable,
    in_unit: Callable[[Array], Array],
    teacher: ScoreFn,
    augment: Augment,
    score_fn: ScoreFn,
    batch: Any,
    keys: Any,
    *,
    gather: Callable,
    weight: Any,
) -> Array:
    images = batch["unlabelled"]
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, UNLABELLED)
    now = jax.lax.stop_gradient(as_pytree(score_fn))
    shown, targets = augment(now, images[..., :3], teacher(images), own, gather=gather)
    return weight * loss(gather(in_unit(score_fn(shown))), gather(targets))


def _lowered(distance: Distance, teacher: ScoreFn, pairs: Float[Array, "b h w 6"], *, low: Any, high: Any) -> Scores:
    """Return the teacher's scores of the undistorted images (the last three channels), lowered by the distance."""
    images, before = pairs[..., :3], pairs[..., 3:]
    return relabel(teacher(before), distance(before, images), low=low, high=high)


def excess(norms: Float[Array, " n"], limit: Float[Array, ""] | float) -> Float[Array, ""]:
    """Return the mean over layers of max(0, log(σ / limit))².

    The logarithms of a chain's norms add up to that of its Lipschitz bound, so a price on them weighs all layers alike,
    whatever their size.

    >>> round(float(excess(jnp.array([0.5, 1.0, jnp.e]), 1.0)), 4)
    0.3333
    """
    return jnp.mean(jnp.square(jnp.maximum(jnp.log(jnp.maximum(norms, 1e-12) / limit), 0.0)))


def backbone_layers(model: Metric, freeze: str | None = None) -> LayerPaths:
    """Return the convolutions and linear maps of the stages after ``freeze``, and the batch norms after them.

    Raises:
        ValueError: there are none.
    """
    view = nnx.clone(model)
    view.eval()
    paths = {id(module): path for path, module in nnx.iter_modules(view)}
    norms = {id(layer): paths[id(norm)] for layer, norm in followed_by_norm(view, (384, 384))}
    return tuple((paths[id(layer)], norms.get(id(layer))) for layer in trained_layers(view, freeze))


def trained_layers(model: Metric, freeze: str | None = None) -> list[nnx.Conv | nnx.Linear]:
    """Return the layers of `backbone_layers`.

    Raises:
        ValueError: there are none.
    """
    if not hasattr(model, "backbone"):
        raise ValueError(f"spectral: a {type(model).__name__} has no backbone of named stages")
    order = model.backbone.order
    trained = set(order[model.backbone.span(freeze)[1] + 1 :] if freeze else order)
    found = [
        module
        for path, module in nnx.iter_modules(model)
        if isinstance(module, nnx.Conv | nnx.Linear) and path[:2] == ("backbone", "stage") and path[2] in trained
    ]
    if not found:
        raise ValueError("spectral: the trained stages have no convolution and no linear map")
    return found


def layer_norms(model: nnx.Module, layers: LayerPaths) -> Float[Array, " n"]:
    """Return the spectral norm of each layer, with the factors of the batch norm after it (`spectral_norm`).

    Batch norms count with their running statistics. Differentiable in kernels and in the scales of batch norms.
    """
    return jnp.stack([_layer_norm(_module(model, path), norm and _module(model, norm)) for path, norm in layers])


def _layer_norm(layer: Any, norm: Any) -> Float[Array, ""]:
    kernel = layer.kernel[...]
    if norm is not None:
        scale = 1.0 if norm.scale is None else norm.scale[...]
        kernel = kernel * (scale / jnp.sqrt(norm.var[...] + norm.epsilon))
    if kernel.ndim == 2:
        kernel = kernel[None, None]
    return spectral_norm(kernel, groups=getattr(layer, "feature_group_count", 1))


def _module(model: Any, path: Path) -> Any:
    for key in path:
        model = getattr(model, key) if isinstance(key, str) else model[key]
    return model
