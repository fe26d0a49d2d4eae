"""A trained metric on disk: ``model.json`` describes it, ``model.safetensors`` holds its parameters."""

import gzip
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax import nnx

from jaxiqa.core.checks import check_choice
from jaxiqa.core.differences import listed
from jaxiqa.core.files import write_bytes, write_text
from jaxiqa.models import card
from jaxiqa.models.metric import Metric
from jaxiqa.models.zoo import folder_of, is_complete
from jaxiqa.pretrained import files, hub, key_map
from jaxiqa.pretrained.quantised import quantise, restore

KERNELS = ("float32", "int8")


def save(model: Metric, folder: str | Path, *, kernels: str = "float32") -> None:
    """Write the metric into ``folder``; the weights first, so that a card always describes existing weights.

    Args:
        model: the metric.
        folder: is made if it does not exist.
        kernels: ``"float32"``, or ``"int8"``: those of ordinary convolutions and linear layers take about a quarter of
            the bytes (`jaxiqa.pretrained.quantised`), and scores change a little. Orthogonal maps are always float32.

    Raises:
        ValueError: the model is not calibrated yet, or could not be loaded again: it was folded, compacted or
            materialized, or its modules were changed by hand; or ``kernels`` is not allowed.
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
    check_choice("kernels", kernels, KERNELS)
    folder = Path(folder)
    described = card.describe(model)
    arrays = {name: np.asarray(variable[...]) for name, variable in key_map.parameters(model).items()}
    if kernels == "int8":
        arrays = quantise(arrays, _kernels(model))
    content = safetensors.numpy.save(arrays)
    described |= {"sha256": hashlib.sha256(content).hexdigest()}
    _check_arrays(model, described)
    text = json.dumps(described | {"seal": _seal(described)}, indent=1)  # before anything is overwritten
    write_bytes(folder / "model.safetensors", content)
    write_text(folder / "model.json", text)


def run_folder(path: str | Path) -> Path | None:
    """Return the folder of the trained model that ``path`` refers to, or None for a file that belongs to none.

    The path may be the folder itself, its ``model.safetensors`` or ``model.json``, or a parent folder with exactly one
    trained model: ``runs/mine/baseline`` for ``runs/mine/baseline/seed0``. It may also be the name of a metric that
    comes with the package, or an address on the hub, ``hf://owner/name`` (`jaxiqa.models.zoo.folder_of`).

    Raises:
        FileNotFoundError: this folder or address has no trained model.
        ValueError: it has several; all are listed.
    """
    if is_complete(path):
        return folder_of(str(path))
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
    try:
        return _read(found)
    except ValueError as error:
        if copy := hub.cached_repository(found):
            raise ValueError(f"{error}; to download it again, delete {copy}") from error
        raise


def _read(folder: Path) -> Metric:
    path = folder / "model.json"
    try:
        found_card: Any = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    described: dict[str, Any] = found_card if isinstance(found_card, dict) else {}
    # The seal covers the card as it was written; None: the card is older than seals.
    changed = described.pop("seal", None) not in (None, _seal(described))
    described = card.current(described)
    card.check(described, path)
    file, content = _weights(folder)
    arrays = restore(safetensors.numpy.load(content) if content else files.read(file))
    if hashlib.sha256(content or file.read_bytes()).hexdigest() != described["sha256"]:
        raise ValueError(f"{file} does not match the digest in model.json; it is damaged or belongs to another model")
    model = nnx.eval_shape(lambda: card.build(described))
    key_map.fill(model, arrays, key_map.IDENTITY, source=str(file))
    if changed:
        raise ValueError(f"{path} is damaged: it was changed after it was written; restore it, or train again")
    card.calibrate(model, described)
    return model


def _weights(folder: Path) -> tuple[Path, bytes | None]:
    """Return the file of the weights and, if it is a packed one of the package, what is in it."""
    file, packed = folder / "model.safetensors", folder / "model.safetensors.gz"
    if file.exists() or not packed.exists():
        return file, None
    try:
        return packed, gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{packed} is damaged: {error}") from error


def _kernels(model: Metric) -> set[str]:
    """Return the names of the kernels of ordinary layers: any values of theirs are allowed."""
    layers = (nnx.Conv, nnx.Linear)
    paths = {path for path, module in nnx.iter_modules(model) if isinstance(module, layers)}
    return {".".join(map(str, (*path, "kernel"))) for path in paths}


def _check_arrays(model: Metric, described: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless the model that `load` would build has the same arrays."""
    found, expected = (
        {name: tuple(variable.shape) for name, variable in key_map.parameters(each).items()}
        for each in (model, nnx.eval_shape(lambda: card.build(described)))
    )
    if found != expected:
        different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ValueError(
            f"{len(different)} arrays, such as {different[0]}, differ from those of the {described['model']} that the "
            "card describes, so the model could not be loaded again; save it before it is folded, compacted or "
            "materialized"
        )


def _seal(card: dict[str, Any]) -> str:
    """Return the SHA-256 digest of a card's fields."""
    return hashlib.sha256(json.dumps(card).encode()).hexdigest()
