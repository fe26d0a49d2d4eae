"""Load a published metric with weights from any supported source."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxiqa.core.checks import check_choice
from jaxiqa.core.differences import SHOWN
from jaxiqa.core.registry import check_options
from jaxiqa.models import saved_model
from jaxiqa.models.registry import MODELS
from jaxiqa.models.spec import ModelSpec
from jaxiqa.models.zoo import SHIPPED, folder_of, is_complete
from jaxiqa.nn.backbones import BACKBONES
from jaxiqa.pretrained import download, key_map
from jaxiqa.pretrained.containers import Contents, from_mapping
from jaxiqa.pretrained.files import contents

Weights = Mapping[str, Any] | str | os.PathLike[str]

MODEL, OPTIONS = "jaxiqa_model", "jaxiqa_options"
"""Fields in the header of a converted file: the model's name, and its options as JSON."""

load_run = saved_model.load


@dataclass(frozen=True)
class Loaded:
    """A metric, and how each entry of the file was used.

    Attributes:
        model: the metric.
        options: that it was built with.
        mapped: the parameter that each array became.
        extras: entries used that are not parameters (a calibration).
        left_out: entries not used: name -> what it is.
    """

    model: nnx.Module
    options: dict[str, Any]
    mapped: list[key_map.Mapped]
    extras: dict[str, np.ndarray]
    left_out: dict[str, str]


def load(name: str, weights: Weights | None = None, **options: Any) -> nnx.Module:
    """Load a metric with trained weights, in evaluation mode.

    Args:
        name: a key of `jaxiqa.models.zoo.SHIPPED` or the address of a trained metric on the Hugging Face hub,
            ``hf://owner/name`` or ``hf://owner/name@revision`` (`jaxiqa.pretrained.hub.fetch`), which need no weights;
            or a key of `jaxiqa.models.MODELS`.
        weights: one of

            - a dict of arrays under the original parameter names;
            - a path: a file as its authors published it, in another format that `jaxiqa.pretrained.files.read` reads,
              or written by ``jaxiqa convert``;
            - a name in ``MODELS[name].weights``: downloaded once and cached;
            - the folder of a training run, a file in it, or a parent folder with only this run;
            - the address on the hub of a metric of this name, or a key of `jaxiqa.models.zoo.SHIPPED`.
        **options: of the metric, such as its protocol; see its class.

    Raises:
        FileNotFoundError: the file does not exist or cannot be downloaded; the message says where to get it.
        ValueError: an unknown name or option, missing weights, a damaged file, or weights that do not fit. One message
            lists all missing, unknown and misshapen arrays, and the model that the checkpoint seems to belong to.

    >>> import jax.numpy as jnp
    >>> image = jnp.full((1, 192, 256, 3), 0.5)  # b h w c, in [0, 1]
    >>> load("jaxiqa-base")(image).shape
    (1,)
    >>> load("musiq")
    Traceback (most recent call last):
    ValueError: name='musiq' is not allowed; choose from 'jaxiqa-base'...
    """
    return load_and_report(name, weights, **options).model


def find(name: str, weights: str | os.PathLike[str], options: Mapping[str, Any]) -> Any:
    """Return the trained metric that ``weights`` names, or None if the file holds arrays of something else.

    Args:
        name: a key of `jaxiqa.models.MODELS`.
        weights: as in `load`, but no dict.
        options: of the metric; a training run must have been built with them.

    Raises:
        FileNotFoundError: the file does not exist or cannot be downloaded.
        ValueError: the file is damaged, or the run has other options.
    """
    published = MODELS[name]
    path = _path(name, published, weights)
    if folder := saved_model.run_folder(path):
        model = _run(name, folder, {})
        built = dict(model.options)
        if others := {key: built.get(key) for key, value in options.items() if built.get(key) != value}:
            raise ValueError(
                f"the trained model in {folder} has {others}, not { ({key: options[key] for key in others}) }"
            )
        return model
    found = contents(path)
    arrays = key_map.without_prefix(published.adapt(found.arrays), published.rules)
    known = all(key in published.extras or key_map.knows(key, published.rules) for key in arrays)
    if not known and found.metadata.get(MODEL) is None:
        return None
    return _fill(name, published, found, dict(options), source=str(path)).model


def load_and_report(name: str, weights: Weights | None = None, **options: Any) -> Loaded:
    """Load as `load` does; also return how each entry of the file was used."""
    if is_complete(name):
        return _complete(name, weights, options)
    check_choice("name", name, (*SHIPPED, *MODELS))
    published = MODELS[name]
    if weights is None:
        known = ", ".join(map(repr, published.weights)) or "none"
        raise ValueError(
            f"{name} needs weights: a file, the folder of a training run, an address on the hub, or one of its known "
            f"names ({known}). These need none: {', '.join(SHIPPED)}"
        )
    check_options(name, published.build, options, hidden=("rngs",))
    if isinstance(weights, Mapping):
        found = from_mapping(weights)
        arrays = found.arrays | found.numbers  # every entry of a dict must be used
        return _fill(name, published, replace(found, arrays=arrays, numbers={}), options, source=f"weights of {name}")
    path = _path(name, published, weights)
    if folder := saved_model.run_folder(path):
        return Loaded(_run(name, folder, options), {}, [], {}, {})
    return _fill(name, published, contents(path), options, source=str(path))


def _complete(name: str, weights: Weights | None, options: Mapping[str, Any]) -> Loaded:
    """Load a metric that has weights of its own."""
    if given := ["weights"] * (weights is not None) + list(options):
        raise ValueError(f"{name} has weights of its own and takes no options, but got {', '.join(given)}")
    return Loaded(load_run(name), {}, [], {}, {})


def _path(name: str, published: ModelSpec, chosen: str | os.PathLike[str]) -> Path:
    if isinstance(chosen, str) and chosen in published.weights:
        return download.fetch(published.weights[chosen], chosen, model=name)
    if is_complete(chosen):
        return folder_of(str(chosen))
    path = Path(chosen).expanduser()
    if not path.exists():
        known = ", ".join(map(repr, published.weights)) or "none"
        raise FileNotFoundError(
            f"weights={str(chosen)!r} is neither a file, nor the folder of a training run, nor one of the published "
            f"weights of {name} ({known})"
        )
    return path


def _run(name: str, folder: Path, options: Mapping[str, Any]) -> Any:
    model = load_run(folder)
    trained = json.loads((folder / "model.json").read_text())["model"]
    if trained != name:
        raise ValueError(f"{folder} holds a trained {trained}, not a {name}")
    if options:
        raise ValueError(f"the trained model in {folder} takes no options, but got {', '.join(options)}")
    return model


def _fill(name: str, published: ModelSpec, found: Contents, options: dict[str, Any], *, source: str) -> Loaded:
    rules = published.rules
    if owner := found.metadata.get(MODEL):
        if owner != name:
            raise ValueError(f"{source} holds a converted {owner}; load it as such: jaxiqa.load({owner!r}, ...)")
        rules = key_map.IDENTITY
        options = json.loads(found.metadata.get(OPTIONS, "{}")) | options
    everything = found.numbers | found.arrays
    extras = {key: everything[key] for key in published.extras if key in everything}
    arrays = {key: array for key, array in found.arrays.items() if key not in extras}
    if not owner:
        arrays = key_map.without_prefix(published.adapt(arrays), rules)
    model = nnx.eval_shape(lambda: published.build(rngs=nnx.Rngs(0), **options))
    try:
        mapped = key_map.fill(model, arrays, rules, source=source)
    except ValueError as error:
        raise ValueError(f"{_owner(name, model, arrays)}{error}{_unused(found)}") from None
    model.reset_calibration()
    published.finish(model, extras)
    empty = [
        path for path, leaf in nnx.to_flat_state(nnx.state(model)) if isinstance(leaf.get_value(), jax.ShapeDtypeStruct)
    ]
    if empty:
        raise RuntimeError(f"{name}: neither its rules nor its finish() sets {empty}")
    unused = {key: f"{value.tolist()}" for key, value in found.numbers.items() if key not in extras}
    return Loaded(model, options, mapped, extras, unused | found.left_out)


def _unused(found: Contents) -> str:
    chosen = f"\n  the entry {found.entry!r} was taken" if found.entry else ""
    if not found.left_out:
        return chosen
    names = [f"{key} ({what})" for key, what in list(found.left_out.items())[:SHOWN]]
    more = f" and {len(found.left_out) - SHOWN} more" if len(found.left_out) > SHOWN else ""
    return f"{chosen}\n  not used: {', '.join(names)}{more}"


def _owner(name: str, model: nnx.Module, arrays: Mapping[str, np.ndarray]) -> str:
    """Return a line that names the model this checkpoint seems to belong to: the one whose rules know every array."""

    some = dict(list(arrays.items())[:20])  # a quick test that excludes most models

    def fits(rules: Any, extras: tuple[str, ...] = ()) -> bool:
        return all(
            all(key in extras or key_map.knows(key, rules) for key in key_map.without_prefix(part, rules))
            for part in (some, arrays)
        )

    if fits(MODELS[name].rules):
        return ""
    if len(arrays.keys() & key_map.parameters(model).keys()) * 2 > len(arrays):
        return "this seems to be the model.safetensors of a training run, which needs the model.json beside it: "
    for other, published in MODELS.items():
        if other != name and fits(published.rules, published.extras):
            return f"this seems to be a checkpoint of {other}, to be loaded as jaxiqa.load({other!r}, ...): "
    for backbone, spec in BACKBONES.items():
        if fits((*spec.rules, *spec.classifier_rules)):
            return f"this seems to be an image classifier such as {backbone}, not a quality metric: "
    return ""
