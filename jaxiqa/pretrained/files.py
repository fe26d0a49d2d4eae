"""Read files of published weights. Nothing in a file is ever executed."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxiqa.pretrained import pickles
from jaxiqa.pretrained.budget import Budget
from jaxiqa.pretrained.containers import Contents, unpack
from jaxiqa.pretrained.keras_files import read_h5
from jaxiqa.pretrained.libsvm_files import START, read_libsvm
from jaxiqa.pretrained.safetensors_files import is_safetensors, read_safetensors
from jaxiqa.pretrained.torch_files import read_archive, read_pickle
from jaxiqa.pretrained.zip_files import opened, read_npz

FORMATS = (
    "supported are .safetensors, PyTorch's files (.pth, .pt, .pkl), NumPy's .npz, Keras' .h5 and libsvm's regressions"
)
OLD_PICKLES = b"(}]c"
"""Possible first bytes of a pickle of protocol 0 or 1, which has no signature: a mark, a dict, a list, a call."""


@dataclass(frozen=True)
class WeightsUrl:
    """Address of a published file.

    Attributes:
        url: of the file itself; None if it must be downloaded by hand from ``page``.
        page: where its authors offer it.
        sha256: its digest, or the known leading part of it; None if unknown.
        size: bytes, or None if unknown.
        installed: its path below a folder of installed packages, if a package on PyPI contains it.
    """

    url: str | None
    page: str
    sha256: str | None = None
    size: int | None = None
    installed: str | None = None


def read(path: str | os.PathLike[str], *, entry: str | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of a weight file under their names in the file, and the lists of numbers beside them.

    The format is detected from the first bytes, not from the suffix: ``.safetensors``, PyTorch's (before version 1.6
    and since, including whole pickled modules), plain pickles of arrays, ``.npz``, Keras' ``.h5`` (with h5py) and
    libsvm's text files of a regression.
    Of ``params`` and ``params_ema`` the average is used (`jaxiqa.pretrained.containers.unpack`).
    `contents` also returns what was not used.

    Args:
        path: the file.
        entry: the entry to use if a file has several, such as ``"params"`` beside ``"params_ema"``.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has none of these formats, is damaged, costs more than any sound weight file
            (`jaxiqa.pretrained.budget`), or has no arrays; the message names it.
        ImportError: it is an ``.h5`` file, and h5py is not installed.

    >>> import tempfile, pathlib, safetensors.numpy
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "w.safetensors"
    >>> safetensors.numpy.save_file({"bias": np.zeros(2, np.float32)}, path)
    >>> read(path)
    {'bias': array([0., 0.], dtype=float32)}
    """
    found = contents(path, entry=entry)
    return found.arrays | {name: numbers for name, numbers in found.numbers.items() if numbers.ndim}


def contents(path: str | os.PathLike[str], *, entry: str | None = None) -> Contents:
    """Read a file as `read` does; also return what is beside the parameters. Errors are those of `read`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights file {str(path)!r} {_what_it_is(path)}")
    try:
        budget = Budget(size=path.stat().st_size)
        tree, metadata = _tree(path, budget)
        return replace(unpack(tree, entry=entry, budget=budget), metadata=metadata)
    except pickles.FAULTS as error:
        raise ValueError(f"weights file {str(path)!r} is damaged or cannot be read: {error}") from error


def _what_it_is(path: Path) -> str:
    if path.is_dir():
        return "is a folder"
    return "is no regular file" if path.exists() else "does not exist"


def _tree(path: Path, budget: Budget) -> tuple[Any, dict[str, str]]:
    """Return the contents in the format shown by the first bytes, and the texts in the header."""
    with open(path, "rb") as file:
        start = file.read(16)
        file.seek(-min(budget.size, 1), os.SEEK_END)
        end = file.read(1)
    if is_safetensors(start):  # first: the length in its first bytes may look like any other format
        return read_safetensors(path)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        with opened(path, budget) as archive:
            arrays = bool(archive.names) and all(name.endswith(".npy") for name in archive.names)
            return read_npz(archive) if arrays else read_archive(archive), {}
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return read_h5(path, budget), {}
    if start[:1] == b"\x80" or (start[:1] in [bytes([byte]) for byte in OLD_PICKLES] and end == b"."):
        return read_pickle(path, budget), {}
    if start.startswith(START):
        return read_libsvm(path, budget), {}
    if start.lstrip()[:1] == b"<":
        raise ValueError("it is a web page, not weights; download the file again")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    raise ValueError(f"its first bytes are {start!r}; {FORMATS}")
