"""Remove filters that pruning set to zero: the same scores from fewer operations."""

from typing import Any, TypeVar

import numpy as np
from flax import nnx

from jaxiqa.layers.materialize import replace
from jaxiqa.nn.channel_flow import Flow, trace
from jaxiqa.nn.filters import (
    Picked,
    Widened,
    bias_of,
    is_depthwise,
    is_unpadded,
    layers_of,
    normalised,
    select_channels,
    select_filters,
    zero_filters,
)

Module = TypeVar("Module", bound=nnx.Module)


def compact(model: Module, *, size: tuple[int, int] = (384, 384)) -> Module:
    """Copy a pruned metric in evaluation mode without its filters of zeros; scores are the same up to rounding.

    A filter of zeros gives a constant channel. If only convolutions read it, through batch norms, activations, maxima,
    sums and concatenations, they read one channel less, and what it adds goes into their biases. If they pad zeros,
    the channel is not constant at the border; then one constant channel stays and stands in for all others. A depthwise
    filter of zeros also removes the filter that feeds it. Where a map must stay whole (the end of a stage of a
    backbone, a sum with other channels), the convolution computes fewer filters, and constants are put between them. So
    stages give the same maps as before, to heads, blocks and ``features``.

    Filters of convolutions in several groups (ResNeXt) stay, and so do single zeros (the criterion ``"l1"``).

    `jaxiqa.models.score_fn`, `fold_batch_norm` and `materialize` take the copy: first compact, then score_fn. The copy
    cannot be saved: save the pruned metric, and compact it after loading.

    Operations for one image of 224×224 as XLA counts them on a CPU, random weights, biases and statistics, criterion
    ``"l2"``, `jaxiqa.models.Linearity`, GFLOP and share:

        ==================  ======  ============  ============
        backbone            whole   10 % pruned   50 % pruned
        ==================  ======  ============  ============
        resnet18            3.581   3.088  86 %   1.360  38 %
        mobilenet_v2        0.618   0.505  82 %   0.170  28 %
        efficientnet_lite0  0.804   0.652  81 %   0.217  27 %
        ==================  ======  ============  ============

    Fewer operations need not be quicker: measure it. XLA's convolutions on CPUs prefer powers of two.

    Args:
        model: the metric; it is not changed.
        size: (height, width) of the images for tracing: any size the metric accepts; the result does not depend on it.

    Raises:
        TypeError: ``model`` is no metric, such as the result of `jaxiqa.models.score_fn`.
        ValueError: no filter is zero.

    >>> import jax, jax.numpy as jnp
    >>> from jaxiqa.models import build
    >>> model, image = build("resnet18", width=8), jnp.full((1, 40, 40, 3), 0.5)
    >>> for name in ("layer1.0", "layer2.0"):
    ...     kernel = model.backbone.stage[name].conv1.kernel
    ...     kernel[...] = kernel[...].at[..., ::2].set(0)
    >>> small = compact(model)
    >>> small.backbone.stage["layer1.0"].conv1.kernel.shape, small.backbone.stage["layer1.0"].conv2.kernel.shape
    ((3, 3, 8, 4), (3, 3, 4, 8))
    >>> bool(jnp.allclose(small(image), model(image), rtol=1e-5))
    True
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a metric: call compact first, then score_fn")
    probe, copy = nnx.clone(model), nnx.clone(model)
    probe.eval()
    copy.eval()
    found, spots = trace(probe, size), layers_of(copy)
    if not any(zero_filters(found.layers[place]).any() for place in found.inputs):
        raise ValueError(
            f"no convolution of this {type(model).__name__} has a filter of zeros, so nothing can be removed; prune "
            "whole filters first (criterion l2, pls, displs or hsic; l1 removes single weights)"
        )
    removed, stand_ins = choose(found)
    sliced: set[int] = set()
    for place in found.inputs:
        new = smaller(found, place, removed, stand_ins, [layer for layer, _ in spots])
        sliced |= new.keys()
        for other, module in new.items():
            for parent, key in spots[other][1]:
                replace(parent, key, module)
    for place, ids in found.outputs.items():
        kept = ~np.isin(found.numbers.roots(ids), list(removed))
        if isinstance(found.layers[place], nnx.BatchNorm) and place not in sliced and not kept.all():
            select_channels(spots[place][0], np.flatnonzero(kept))
    return copy


def choose(found: Flow) -> tuple[set[int], set[int]]:
    """Return the numbers of the channels to remove, and of those that stand in for others.

    A channel can be removed if its place is free and all dense convolutions that read it read a constant. If zeros are
    padded around it, it is not constant for the convolution, but a multiple of any other constant channel that is not
    zero: one of them stays and stands in for the others.
    """
    dense = {place: x for place, x in found.inputs.items() if not is_depthwise(found.layers[place])}
    constant: dict[int, bool] = {}
    for x in dense.values():
        for number, known in zip(found.numbers.roots(x.ids).tolist(), x.known.tolist(), strict=True):
            constant[number] = constant.get(number, True) and known
    removed = {number for number, known in constant.items() if known and not found.numbers.is_pinned(number)}
    stand_ins: set[int] = set()
    for place, x in dense.items():
        roots = found.numbers.roots(x.ids)
        counts = x.known & (x.values != 0)
        if not is_unpadded(found.layers[place]) and (counts & np.isin(roots, list(removed))).any():
            stand_in = int(roots[np.argmax(np.where(counts, np.abs(x.values), -1))])
            stand_ins.add(stand_in)
            removed.discard(stand_in)
    for ids in (*found.outputs.values(), *(x.ids for x in found.inputs.values())):
        roots = found.numbers.roots(ids)
        if set(roots.tolist()) <= removed:
            removed.discard(int(roots[0]))  # no map may be empty
    return removed, stand_ins


def smaller(
    found: Flow, place: int, removed: set[int], stand_ins: set[int], layers: list[Any]
) -> dict[int, nnx.Module]:
    """Change one convolution of ``layers`` in place, and return what takes its place and that of its batch norm.

    Args:
        found: the result of `jaxiqa.nn.channel_flow.trace`.
        place: of the convolution.
        removed, stand_ins: the result of `choose`.
        layers: the layers of the copy, in the order of ``found.layers``.
    """
    layer, x = layers[place], found.inputs[place]
    depthwise = is_depthwise(layer)
    if place in found.fixed or (layer.feature_group_count > 1 and not depthwise):
        return {}
    zero, bias = zero_filters(layer), bias_of(layer)
    gone = np.isin(found.numbers.roots(x.ids), list(removed))
    kernel = np.asarray(layer.kernel[...], np.float64)
    if not depthwise and gone.any():
        kernel, bias = without_inputs(layer, kernel, bias, x.values, x.known, gone)
    roots = found.numbers.roots(found.outputs[place])
    kept = np.flatnonzero(~np.isin(roots, list(removed)))
    empty = zero[kept]
    if set(roots[kept][empty].tolist()) <= stand_ins or empty.all():
        empty[:] = False
    computed = kept[~empty]
    if len(computed) == len(zero) and not gone.any():
        return {}
    select_filters(layer, kernel, bias, computed)
    new: dict[int, nnx.Module] = {place: layer}
    if depthwise and len(computed) < (len(zero) if place in found.split else len(kept)):
        picked = computed if place in found.split else np.flatnonzero(~empty)
        new[place] = Picked(layer, picked)
    if empty.any():
        norm = found.pairs.get(place)
        constants = np.where(empty, (bias if norm is None else normalised(layers[norm], bias))[kept], 0)
        if norm is not None:
            select_channels(layers[norm], computed)
        inner = place if norm is None else norm
        new[inner] = Widened(new.get(inner, layers[inner]), np.flatnonzero(~empty), constants)
    return new


def without_inputs(
    layer: nnx.Conv, kernel: np.ndarray, bias: np.ndarray, values: np.ndarray, known: np.ndarray, gone: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias of a dense convolution that does not read the channels ``gone``, which are constant.

    Without padding, a channel of value v adds v · Σ kernel to the bias. With padding, v / u times its kernel is added
    to that of a channel that stays and has the value u.

    >>> layer, gone = nnx.Conv(2, 1, (1, 1), padding="VALID", rngs=nnx.Rngs(0)), np.array([False, True])
    >>> kernel, bias = without_inputs(layer, np.ones((1, 1, 2, 1)), np.zeros(1), np.array([0, 3]), gone, gone)
    >>> kernel.shape, bias.tolist()
    ((1, 1, 1, 1), [3.0])
    """
    added = np.where(gone, values, 0).astype(np.float64)
    if is_unpadded(layer):
        bias = bias + np.einsum("hwio,i->o", kernel, added)
    elif added.any():
        kept = np.where(known & ~gone, np.abs(values), -1)
        stand_in = int(np.argmax(kept))
        kernel = kernel.copy()
        kernel[:, :, stand_in] += np.einsum("hwio,i->hwo", kernel, added / np.float64(values[stand_in]))
    return kernel[:, :, ~gone], bias
