"""Describe what decides the parameters of a trained variant, and compare two descriptions."""

import json
from dataclasses import asdict, replace
from typing import Any

from jaxiqa.config.data import Data
from jaxiqa.config.experiment import Experiment
from jaxiqa.config.training import Average, Model, Saved, Variant

UNUSED: dict[str, tuple[str, ...]] = {"folder": ("mos_range",), "builtin": ("test",)}
"""Options of a data set that do not change the training images and labels."""


def describe(experiment: Experiment, variant: str, seed: int) -> dict[str, Any]:
    """Return all that decides the parameters of one trained variant, as JSON data: the content of ``config.json``.

    It includes the chain of parents, the members of an average and every teacher, so that a change of any is detected.
    """
    described = {
        "data": _data(experiment.data),
        "model": _model(experiment.model),
        "variants": _links(experiment, variant),
        "seed": seed,
    }
    return without_unused(json.loads(json.dumps(described)))


def chain(experiment: Experiment, variant: str) -> list[str]:
    """Return the names of all parents of a variant, the first parent first, and of the variant itself.

    Averages and saved metrics have no parents.
    """
    names = [variant]
    while isinstance(first := experiment.variants[names[0]], Variant) and first.parent is not None:
        names.insert(0, first.parent)
    return names


def teacher_of(variant: Variant | Average | Saved) -> str | None:
    """Return the name of the variant that teaches another one, or None."""
    if not isinstance(variant, Variant) or not (chosen := variant.training.taught) or chosen.weights:
        return None
    return chosen.teacher or variant.parent


def _links(experiment: Experiment, variant: str) -> list[dict[str, Any]]:
    found = []
    for name in chain(experiment, variant):
        link = experiment.variants[name]
        if isinstance(link, Average):
            members = [_links(experiment, member) for member in link.members]
            found.append({"members": members, "mirror": link.mirror})
        elif isinstance(link, Saved):
            found.append(asdict(link))
        else:
            found.append(_described(replace(link, parent=None)))
        if teacher := teacher_of(link):
            found[-1]["teacher"] = _links(experiment, teacher)
    return found


def without_unused(described: dict[str, Any]) -> dict[str, Any]:
    """Remove the options in `UNUSED`, which older versions wrote, from a description.

    >>> without_unused({"data": {"name": "folder", "options": {"csv": "a.csv", "mos_range": [0, 5]}}})
    {'data': {'name': 'folder', 'options': {'csv': 'a.csv'}}}
    """
    data = described.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("options"), dict):
        return described
    unused = UNUSED.get(data.get("name", ""), ())
    options = {key: value for key, value in data["options"].items() if key not in unused}
    return {**described, "data": {**data, "options": options}}


def differences(before: dict[str, Any], today: dict[str, Any], names: list[str]) -> list[str]:
    """List the fields that differ, with both values.

    Args:
        before, today: descriptions of one variant.
        names: names of today's chain, see `chain`.

    >>> before, today = ({"seed": 0, "variants": [{"training": {"epochs": n}}]} for n in (20, 25))
    >>> differences(before, today, ["baseline"])
    ['variants.baseline.training.epochs: 20 -> 25']
    """
    before, old, new = without_unused(before), before.get("variants"), today["variants"]
    if not isinstance(old, list) or len(old) != len(new):
        count = len(old) - 1 if isinstance(old, list) else 0
        return [f"variants.{names[-1]}: number of its parents: {count} -> {len(new) - 1}"]
    found = []
    for name, ours, theirs in zip(names, old, new, strict=True):
        found += _changes(f"variants.{name}", ours, theirs)
    for key in sorted((before.keys() | today.keys()) - {"variants"}):
        found += _changes(key, before.get(key), today.get(key))
    return found


def _changes(where: str, before: Any, today: Any) -> list[str]:
    if before == today:
        return []
    if isinstance(before, dict) and isinstance(today, dict):
        keys = [*today, *(key for key in before if key not in today)]
        return [line for key in keys for line in _changes(f"{where}.{key}", before.get(key), today.get(key))]
    if _nested(before) and _nested(today) and len(before) == len(today):
        pairs = enumerate(zip(before, today, strict=True))
        return [line for i, pair in pairs for line in _changes(f"{where}[{i}]", *pair)]
    return [f"{where}: {before!r} -> {today!r}"]


def _nested(value: Any) -> bool:
    """Return whether this is a list of descriptions."""
    return isinstance(value, list) and all(isinstance(item, dict | list) for item in value)


def _data(data: Data) -> dict[str, Any]:
    described = asdict(data)
    if data.folds is None:  # as above
        del described["folds"], described["fold"]
    return described


def _model(model: Model) -> dict[str, Any]:
    # Fields that are not used are left out, so that runs from before they existed can continue.
    unused = {name for name, value in (("metric", "linearity"), ("options", {})) if getattr(model, name) == value}
    return {name: value for name, value in asdict(model).items() if name not in unused}


LATER: dict[str, Any] = {
    "labels": "standardised",
    "select": "srocc",
    "schedule": "steps",
    "warmup": 0,
    "weight_decay": 0,
    "crops": 0,
    "crop": None,
    "patches": 1,
    "resize": None,
    "average": 0,
    "accumulate": 1,
    "precision": "float32",
    "remat": False,
    "adversarial": None,
    "norm_penalty": None,
    "jacobian": None,
    "spectral": None,
    "distil": None,
    "soft_labels": None,
    "attacked_mode": "eval",
}
"""Fields of a training that are left out with this value, so that runs from before they existed can continue."""


def _described(variant: Variant) -> dict[str, Any]:
    described = asdict(variant)
    for name, unused in LATER.items():
        if described["training"][name] == unused:
            del described["training"][name]
    if distil := described["training"].get("distil"):
        for name, unused in (("weights", None), ("distorted", 0), ("target", "teacher"), ("attacked", False)):
            if distil[name] == unused:
                del distil[name]
    if adversarial := described["training"].get("adversarial"):
        for name, unused in (("clean", True), ("weakest", 1.0)):
            if adversarial[name] == unused:
                del adversarial[name]
    for name in ("activation", "head_activation", "filter", "blur", "pooling", "tail"):
        if described[name] is None:
            del described[name]
    if described["prune"] and described["prune"]["criterion"] in ("l1", "l2"):
        del described["prune"]["images"]  # not used
    if described["prune"] and described["prune"]["steps"] == 1:
        del described["prune"]["steps"]
    if isinstance(described["block"], tuple) and len(described["block"]) < 2:
        described["block"] = next(iter(described["block"]), None)  # as a single block
    return described
