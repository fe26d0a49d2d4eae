"""Files of fitted attacks: arrays and options in one ``.safetensors``, which says in its header what it is.

The header holds a digest of all the rest, so that a change of any byte is noticed when the file is read.
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
"""What the header holds: which attack it is; its options, as JSON; the version of the format, 2; and the digest."""


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
    header = {KIND: kind, OPTIONS: json.dumps(dict(options)), FORMAT: "2"}
    write_bytes(Path(path), safetensors.numpy.save(numbers, header | {SEAL: _seal(numbers, header)}))


def read(path: str | Path, kind: str) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """What `write` wrote: arrays by name, and options.

    A file without a header, from before there was one, is taken to be of this kind; one of format 1 has no digest.

    Raises:
        FileNotFoundError: there is no such file.
        jaxiqa.core.files.DamagedError: the file is not as it was written; the message names it.
        ValueError: it holds another attack, or values that are not finite.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        options = json.loads(header.get(OPTIONS, "{}"))
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise DamagedError(f"{path}: not a whole file of a fitted attack: {error}") from error
    seal = header.pop(SEAL, None)
    older = seal is None and header.get(FORMAT, "1") == "1" and header.keys() <= {KIND, OPTIONS, FORMAT}
    if not older and seal != _seal(arrays, header):
        raise DamagedError(f"{path}: not a whole file of a fitted attack: it was changed after it was written")
    if header.get(KIND, kind) != kind:
        raise ValueError(f"{path}: holds a fitted {header[KIND]}, not a {kind}")
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} is {array.dtype} or has NaN or infinite values")
    return {name: jnp.asarray(array) for name, array in arrays.items()}, options


def _seal(arrays: Mapping[str, np.ndarray], header: Mapping[str, str]) -> str:
    """The SHA-256 digest of the header and of all arrays: names, types, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(dict(sorted(header.items()))).encode())
    for name, array in sorted(arrays.items()):
        digest.update(repr((name, str(array.dtype), array.shape)).encode() + np.asarray(array, order="C").tobytes())
    return digest.hexdigest()
