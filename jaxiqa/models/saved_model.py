"""A trained metric on disk: ``model.json`` describes it, ``model.safetensors`` holds its parameters."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax import nnx

from jaxiqa.core.differences import listed
from jaxiqa.core.files import write_bytes, write_text
from jaxiqa.models.activations import swap_activation, swapped
from jaxiqa.models.blurring import blur_of, blur_strides
from jaxiqa.models.hardening import harden
from jaxiqa.models.metric import Metric
from jaxiqa.models.pooling import pooling_of, swap_pooling
from jaxiqa.models.registry import MODELS
from jaxiqa.pretrained import files, key_map

FORMAT = 2
SWAPPED = 3
"""Format of the card of a metric with swapped activations, which has a field more. Versions that would ignore the field
refuse this format."""
REWORKED = 4
"""Format of the card of a metric with blurred strides or a swapped pooling, which has three fields more."""
FIELDS = ("model", "options", "blocks", "k", "b", "score_range", "sha256")
ADDED = {FORMAT: (), SWAPPED: ("activations",), REWORKED: ("activations", "blur", "pooling")}
"""Format -> the fields of its cards besides `FIELDS`."""


def save(model: Metric, folder: str | Path) -> None:
    """Write the metric into ``folder``; the weights first, so that a card always describes existing weights.

    Raises:
        ValueError: the model is not calibrated yet, or could not be loaded again: it was folded, compacted or
            materialized, or its modules were changed by hand.
        jaxiqa.core.files.WriteError: the folder cannot be written, or the disk is full. Existing files are unchanged.

    >>> import tempfile
    >>> from jaxiqa import models
    >>> metric = models.build("resnet18", width=4, taps=("layer1", "layer2"))
    >>> metric.calibrate(k=10.0, b=50.0, score_range=(0.0, 100.0))
    >>> folder = Path(tempfile.mkdtemp())
    >>> models.save(metric, folder)
    >>> models.load_run(folder).score_range
    (0.0, 100.0)
    """
    folder = Path(folder)
    low, high = model.score_range
    arrays = {name: np.asarray(variable[...]) for name, variable in key_map.parameters(model).items()}
    content = safetensors.numpy.save(arrays)
    card = {
        "format": FORMAT,
        "model": _name_of(model),
        "options": dict(model.options),
        "blocks": [
            {"name": block.name, "where": block.where, "kind": block.kind, "options": dict(block.options)}
            for block in model.insertions
        ],
        "k": float(model.calibration[0]),
        "b": float(model.calibration[1]),
        "score_range": [low, high],
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    if activations := swapped(model):
        card |= {"format": SWAPPED, "activations": activations}
    blur, pooling = blur_of(model), pooling_of(model)
    if blur or pooling:
        card |= {"format": REWORKED, "activations": activations, "blur": blur, "pooling": pooling}
    _check_arrays(model, card)
    write_bytes(folder / "model.safetensors", content)
    write_text(folder / "model.json", json.dumps(card | {"seal": _seal(card)}, indent=1))


def run_folder(path: str | Path) -> Path | None:
    """Return the folder of the trained model that ``path`` refers to, or None for a file that belongs to none.

    The path may be the folder itself, its ``model.safetensors`` or ``model.json``, or a parent folder with exactly one
    trained model: ``runs/mine/baseline`` for ``runs/mine/baseline/seed0``.

    Raises:
        FileNotFoundError: this folder has no trained model.
        ValueError: it has several; all are listed.
    """
    path = Path(path)
    if (path / "model.json").is_file():
        return path
    if path.is_file():
        ours = path.name in ("model.safetensors", "model.json") and path.with_name("model.json").is_file()
        return path.parent if ours else None
    found = sorted(card.parent for below in ("*", "*/*") for card in path.glob(f"{below}/model.json"))
    if not found:
        raise FileNotFoundError(f"{path} holds no trained model (model.json); was the training finished?")
    if len(found) > 1:
        raise ValueError(
            f"{path} holds {len(found)} trained models; pass one of them:\n{listed(list(map(str, found)))}"
        )
    return found[0]


def _name_of(model: Metric) -> str:
    return next(name for name, published in MODELS.items() if published.metric is type(model))


def _converted(card: dict[str, Any]) -> dict[str, Any]:
    """Convert a card of format 1, which described only Linearity, to the current format."""
    options = {name: card[name] for name in ("backbone", "width", "taps", "input_size") if name in card}
    return {**card, "format": FORMAT, "options": options}


def load(folder: str | Path) -> Metric:
    """Load the metric that `save` wrote, in evaluation mode.

    Args:
        folder: any path that `run_folder` accepts.

    Raises:
        FileNotFoundError: ``folder`` has no model.
        ValueError: the card cannot be read, was changed after it was written, or describes other weights.

    >>> import tempfile
    >>> from jaxiqa import models
    >>> metric = models.build("resnet18", width=4, taps=("layer1", "layer2"))
    >>> metric.calibrate(k=10.0, b=50.0, score_range=(0.0, 100.0))
    >>> folder = Path(tempfile.mkdtemp())
    >>> models.save(metric, folder)
    >>> models.load_run(folder).score_range
    (0.0, 100.0)
    """
    found = run_folder(folder)
    if found is None:
        raise FileNotFoundError(f"{folder} is a file of no training run; pass the run's folder")
    path, folder = found / "model.json", found
    try:
        card: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    # The seal covers the card as it was written; None: the card is older than seals.
    changed = isinstance(card, dict) and card.pop("seal", None) not in (None, _seal(card))
    card = _converted(card) if isinstance(card, dict) and card.get("format") == 1 else card
    version = card.get("format") if isinstance(card, dict) else None
    if version not in ADDED:
        raise ValueError(f"{path}: format={version!r} is not allowed; this version reads 1 to {REWORKED}")
    fields = (*FIELDS, *ADDED[version])
    if missing := [field for field in fields if field not in card]:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(missing)}")
    if card["model"] not in MODELS:
        raise ValueError(f"{path}: model={card['model']!r} is not allowed; this version supports {', '.join(MODELS)}")
    file = folder / "model.safetensors"
    arrays = files.read(file)
    if hashlib.sha256(file.read_bytes()).hexdigest() != card["sha256"]:
        raise ValueError(f"{file} does not match the digest in model.json; it is damaged or belongs to another model")
    model = _abstract(card)
    key_map.fill(model, arrays, key_map.IDENTITY, source=str(file))
    if changed:
        raise ValueError(f"{path} is damaged: it was changed after it was written; restore it, or train again")
    model.calibrate(k=card["k"], b=card["b"], score_range=tuple(card["score_range"]))
    return model


def _abstract(card: dict[str, Any]) -> Metric:
    """Return the metric that a card describes, as shapes."""
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in card["options"].items()}

    def empty() -> Metric:
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

    return nnx.eval_shape(empty)


def _check_arrays(model: Metric, card: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless the model that `load` would build has the same arrays."""
    found, expected = (
        {name: tuple(variable.shape) for name, variable in key_map.parameters(each).items()}
        for each in (model, _abstract(card))
    )
    if found != expected:
        different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ValueError(
            f"{len(different)} arrays, such as {different[0]}, differ from those of the {card['model']} that the card "
            "describes, so the model could not be loaded again; save it before it is folded, compacted or materialized"
        )


def _seal(card: dict[str, Any]) -> str:
    """Return the SHA-256 digest of a card's fields."""
    return hashlib.sha256(json.dumps(card).encode()).hexdigest()
