"""Files of fitted attacks: arrays and options in one ``.safetensors``, which says in its header what it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxiqa.core.files import write_bytes

KIND, OPTIONS = "jaxiqa_attack", "jaxiqa_options"
"""What the header holds: which attack it is, and its options, as JSON."""


def write(path: str | Path, kind: str, arrays: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Write ``arrays`` and the header; the file is there whole or not at all.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> write(path, "uap", {"delta": jnp.zeros((2, 3, 3))}, {"amplitude": 0.5})
    >>> arrays, options = read(path, "uap")
    >>> arrays["delta"].shape, options
    ((2, 3, 3), {'amplitude': 0.5})
    """
    numbers = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header = {KIND: kind, OPTIONS: json.dumps(dict(options)), "format": "1"}
    write_bytes(Path(path), safetensors.numpy.save(numbers, header))


def read(path: str | Path, kind: str) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """What `write` wrote: arrays by name, and options.

    A file without a header, from before there was one, is taken to be of this kind.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds another attack, or values that are not finite; the message names it.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        options = json.loads(header.get(OPTIONS, "{}"))
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a whole file of a fitted attack: {error}") from error
    if header.get(KIND, kind) != kind:
        raise ValueError(f"{path}: holds a fitted {header[KIND]}, not a {kind}")
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} is {array.dtype} or has NaN or infinite values")
    return {name: jnp.asarray(array) for name, array in arrays.items()}, options
