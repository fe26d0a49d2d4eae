"""Build a purifier from a config or the command line: one of the library or of a user's file."""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.config import Defense
from jaxiqa.defenses import purify
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.evaluation.networks import load_networks
from jaxiqa.results.rows import UNDEFENDED

CONTRACT = (
    "a purifier is purifier(images, key) -> images: float images b h w c in [0, 1] and one key of jax.random; "
    "a class is called with the options first"
)


def build(label: str, chosen: Defense) -> Callable[..., Any]:
    """Build the purifier of a config.

    Raises:
        ValueError: the name, an option or the preset is unknown, or the file does not hold a purifier; the message says
            what a purifier is.
    """
    if label == UNDEFENDED:
        return Undefended()
    try:
        networks = load_networks(chosen.networks)
        if ".py:" in chosen.name:
            if chosen.preset is not None:
                raise ValueError(f"preset={chosen.preset}: a purifier from a file has no presets; use options")
            return _from_file(chosen.name, chosen.options | networks)
        options = dict(chosen.options)
        if chosen.preset is not None:
            presets = purify.PRESETS.get(chosen.name, ())
            if not 0 <= chosen.preset < len(presets):
                raise ValueError(f"preset={chosen.preset}: {chosen.name} has {len(presets)} presets, counted from 0")
            options = {**presets[chosen.preset], **options}
        return purify.make(chosen.name, **options, **networks)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"defense {label!r}: {error}") from error


def source_digest(chosen: Defense) -> str | None:
    """Return the SHA-256 digest of the file of a user's purifier; rows of an earlier version are not reused."""
    path = Path(chosen.name.rpartition(":")[0])
    return hashlib.sha256(path.read_bytes()).hexdigest() if ".py:" in chosen.name and path.is_file() else None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Undefended:
    """The identity: the metric without a defense."""

    random: ClassVar[bool] = False

    def __call__(self, images: Any, key: Any = None) -> Any:
        return images


def _from_file(name: str, options: dict[str, Any]) -> Callable[..., Any]:
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    spec = importlib.util.spec_from_file_location(f"defense_{path.stem}", path)
    assert spec is not None  # the file ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, attribute):
        raise ValueError(f"{path} has no {attribute}")
    found = getattr(module, attribute)
    if isinstance(found, type):
        try:
            found = found(**options)
        except TypeError as error:
            raise ValueError(f"{name}: {error}; {CONTRACT}") from error
    elif options:
        raise ValueError(f"{name} is not a class, so it takes no options; got {', '.join(options)}")
    if not callable(found):
        raise ValueError(f"{name} cannot be called; {CONTRACT}")
    if jax.tree_util.all_leaves([found]):
        try:
            hash(found)
        except TypeError as error:
            raise ValueError(
                f"{name} cannot be hashed; make it a frozen dataclass, best registered by "
                "jax.tree_util.register_dataclass"
            ) from error
    return found


def check_size(evaluated: EvaluatedModel, label: str, purifier: Callable[..., Any]) -> None:
    """Check that a purifier accepts the size of the attacked images, and the metric its output; else ``ValueError``.

    Nothing is computed, except for a purifier that JAX cannot trace: it purifies one grey image.
    """
    images, key = jax.ShapeDtypeStruct((1, *evaluated.size, 3), jnp.float32), jax.random.key(0)
    try:
        try:
            purified = jax.eval_shape(lambda x: purifier(x, key), images)
        except Exception:  # some use NumPy or Pillow; the next line raises the error, if any
            purified = purifier(jnp.full(images.shape, 0.5), key)
        size = tuple(np.shape(purified))[1:3]
        metric = evaluated.score_at(size)  # built before tracing
        jax.eval_shape(lambda x: metric(x), jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    except ValueError as error:
        height, width = evaluated.size
        raise ValueError(f"defense {label!r} on images of {height}x{width}: {error}") from error


def check_output(label: str, images: Any, purified: Any) -> None:
    """Check that ``purified`` is a valid output of a purifier for ``images``; else raise ``ValueError``."""
    shape: tuple[int, ...] = getattr(purified, "shape", ())
    if len(shape) != 4 or (shape[0], shape[3]) != (images.shape[0], images.shape[3]):
        raise ValueError(
            f"defense {label!r} returned shape {tuple(shape)} for images {tuple(images.shape)}; {CONTRACT}"
        )
    values = np.asarray(purified)  # in NumPy: for XLA the minimum of only NaN is infinite
    low, high = float(values.min()), float(values.max())
    if not (low >= -1e-5 and high <= 1 + 1e-5):  # NaN fails too
        raise ValueError(f"defense {label!r} returned values in [{low}, {high}]; expected [0, 1]; {CONTRACT}")
