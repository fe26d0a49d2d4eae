"""The mean of the scores of several trained metrics, which share the stages that are equal."""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.images import check_unit_images
from jaxiqa.core.types import Images, Scores
from jaxiqa.models.metric import Metric

PROBE = (1, 389, 521, 3)
"""Shape of the images for which the protocols of members are compared: no protocol has these sides."""

Share = tuple[int, int]
"""(an earlier member, number of leading stages that both have); (0, 0): none."""


class Averaged(Metric):
    """``score = k · (mean of member(view(images)) over members and views) + b``, k = 1 and b = 0 at first.

    The scores of members are calibrated. The views are the image, and with ``mirror`` also its mirror image. Build it
    by `average`. Members that share leading stages compute them once.

    A metric without a ``backbone`` of its own: blocks are inserted into the members, before they are averaged.

    Attributes:
        members: the metrics. Their shared stages are the same modules.
        shares: for each member, with which earlier one it shares how many leading stages.
    """

    def __init__(self, members: Sequence[Metric], *, mirror: bool, shares: Sequence[Share]):
        self.members = nnx.List(members)
        self.mirror = mirror
        self.shares = tuple(shares)
        self.input_size = members[0].input_size
        for member, (other, count) in zip(members, self.shares, strict=True):
            for name, theirs in zip(_order(member)[:count], _order(members[other]), strict=False):
                member.backbone.stage[name] = members[other].backbone.stage[theirs]
        self.keep(mirror=mirror)

    def __call__(self, images: Images, key: jax.Array | None = None) -> Scores:
        """Return scores of RGB images in [0, 1]; higher is better."""
        check_unit_images(images)
        if all(member.restartable for member in self.members):
            return self.network(self.prepare(images, key)).reshape(images.shape[0], -1).mean(1)
        # The mean over crops may be part of a member's protocol, as in MANIQA.
        scores = [member(view, key) for member in self.members for view in self._views(images)]
        return self.calibrated(_mean(scores))

    def prepare(self, images: Images, key: jax.Array | None = None) -> Float[Array, "b_n _ _ c"]:
        """Return the pixels of all items of all views, those of image 0 first, by the members' protocol."""
        items = [self.members[0].prepare(view, key) for view in self._views(images)]
        if len(items) == 1:
            return items[0]
        b, shape = images.shape[0], items[0].shape[1:]
        return jnp.concatenate([item.reshape(b, -1, *shape) for item in items], axis=1).reshape(-1, *shape)

    def raw(self, pixels: Images) -> Scores:
        """Return the mean of the members' calibrated scores of prepared items."""
        found: list[Scores] = []
        activations: dict[Share, Any] = {}
        members: list[Any] = list(self.members)  # not only what every `Metric` has
        for number, (member, share) in enumerate(zip(members, self.shares, strict=True)):
            x, done = activations.get(share), share[1]
            for count in sorted({count for other, count in self.shares if count and other == number}):
                stop = member.backbone.order[count - 1]
                start = member.backbone.order[done - 1] if done else None
                x = member.trunk(pixels, stop) if x is None else member.backbone.run(x, start=start, stop=stop)[0]
                activations[number, count], done = x, count
            if x is None:
                found.append(member.network(pixels))
            else:
                found.append(member.calibrated(member.outputs_from(x, member.backbone.order[done - 1])["score"]))
        return _mean(found)

    def item_outputs(self, pixels: Images) -> dict[str, Scores]:
        """Return, as ``score``, `raw` of prepared items, such as crops: the mean over all views of them."""
        return {"score": _mean([self.raw(view) for view in self._views(pixels)])}

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, jax.Array]:
        """Return feature maps of prepared items by name: the member's number and its own name, as in ``1.layer3``."""
        maps = {}
        members: list[Any] = list(self.members)
        for name in names:
            number, _, own = name.partition(".")
            maps[name] = members[int(number)].features(pixels, (own,))[own]
        return maps

    def _views(self, images: Images) -> list[Images]:
        return [images, images[:, :, ::-1]] if self.mirror else [images]


def average(members: Sequence[Metric], *, mirror: bool = False) -> Averaged:
    """Return the mean of several metrics: ``mean of member(view(images))``, in evaluation mode.

    Members over the same backbone that begin with equal stages (structure and every weight, also of inserted blocks)
    store and compute these once, if they are ``restartable`` and read no stage before the end of the shared ones. The
    members themselves are not changed. The score range is the mean of theirs, if all have one.

    Args:
        members: trained metrics with the same protocol (`Metric.prepare`).
        mirror: also average over the image and its mirror image.

    Raises:
        TypeError: a member is not a metric.
        ValueError: no members, or one of them an average, or members with different protocols.

    >>> from jaxiqa.models import build
    >>> a, b = build("resnet18", width=8, seed=1), build("resnet18", width=8, seed=2)
    >>> both, image = average([a, b]), jnp.full((1, 40, 56, 3), 0.5)
    >>> bool(jnp.allclose(both(image), (a(image) + b(image)) / 2, rtol=1e-5))
    True
    """
    check_members(members)
    copies = [nnx.clone(member) for member in members]
    for copy in copies:
        copy.eval()
    result = Averaged(copies, mirror=mirror, shares=shares_of(copies))
    if all(not np.isnan(np.asarray(member.calibration[...])).any() for member in members):
        low, high = np.mean([member.score_range for member in members], axis=0)
        result.calibrate(k=1.0, b=0.0, score_range=(float(low), float(high)))
    return result


def check_members(members: Sequence[Metric]) -> None:
    """Raise an error unless these metrics, which may be abstract, can be averaged."""
    if not members:
        raise ValueError("members is empty; expected at least one metric")
    for number, member in enumerate(members):
        if not isinstance(member, Metric):
            raise TypeError(f"members[{number}] is a {type(member).__name__}; expected a metric, as of `jaxiqa.load`")
        if isinstance(member, Averaged):
            raise ValueError(f"members[{number}] is an average; give its members instead")
    first, *others = (_protocol(member) for member in members)
    for number, other in enumerate(others, 1):
        if other != first:
            described = [f"{type(members[i]).__name__} with input_size={members[i].input_size}" for i in (0, number)]
            raise ValueError(
                f"members[0] ({described[0]}) and members[{number}] ({described[1]}) prepare images differently; "
                "members need the same protocol and the same options of it, such as input_size"
            )


def shares_of(members: Sequence[Metric]) -> list[Share]:
    """Return for each member the earlier one with the most equal leading stages, and their number."""
    found = []
    for number, member in enumerate(members):
        pairs = [(common_stages(member, members[other]), -other) for other in range(number)]
        count, other = max(pairs, default=(0, 0))
        found.append((-other, count) if count else (0, 0))
    return found


def common_stages(one: Metric, other: Metric) -> int:
    """Return how many leading stages two metrics in evaluation mode can share.

    Stages are equal if their structure and all their arrays are. Both metrics can only continue from a stage that is
    not behind the first one that their heads read.

    >>> from jaxiqa.models import build
    >>> a, b = build("resnet18", width=8, seed=1), build("resnet18", width=8, seed=1)
    >>> a.backbone.order[common_stages(a, b) - 1]
    'layer3.1'
    """
    if not (one.restartable and other.restartable) or one.architecture != other.architecture:
        return 0
    limit = min(metric.backbone.order.index(metric.last_restart) + 1 for metric in (one, other))
    for count, (ours, theirs) in enumerate(zip(_order(one)[:limit], _order(other)[:limit], strict=True)):
        if not _equal(one.backbone.stage[ours], other.backbone.stage[theirs]):
            return count
    return limit


def _mean(scores: Sequence[Scores]) -> Scores:
    # By a sum: the Lipschitz bound of a sum is the sum of the bounds, that of stacked arrays is larger.
    return functools.reduce(operator.add, scores) / len(scores)


def _equal(one: nnx.Module, other: nnx.Module) -> bool:
    (structure, state), (structure_2, state_2) = nnx.split(one), nnx.split(other)
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(state_2), strict=False)
    return structure == structure_2 and all(np.array_equal(a, b) for a, b in pairs)


def _order(metric: Metric) -> tuple[str, ...]:
    return metric.backbone.order if hasattr(metric, "backbone") else ()


def _protocol(member: Metric) -> tuple[Any, ...]:
    """Return what decides how a metric prepares images: the program, and the size that is in it."""
    program = jax.make_jaxpr(member.prepare)(jax.ShapeDtypeStruct(PROBE, jnp.float32))
    constants = tuple(np.asarray(value).tobytes() for value in program.consts)
    return str(program.jaxpr), constants, member.input_size
