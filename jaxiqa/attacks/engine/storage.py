"""Files of fitted attacks: arrays and options in one ``.safetensors`` file.

The header names the attack and holds a digest of all other content, so that any changed byte is found on reading.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxiqa.core.files import DamagedError, write_bytes

KIND, OPTIONS, FORMAT, SEAL = "jaxiqa_attack", "jaxiqa_options", "format", "jaxiqa_seal"
"""Keys of the header: the name of the attack; its options as JSON; the version of the format, 2; the digest."""


def write(path: str | Path, kind: str, arrays: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Write ``arrays`` and the header; a file never exists in part.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> write(path, "uap", {"delta": jnp.zeros((2, 3, 3))}, {"amplitude": 0.5})
    >>> arrays, options = read(path, "uap")
    >>> arrays["delta"].shape, options
    ((2, 3, 3), {'amplitude': 0.5})
    """
    numbers = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header = {KIND: kind, OPTIONS: json.dumps(dict(options)), FORMAT: "2"}
    write_bytes(Path(path), safetensors.numpy.save(numbers, header | {SEAL: _seal(numbers, header)}))


def read(path: str | Path, kind: str) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Read a file of `write`: arrays by name, and options.

    An old file without a header is accepted as this ``kind``; a file of format 1 has no digest.

    Raises:
        FileNotFoundError: the file does not exist.
        jaxiqa.core.files.DamagedError: the file was changed or cut off; the message names it.
        ValueError: the file holds another attack, or values that are not finite.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        options = json.loads(header.get(OPTIONS, "{}"))
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise DamagedError(f"{path}: damaged file of a fitted attack: {error}") from error
    seal = header.pop(SEAL, None)
    older = seal is None and header.get(FORMAT, "1") == "1" and header.keys() <= {KIND, OPTIONS, FORMAT}
    if not older and seal != _seal(arrays, header):
        raise DamagedError(f"{path}: damaged file of a fitted attack: it was changed after it was written")
    if header.get(KIND, kind) != kind:
        raise ValueError(f"{path}: holds a fitted {header[KIND]}, not a {kind}")
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} ({array.dtype}) must hold finite floating-point values")
    return {name: jnp.asarray(array) for name, array in arrays.items()}, options


def _seal(arrays: Mapping[str, np.ndarray], header: Mapping[str, str]) -> str:
    """Return the SHA-256 digest of the header and of all arrays: names, types, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(dict(sorted(header.items()))).encode())
    for name, array in sorted(arrays.items()):
        digest.update(repr((name, str(array.dtype), array.shape)).encode() + np.asarray(array, order="C").tobytes())
    return digest.hexdigest()
