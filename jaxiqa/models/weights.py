"""Reading files of published weights. Nothing in a file is ever executed."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy


@dataclass(frozen=True)
class Source:
    """Where a published file lies.

    Attributes:
        url: of the file itself; None where a person has to fetch it from ``page``.
        page: where its authors offer it.
        sha256: its digest, or the leading part that is known; None where nothing is known.
        size: bytes, or None where unknown.
    """

    url: str | None
    page: str
    sha256: str | None = None
    size: int | None = None


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Arrays of a ``.safetensors`` file, under the names they have in it.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another suffix, or is damaged; the message names it.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "w.safetensors"
    >>> safetensors.numpy.save_file({"bias": np.zeros(2, np.float32)}, path)
    >>> read(path)
    {'bias': array([0., 0.], dtype=float32)}
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights={str(path)!r} is not allowed; this reads .safetensors files")
    if not path.is_file():
        raise FileNotFoundError(f"weights file {str(path)!r} does not exist")
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"weights file {str(path)!r} is damaged or not a safetensors file: {error}") from error
