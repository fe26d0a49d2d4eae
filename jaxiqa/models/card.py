"""The card of a saved metric, ``model.json``: how it was built, and its calibration; not its weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax import nnx

from jaxiqa.models.activations import swap_activation, swapped
from jaxiqa.models.antialiasing import blur_strides, blurred
from jaxiqa.models.averaged import Averaged
from jaxiqa.models.hardening import harden
from jaxiqa.models.metric import Metric
from jaxiqa.models.pooling import pooling_of, swap_pooling
from jaxiqa.models.registry import MODELS

FORMAT = 2
SWAPPED = 3
"""Format of the card of a metric with swapped activations, which has a field more. Versions that would ignore the field
refuse this format."""
AVERAGED = 4
"""Format of the card of an average: instead of blocks it has the cards of its members, and what they share."""
CHANGED = 5
"""Format of the card of a metric with blurred strides or another pooling: it may have ``blur`` and ``pooling``."""
FIELDS = ("model", "options", "k", "b", "score_range", "sha256")
OWN = {
    FORMAT: ("blocks",),
    SWAPPED: ("blocks", "activations"),
    AVERAGED: ("members", "shares"),
    CHANGED: ("blocks", "activations"),
}
"""Format -> its fields besides `FIELDS`."""
NAME = "averaged"
"""Name of an average in its card; it is in no registry, since it cannot be built without members."""


def describe(model: Metric) -> dict[str, Any]:
    """Return the fields of a metric's card, without the digest of its weights.

    Raises:
        ValueError: the model, or a member of it, is not calibrated; or its activations are of several kinds.
    """
    card: dict[str, Any] = {"format": FORMAT}
    if isinstance(model, Averaged):
        members = [describe(member) for member in model.members]
        card |= {"format": AVERAGED, "model": NAME, "options": dict(model.options), "members": members}
        card |= {"shares": [list(share) for share in model.shares]}
    else:
        card |= {"model": _name_of(model), "options": dict(model.options)}
        card["blocks"] = [
            {"name": block.name, "where": block.where, "kind": block.kind, "options": dict(block.options)}
            for block in model.insertions
        ]
    k, b = (float(value) for value in model.calibration[:2])
    card |= {"k": k, "b": b, "score_range": list(model.score_range)}
    if isinstance(model, Averaged):
        return card
    if activations := swapped(model):
        card |= {"format": SWAPPED, "activations": activations}
    changes = {"blur": blurred(model), "pooling": pooling_of(model)}
    if changes := {name: value for name, value in changes.items() if value is not None}:
        card |= {"format": CHANGED, "activations": activations, **changes}
    return card


def _name_of(model: Metric) -> str:
    return next(name for name, published in MODELS.items() if published.metric is type(model))


def current(card: dict[str, Any]) -> dict[str, Any]:
    """Convert a card of format 1, which described only Linearity, to the present format; return others unchanged."""
    if card.get("format") != 1:
        return card
    options = {name: card[name] for name in ("backbone", "width", "taps", "input_size") if name in card}
    return {**card, "format": FORMAT, "options": options}


def check(card: dict[str, Any], path: Path, *, member: bool = False) -> None:
    """Raise ``ValueError`` for a card that cannot be read: another format or metric, or a missing field."""
    version = card.get("format") if isinstance(card, dict) else None
    if version not in OWN:
        raise ValueError(f"{path}: format={version!r} is not allowed; this version reads 1 to {max(OWN)}")
    own = OWN[version]
    fields = [field for field in (*FIELDS, *own) if not (member and field == "sha256")]
    if missing := [field for field in fields if field not in card]:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(missing)}")
    if version == AVERAGED:
        for one in card["members"]:
            check(one, path, member=True)
    elif card["model"] not in MODELS:
        raise ValueError(f"{path}: model={card['model']!r} is not allowed; this version supports {', '.join(MODELS)}")


def build(card: dict[str, Any]) -> Metric:
    """Return the metric that a card describes, with new weights and without calibration."""
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in card["options"].items()
    }
    if card["format"] == AVERAGED:
        shares = [(other, count) for other, count in card["shares"]]
        return Averaged([build(member) for member in card["members"]], **options, shares=shares)
    kind: Callable[..., Metric] = MODELS[card["model"]].metric
    model = kind(**options, rngs=nnx.Rngs(0))
    for block in card["blocks"]:
        harden(model, block["where"], block["kind"], name=block["name"], rngs=nnx.Rngs(0), **block["options"])
    for part, activation in card.get("activations", {}).items():
        swap_activation(model, activation, part=part)
    if taps := card.get("blur"):
        blur_strides(model, taps)
    if pooling := card.get("pooling"):
        swap_pooling(model, pooling)
    return model


def calibrate(model: Metric, card: dict[str, Any]) -> None:
    """Set the calibration that a card describes, also of the members of an average."""
    model.calibrate(k=card["k"], b=card["b"], score_range=tuple(card["score_range"]))
    for member, own in zip(getattr(model, "members", ()), card.get("members", ()), strict=True):
        calibrate(member, own)
